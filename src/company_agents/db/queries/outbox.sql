-- name: webhooks_due
SELECT * FROM companies_with_webhooks_due(%s);

-- name: webhook_insert
-- It begins with what happens from now on.
INSERT INTO webhooks (id, company_id, url, events, secret_id, seq, instance_seq)
VALUES (%(id)s, %(company_id)s, %(url)s, %(events)s, %(secret_id)s,
        coalesce((SELECT h.seq FROM audit_heads h WHERE h.chain = %(company_id)s), 0), %(instance_seq)s);

-- name: webhook_list
SELECT w.id, w.company_id, w.url, w.events, w.status, w.status_reason, w.status_since, w.failing_since,
       w.previous_until, w.created_at, w.updated_at,
       (SELECT count(*) FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.state = 'waiting') AS waiting
FROM webhooks w
WHERE %(after_at)s::timestamptz IS NULL OR (w.created_at, w.id) > (%(after_at)s, %(after_id)s::uuid)
ORDER BY w.created_at, w.id LIMIT %(limit)s;

-- name: webhook_get
SELECT w.id, w.company_id, w.url, w.events, w.status, w.status_reason, w.status_since, w.failing_since,
       w.previous_until, w.created_at, w.updated_at,
       (SELECT count(*) FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.state = 'waiting') AS waiting
FROM webhooks w WHERE w.id = %(id)s;

-- name: webhook_count
SELECT count(*) AS webhooks FROM webhooks;

-- name: webhook_hold
SELECT w.id, w.status, w.secret_id, w.failing_since, coalesce(w.previous_until <= now(), false) AS retiring
FROM webhooks w WHERE w.id = %(id)s FOR UPDATE;

-- name: webhook_rotated
UPDATE webhooks SET previous_until = %(previous_until)s, updated_at = now() WHERE id = %(id)s;

-- name: webhook_enable
-- What waits is tried at once.
WITH enabled AS (
    UPDATE webhooks SET status = 'enabled', status_reason = '', status_since = now(), failing_since = NULL,
                        updated_at = now()
    WHERE id = %(id)s RETURNING id)
UPDATE webhook_deliveries d SET due_at = now(), attempts = 0, first_tried_at = NULL
FROM enabled WHERE d.webhook_id = enabled.id AND d.state = 'waiting';

-- name: webhook_disable
UPDATE webhooks SET status = 'disabled', status_reason = %(reason)s, status_since = now(), updated_at = now()
WHERE id = %(id)s AND status = 'enabled';

-- name: webhook_delete
DELETE FROM webhooks WHERE id = %(id)s;

-- name: locate_webhook
SELECT company_id FROM webhooks WHERE id = %(id)s;

-- name: webhooks_behind
-- The enabled webhooks of a company that have events before them, with the ends up to which these are read now.
SELECT w.id, w.events, w.seq, w.instance_seq,
       coalesce((SELECT h.seq FROM audit_heads h WHERE h.chain = w.company_id), 0) AS head
FROM webhooks w WHERE w.status = 'enabled' ORDER BY w.id;

-- name: webhook_move
-- Only from where it was read: another replica may have been faster.
UPDATE webhooks SET seq = %(seq)s, instance_seq = %(instance_seq)s
WHERE id = %(id)s AND seq = %(from_seq)s AND instance_seq = %(from_instance_seq)s AND status = 'enabled';

-- name: audit_wanted
-- Events of some actions, after one and up to another. A quote within a text of the record is escaped there, so that
-- what is looked for is the field and nothing else.
SELECT e.seq, e.record FROM audit_events e
WHERE e.chain = %(chain)s AND e.seq > %(after)s AND e.seq <= %(upto)s AND e.record LIKE ANY (%(patterns)s)
ORDER BY e.seq LIMIT %(limit)s;

-- name: delivery_insert
INSERT INTO webhook_deliveries (id, company_id, webhook_id, message_id, type, payload, claim, claimed_until, attempts,
                                first_tried_at, tried_at)
SELECT %(id)s, %(company_id)s, %(webhook_id)s, %(message_id)s, %(type)s, %(payload)s, c.claim,
       c.moment + %(claim_seconds)s * interval '1 second', (c.claim IS NOT NULL)::int, c.moment, c.moment
FROM (SELECT %(claim)s::uuid AS claim, CASE WHEN %(claim)s::uuid IS NOT NULL THEN now() END AS moment) c
ON CONFLICT (webhook_id, message_id) DO NOTHING;

