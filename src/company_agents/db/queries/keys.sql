-- name: starts_wait_time
-- Another start may be reading a slow source. One that stands still with the lock loses its connection.
SELECT set_config('lock_timeout', '60s', true), set_config('idle_in_transaction_session_timeout', '120s', true);

-- name: master_keys_lock
SELECT pg_advisory_xact_lock(7301002);

-- name: master_keys_list
SELECT k.key_id, k.state, k.source, k.created_at, k.activated_at, k.archived_at, k.ends_at, k.compromised_at, k.rewrapped,
       k.recorded,
       CASE WHEN k.activated_at IS NULL THEN 0
            ELSE coalesce(k.seals_to, CASE WHEN s.is_called THEN s.last_value + 1 ELSE 0 END) - k.seals_from END AS seals
FROM master_keys k, master_key_seals s ORDER BY k.created_at, k.key_id;

-- name: master_key_first
INSERT INTO master_keys (key_id, state, source, activated_at, recorded)
VALUES (%(key_id)s, 'active', %(source)s, now(), false);

-- name: master_key_stage
INSERT INTO master_keys (key_id, state, source) VALUES (%(key_id)s, 'staged', %(source)s);

-- name: master_key_got_out
-- Before the switch, so that a rotation that is killed is still that of a key that got out.
UPDATE master_keys SET compromised_at = clock_timestamp() WHERE key_id = %(key_id)s AND state = 'active';

-- name: master_key_set_aside
-- Nothing was ever sealed under it; a backup may name it.
UPDATE master_keys SET state = 'archived', archived_at = now(), ends_at = now(), recorded = false
WHERE key_id = %(key_id)s AND state = 'staged';

-- name: writers_wait_time
-- How long the switch may keep writers waiting.
SET LOCAL lock_timeout = '200ms';

-- name: writers_exclude
-- Writers hold it shared, for their short transactions.
SELECT pg_advisory_xact_lock(7301001);

-- name: master_key_retire
-- The moment at which no writer is left under the old key: now() is that of the wait before it.
UPDATE master_keys k SET state = 'retiring', compromised_at = CASE WHEN %(compromised)s THEN clock_timestamp() END,
       seals_to = (SELECT CASE WHEN is_called THEN last_value + 1 ELSE 0 END FROM master_key_seals)
WHERE k.key_id = %(key_id)s AND k.state = 'active';

-- name: master_key_activate
UPDATE master_keys k SET state = 'active', activated_at = now(), recorded = false,
       seals_from = (SELECT CASE WHEN is_called THEN last_value + 1 ELSE 0 END FROM master_key_seals)
WHERE k.key_id = %(key_id)s AND k.state = 'staged';

-- name: master_key_archive
-- A compromised key has no grace, and one that a copy of the database may need has no end.
UPDATE master_keys SET state = 'archived', archived_at = now(), recorded = false,
       ends_at = CASE WHEN compromised_at IS NOT NULL THEN now()
                      WHEN NOT shared THEN now() + make_interval(days => %(grace)s) END
WHERE key_id = %(key_id)s AND state = 'retiring';

-- name: master_key_adopt
-- A key of ours that the database does not know: of a rotation that it has gone back behind. Without an end.
INSERT INTO master_keys (key_id, state, source, archived_at, recorded)
VALUES (%(key_id)s, 'archived', %(source)s, now(), false)
ON CONFLICT (key_id) DO UPDATE SET state = 'archived', ends_at = NULL, recorded = false
    WHERE master_keys.state IN ('destroying', 'destroyed');

-- name: master_key_drop_staged
DELETE FROM master_keys WHERE key_id = %(key_id)s AND state = 'staged';

-- name: master_keys_without_end
-- Those that are archived, and those that will be.
UPDATE master_keys SET shared = true,
       ends_at = CASE WHEN state = 'archived' AND compromised_at IS NULL THEN NULL ELSE ends_at END
WHERE state IN ('staged', 'active', 'retiring', 'archived');

-- name: master_key_destroying
-- Not where a row needs it, or a backup does; a running one needs all.
UPDATE master_keys k SET state = 'destroying'
WHERE k.key_id = %(key_id)s AND k.state IN ('archived', 'destroying')
  AND NOT EXISTS (SELECT FROM secrets s WHERE s.key_id = k.key_id)
  AND (k.compromised_at IS NOT NULL
       OR NOT EXISTS (SELECT FROM backups b WHERE b.state <> 'gone' AND k.key_id = ANY (b.key_ids)))
  AND NOT EXISTS (SELECT FROM backups b WHERE b.state = 'running');

-- name: master_key_destroyed
UPDATE master_keys SET state = 'destroyed', recorded = false WHERE key_id = %(key_id)s AND state = 'destroying';

