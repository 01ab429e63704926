-- name: snapshot_begin
-- Before the first reading. A long reading may not be cut off by what bounds the short ones.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: copied_tables
SELECT c.relname AS name,
       (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS columns
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND pg_get_userbyid(c.relowner) = 'company_agents_migrate'
  AND c.relname <> ALL (%(but)s)
ORDER BY c.relname;

-- name: copy_out
SELECT format('COPY public.%%I (%%s) TO STDOUT', %(name)s::text,
              (SELECT string_agg(quote_ident(c), ', ' ORDER BY n)
               FROM unnest(%(columns)s::text[]) WITH ORDINALITY u (c, n))) AS statement;

-- name: copy_in
-- Into a table that this transaction has made: nobody sees its rows before all are there, so they need no second writing.
SELECT format('COPY public.%%I (%%s) FROM STDIN (FREEZE)', %(name)s::text,
              (SELECT string_agg(quote_ident(c), ', ' ORDER BY n)
               FROM unnest(%(columns)s::text[]) WITH ORDINALITY u (c, n))) AS statement;

-- name: backup_estimate
-- About how many bytes there are to be read, for whoever waits.
SELECT coalesce(sum(pg_table_size(c.oid)), 0)::bigint AS bytes FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r';

-- name: backup_schema
-- One text for all steps that were applied: their numbers and checksums.
SELECT max(version) AS step, string_agg(version || ' ' || checksum || E'\n', '' ORDER BY version) AS steps
FROM schema_migrations;

-- name: backup_sequences
-- A sequence knows no snapshot: it may be ahead of the rows, and never behind them.
SELECT CASE WHEN is_called THEN last_value + 1 ELSE 0 END AS seals FROM master_key_seals;

-- name: backup_heads
SELECT chain, seq, mac FROM audit_heads ORDER BY chain;

-- name: backup_hold
SELECT pg_advisory_lock(7301005, hashtext((%(id)s::uuid)::text));

-- name: backups_let_go
SELECT * FROM backups_let_go();

-- name: backup_begin
INSERT INTO backups (id, file, place, state, scheduled, with_ring, made_by)
VALUES (%(id)s, %(file)s, %(place)s, 'running', %(scheduled)s, %(with_ring)s, %(made_by)s);

-- name: backup_ready
UPDATE backups SET key_ids = %(key_ids)s, size = %(size)s, rows = %(rows)s WHERE id = %(id)s AND state = 'running';

-- name: backup_whole
UPDATE backups SET state = 'whole', finished_at = now() WHERE id = %(id)s AND state = 'running';

-- name: backup_whole_after_all
UPDATE backups SET state = 'whole', problem = '' WHERE id = %(id)s AND state = 'failed';

-- name: backup_failed
UPDATE backups SET state = 'failed', key_ids = %(key_ids)s, problem = %(problem)s, finished_at = now()
WHERE id = %(id)s AND state = 'running';

-- name: backups_missing
-- What is there again is no longer missing.
UPDATE backups SET missing_at = CASE WHEN id = ANY (%(ids)s) THEN now() END
WHERE place = %(place)s AND state = 'whole' AND (missing_at IS NOT NULL) <> (id = ANY (%(ids)s));

-- name: backup_found
-- One that lies there and is not known, or was thought to be gone: what its manifest says. Nobody has proved that: it may add
-- to the keys that are kept, and never takes one away.
INSERT INTO backups (id, file, place, state, key_ids, with_ring, size, rows, created_at, finished_at, made_by)
VALUES (%(id)s, %(file)s, %(place)s, 'whole', %(key_ids)s, %(with_ring)s, %(size)s, %(rows)s, %(created_at)s,
        %(created_at)s, 'found there')
ON CONFLICT (id) DO UPDATE SET state = 'whole', size = EXCLUDED.size, rows = EXCLUDED.rows, file = EXCLUDED.file,
       place = EXCLUDED.place, problem = '', missing_at = NULL, finished_at = coalesce(backups.finished_at, now()),
       key_ids = array(SELECT DISTINCT k FROM unnest(backups.key_ids || EXCLUDED.key_ids) k ORDER BY k)
WHERE backups.state <> 'whole' OR backups.missing_at IS NOT NULL;

-- name: backup_gone
UPDATE backups SET state = 'gone' WHERE id = %(id)s AND state <> 'running';

-- name: backup_verified
UPDATE backups SET verified_at = now(), verify_problem = %(problem)s WHERE id = %(id)s;

-- name: backup_drilled
UPDATE backups SET drilled_at = now(), drill_problem = %(problem)s WHERE id = %(id)s;

-- name: backup_clock
SELECT clock_timestamp() AS now;

-- name: backup_rows
-- And the one that was drilled last, although it was taken away since: that a drill failed is not over because of that.
-- A key that is being destroyed may be gone already; one that is not registered is none of this instance's, or not any more.
SELECT b.id, b.file, b.place, b.state, b.key_ids, b.scheduled, b.with_ring, b.size, b.rows, b.made_by, b.created_at,
       b.finished_at, b.problem, b.verified_at, b.verify_problem, b.drilled_at, b.drill_problem, b.missing_at,
       array(SELECT n.key_id FROM unnest(b.key_ids) n (key_id)
             WHERE NOT EXISTS (SELECT FROM master_keys k WHERE k.key_id = n.key_id
                               AND k.state NOT IN ('destroying', 'destroyed'))) AS lost_keys
FROM backups b WHERE b.state <> 'gone' OR b.drilled_at = (SELECT max(d.drilled_at) FROM backups d)
ORDER BY b.created_at DESC, b.id;
