-- name: audit_append
SELECT * FROM audit_append(%s::uuid[], %s::bigint[], %s, %s::int[], %s, %s, %s);

-- name: audit_hold_time
-- A replica that stands still while it holds them loses its connection, and the others go on.
SET LOCAL idle_in_transaction_session_timeout = '5s';

-- name: audit_hold
SELECT * FROM audit_hold(%s::uuid[]);

-- name: audit_chain
SELECT seq, record, audit_key, mac FROM audit_events WHERE chain = %(chain)s ORDER BY seq;

-- name: audit_one_moment
-- Before the first reading: what this transaction reads is all of one moment.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;

-- name: audit_head
SELECT seq, mac FROM audit_heads WHERE chain = %(chain)s;

-- name: audit_newest
SELECT seq, record FROM audit_events
WHERE chain = %(chain)s AND (%(before)s::bigint IS NULL OR seq < %(before)s) ORDER BY seq DESC LIMIT %(limit)s;

-- name: audit_after
SELECT seq, record FROM audit_events WHERE chain = %(chain)s AND seq > %(after)s ORDER BY seq LIMIT 1000;

-- name: audit_chains
SELECT DISTINCT chain FROM audit_events ORDER BY chain;