-- name: master_key_gone
UPDATE master_keys SET state = 'destroyed', recorded = false WHERE key_id = %(key_id)s AND state = 'archived'
  AND NOT EXISTS (SELECT FROM secrets s WHERE s.key_id = master_keys.key_id);

-- name: master_key_recorded
UPDATE master_keys SET recorded = true WHERE key_id = %(key_id)s AND state = %(state)s;

-- name: master_key_registered
SELECT EXISTS (SELECT FROM master_keys WHERE key_id = %s) AS found;

-- name: rotator_lock
-- Of the session: it goes with the process that holds it.
SELECT pg_try_advisory_lock(7301003) AS taken;

-- name: rotator_lock_now
SELECT pg_try_advisory_xact_lock(7301003) AS taken;

-- name: fence_take
UPDATE key_fence SET number = number + 1, nonce = gen_random_uuid(), step = '', done = 0, total = 0, started_at = now(),
       updated_at = now()
RETURNING number, nonce;

-- name: fence_hold
-- To the end of the transaction; also says where the rotation is.
UPDATE key_fence SET step = %(step)s, done = CASE WHEN step = %(step)s THEN done ELSE 0 END, total = %(total)s,
       updated_at = now()
WHERE number = %(number)s AND nonce = %(nonce)s AND NOT EXISTS (SELECT FROM instance WHERE sealed_at IS NOT NULL)
RETURNING number;

-- name: fence_release
-- And its lock, which would go with the session, but a moment after that is closed: whoever comes next would be refused.
WITH released AS (
    UPDATE key_fence SET step = '', done = 0, total = 0, started_at = NULL, updated_at = now()
    WHERE number = %(number)s AND nonce = %(nonce)s
)
SELECT pg_advisory_unlock(7301003);

-- name: fence_show
SELECT f.number, f.step, f.done, f.total, f.started_at, f.updated_at,
       EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = 0 AND l.objid = 7301003
               AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS held
FROM key_fence f;

-- name: secrets_pages
-- How many pages there are, how many rows are under another key than this, and how many in all.
SELECT pg_relation_size('secrets') / current_setting('block_size')::int, count(*) FILTER (WHERE key_id <> %s), count(*)
FROM secrets;

-- name: secrets_rows_under
SELECT EXISTS (SELECT FROM secrets WHERE key_id = %(key_id)s) AS found;

-- name: secrets_of_pages
-- In the order of the table: each page is read and written once.
SELECT uuid_send(id) AS id, uuid_send(company_id) AS company_id, name, value, nonce, key_id
FROM secrets WHERE ctid >= %s::tid AND ctid < %s::tid AND key_id <> %s;

-- name: secrets_rewrap
SELECT secrets_rewrap(%s, %s, %s, %s::int, %s, %s, %s, %s::int[], %s);

-- name: secrets_by_key
SELECT key_id, count(*) AS rows FROM secrets GROUP BY key_id ORDER BY key_id;

-- name: instance_server
-- What tells this database from a copy of it: its server, its place there, and its line of history.
SELECT i.server AS before, s.system_identifier || ':' || d.oid || ':' || c.timeline_id AS now
FROM instance i, pg_control_system() s, pg_control_checkpoint() c, pg_database d WHERE d.datname = current_database();

-- name: instance_server_set
UPDATE instance SET server = %(server)s;

-- name: instance_seal
UPDATE instance SET sealed_at = now(), sealed_by = %(by)s WHERE sealed_at IS NULL;

-- name: instance_unseal
UPDATE instance SET sealed_at = NULL, sealed_by = NULL WHERE sealed_at IS NOT NULL;

-- name: instance_sealed
SELECT sealed_at, sealed_by FROM instance;

-- name: replica_beat
SELECT * FROM replica_beat(%s, %s, %s, %s, %s::text[], %s);

-- name: replicas_list
SELECT id, host, process, version, key_ids, problem, started_at, seen_at,
       -- Nor one of the future: it would be waited for until then.
       abs(extract(epoch FROM now() - seen_at)) < %(alive)s AS alive
FROM replicas ORDER BY started_at, id;

-- name: replicas_alive
SELECT EXISTS (SELECT FROM replicas WHERE abs(extract(epoch FROM now() - seen_at)) < %s);

-- name: replicas_forget
DELETE FROM replicas WHERE id = %(id)s OR seen_at < now() - interval '1 day';

-- name: backups_list
SELECT id, file, state, key_ids, created_at FROM backups ORDER BY created_at, id;

-- name: secrets_before
-- What was sealed under a key that got out, and has not been replaced since.
SELECT s.id, s.company_id, c.name AS company, s.name, s.updated_at FROM secrets s LEFT JOIN companies c ON c.id = s.company_id
-- What waits for approval cannot be replaced by anybody; it goes by itself.
WHERE s.updated_at < %(moment)s AND s.name NOT LIKE 'audit_key/%%' AND s.name NOT LIKE 'approval%%' ORDER BY c.name NULLS FIRST, s.name;