-- name: delivery_claim
-- The oldest that are due and that nobody has; an attempt counts from here, so that one that ends with its process does too.
-- Materialized: a plan that looked again for each row would pass over those it just locked, and claim more than the limit.
WITH mine AS MATERIALIZED (
    SELECT due.id FROM webhook_deliveries due JOIN webhooks w ON w.id = due.webhook_id AND w.status = 'enabled'
    WHERE due.webhook_id = %(webhook_id)s AND due.state = 'waiting' AND due.due_at <= now()
      AND (due.claimed_until IS NULL OR due.claimed_until <= now())
    ORDER BY due.due_at, due.created_at LIMIT %(limit)s FOR UPDATE OF due SKIP LOCKED)
UPDATE webhook_deliveries d
SET claim = %(claim)s, claimed_until = now() + %(seconds)s * interval '1 second', attempts = d.attempts + 1,
    first_tried_at = coalesce(d.first_tried_at, now()), tried_at = now()
FROM mine WHERE d.id = mine.id
RETURNING d.id, d.webhook_id, d.message_id, d.type, d.payload, d.attempts, d.first_tried_at;

-- name: delivery_ended
UPDATE webhook_deliveries
SET state = %(state)s, due_at = now() + %(wait)s * interval '1 second', claim = NULL, claimed_until = NULL,
    tried_at = now(), answer = %(answer)s, error = %(error)s
WHERE id = %(id)s AND claim = %(claim)s;

-- name: webhook_succeeded
UPDATE webhooks SET failing_since = NULL WHERE id = %(id)s AND failing_since IS NOT NULL;

-- name: webhook_failed
-- For long: some message was tried often enough, the last time since it began to fail.
UPDATE webhooks w SET failing_since = coalesce(w.failing_since, now()) WHERE w.id = %(id)s
RETURNING w.failing_since <= now() - %(seconds)s * interval '1 second'
    AND EXISTS (SELECT FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.state <> 'delivered'
                AND d.attempts >= %(attempts)s AND d.tried_at >= w.failing_since) AS for_long;

-- name: delivery_list
SELECT id, message_id, type, state, attempts, due_at, tried_at, answer, error, created_at
FROM webhook_deliveries WHERE webhook_id = %(webhook_id)s ORDER BY created_at DESC, id LIMIT %(limit)s;

-- name: deliveries_old
SELECT * FROM companies_with_old_deliveries();

-- name: deliveries_forget
WITH old AS MATERIALIZED (
    SELECT d.id FROM webhook_deliveries d JOIN webhooks w ON w.id = d.webhook_id
    WHERE d.state <> 'waiting' AND d.created_at < now() - interval '30 days' LIMIT %(limit)s)
DELETE FROM webhook_deliveries d USING old WHERE d.id = old.id;

-- name: webhooks_retiring
SELECT id FROM webhooks WHERE previous_until <= now();

-- name: audit_ends
SELECT * FROM audit_ends(%s);

-- name: audit_sink_cursor
SELECT seq, mac FROM audit_sink_cursors WHERE sink = %(sink)s AND chain = %(chain)s;

-- name: audit_sink_begin
INSERT INTO audit_sink_cursors (sink, chain, seq, mac) VALUES (%(sink)s, %(chain)s, 0, '') ON CONFLICT DO NOTHING;

-- name: audit_sink_hold
-- Until the end of the transaction nobody else writes this chain to this sink.
SELECT seq, mac FROM audit_sink_cursors WHERE sink = %(sink)s AND chain = %(chain)s FOR UPDATE SKIP LOCKED;

-- name: audit_sink_hold_time
SET LOCAL idle_in_transaction_session_timeout = '60s';

-- name: audit_sink_moved
UPDATE audit_sink_cursors SET seq = %(seq)s, mac = %(mac)s WHERE sink = %(sink)s AND chain = %(chain)s;

-- name: audit_lines_from
SELECT seq, record, audit_key, mac FROM audit_events
WHERE chain = %(chain)s AND seq >= %(seq)s ORDER BY seq LIMIT %(limit)s;

-- name: audit_events_at
SELECT chain, seq, record, audit_key, mac FROM audit_events
WHERE (chain, seq) IN (SELECT * FROM unnest(%(chains)s::uuid[], %(seqs)s::bigint[]));

-- name: audit_heads_all
SELECT chain, seq, mac FROM audit_heads;

-- name: audit_sink_said
INSERT INTO audit_sinks AS s (sink, address, written_at, problem)
VALUES (%(sink)s, %(address)s, CASE WHEN %(problem)s = '' THEN now() END, %(problem)s)
ON CONFLICT (sink) DO UPDATE SET seen_at = now(), problem = %(problem)s, address = %(address)s,
    written_at = CASE WHEN %(problem)s = '' THEN now() ELSE s.written_at END;

-- name: audit_sinks_all
SELECT sink, address, written_at, problem, seen_at FROM audit_sinks;

-- name: audit_head_keys
SELECT id, company_id, name, value, nonce, key_id FROM secrets
WHERE company_id IS NULL AND name LIKE 'audit\_head\_key/%%';
