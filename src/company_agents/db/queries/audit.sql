-- name: audit_append
-- The chains that have moved on; and the sealed secrets that were asked for with it, numbered.
SELECT a.chain, a.seq, a.mac, NULL AS n, NULL AS id, NULL AS company_id, NULL AS name, NULL AS value, NULL AS nonce,
       NULL AS key_id
FROM audit_append(%s::uuid[], %s::bigint[], %s, %s::int[], %s, %s, %s) a
UNION ALL
SELECT NULL, NULL, NULL, s.* FROM secret_lookup(%s::uuid[], %s::uuid[]) s;

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

-- name: audit_key_of_head
-- Under which audit key the chain of the instance goes on.
SELECT greatest(coalesce(h.audit_key, 0), i.audit_keys_lost) AS audit_key
FROM instance i LEFT JOIN audit_heads h ON h.chain = i.id;

-- name: audit_keys_lost
SELECT audit_keys_lost AS number FROM instance;

-- name: audit_chains_before
-- The chains of companies that go on under an older audit key than this.
SELECT h.chain FROM audit_heads h JOIN companies c ON c.id = h.chain WHERE h.audit_key < %(number)s ORDER BY h.chain;
