-- name: restore_wait_time
-- Nobody should be there. Who is, is told, and not waited for. Forced row-level security binds the owner of the tables too, as
-- long as it is not lifted: without a scope, what is there would look like nothing.
SELECT set_config('company_agents.instance', 'on', true), set_config('lock_timeout', '5s', true), set_config('statement_timeout', '0', true),
       set_config('maintenance_work_mem', '128MB', true);

-- name: restore_locks
-- Migrators, those who write secrets, and starts.
SELECT pg_advisory_xact_lock(7301000), pg_advisory_xact_lock(7301001), pg_advisory_xact_lock(7301002);

-- name: restore_is_empty
-- Whether this is a new instance, on which nothing was begun yet.
SELECT NOT EXISTS (SELECT FROM companies) AND NOT EXISTS (SELECT FROM operators) AND NOT EXISTS (SELECT FROM secrets)
       AND NOT EXISTS (SELECT FROM former_instances) AND NOT EXISTS (SELECT FROM master_keys) AS found;

-- name: restore_today
-- What there is now, to be kept in mind until the end. Forced row-level security binds the owner as well.
SELECT format('ALTER TABLE public.%%I NO FORCE ROW LEVEL SECURITY', t) AS statement FROM unnest(%(tables)s::text[]) t
UNION ALL
SELECT format('CREATE TEMPORARY TABLE today_%%s ON COMMIT DROP AS TABLE public.%%I', t, t) FROM unnest(%(tables)s::text[]) t;

-- name: restore_drop
SELECT format('DROP TABLE public.%%I CASCADE', c.relname) AS statement, 1 AS turn FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND pg_get_userbyid(c.relowner) = current_user
UNION ALL
SELECT format('DROP SEQUENCE public.%%I CASCADE', c.relname), 2 FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'S' AND pg_get_userbyid(c.relowner) = current_user
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i'))
UNION ALL
SELECT format('DROP FUNCTION IF EXISTS public.%%I(%%s) CASCADE', p.proname, pg_get_function_identity_arguments(p.oid)), 3
FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND pg_get_userbyid(p.proowner) = current_user
UNION ALL
-- What is queued for the job engine is for runs that are over. All at once: its triggers do not find their tables from here.
SELECT 'TRUNCATE ' || string_agg(format('company_agents_jobs.%%I', c.relname), ', '), 4
FROM pg_class c WHERE c.relnamespace = to_regnamespace('company_agents_jobs') AND c.relkind = 'r'
  AND c.relname IN ('procrastinate_events', 'procrastinate_periodic_defers', 'procrastinate_jobs')
HAVING count(*) > 0
ORDER BY turn;

-- name: restore_aside
-- What checks and finds rows: taken away before they come, and made again after. Keys first, then what refers to them.
SELECT format('ALTER TABLE %%s DROP CONSTRAINT %%I', c.conrelid::regclass, c.conname) AS away,
       format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid)) AS again,
       CASE c.contype WHEN 'f' THEN 3 ELSE 1 END AS turn
FROM pg_constraint c WHERE c.connamespace = 'public'::regnamespace AND c.contype IN ('p', 'u', 'f')
UNION ALL
SELECT format('DROP INDEX %%s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid), 2
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = 'public'::regnamespace AND pg_get_userbyid(c.relowner) = current_user
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
ORDER BY turn;

-- name: restore_bound_tables
SELECT format('ALTER TABLE public.%%I NO FORCE ROW LEVEL SECURITY', c.relname) AS free,
       format('ALTER TABLE public.%%I FORCE ROW LEVEL SECURITY', c.relname) AS bound
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relforcerowsecurity ORDER BY c.relname;

-- name: restore_triggers
-- They see to it that a row begins and moves as it may; these have.
SELECT format('ALTER TABLE public.%%I DISABLE TRIGGER USER', c.relname) AS away,
       format('ALTER TABLE public.%%I ENABLE TRIGGER USER', c.relname) AS again
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
  AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) ORDER BY c.relname;

-- name: restore_empty
-- A step of the schema may have put a row in.
SELECT format('DELETE FROM public.%%I', t) AS statement FROM unnest(%(tables)s::text[]) t;

-- name: restore_numbers
-- Numbers that a table gives its rows go on behind the last of them.
SELECT format('SELECT setval(%%L, (SELECT coalesce(max(%%I), 0) + 1 FROM public.%%I), false)',
              pg_get_serial_sequence(c.relname, a.attname), a.attname, c.relname) AS statement
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attidentity <> '';

-- name: restore_seals
-- One more than there were, or as many as there are today.
SELECT setval('master_key_seals', greatest(%(seals)s::bigint, %(today)s::bigint));

-- name: restore_identity
-- A new name: what was signed, sent and claimed in the old one stays apart from what comes now.
INSERT INTO former_instances (id, backup_id, taken_at, without_secrets)
SELECT i.id, %(backup)s, %(taken_at)s, %(without_secrets)s FROM instance i
ON CONFLICT (id) DO UPDATE SET backup_id = EXCLUDED.backup_id, taken_at = EXCLUDED.taken_at, restored_at = now(),
       without_secrets = EXCLUDED.without_secrets, recorded = false;

-- name: restore_source_owner
-- In whose name the key source still is; this instance takes it over when it starts.
INSERT INTO former_instances (id, backup_id, taken_at, takes_source, recorded)
VALUES (%(owner)s, %(backup)s, %(taken_at)s, true, true)
ON CONFLICT (id) DO UPDATE SET takes_source = true;

-- name: restore_source_owners
SELECT id FROM former_instances WHERE takes_source;

-- name: restore_source_taken
UPDATE former_instances SET takes_source = false WHERE takes_source;

-- name: restore_renamed
UPDATE instance SET id = %(id)s, sealed_at = NULL, sealed_by = NULL;

-- name: restore_runs
-- What was under way then is over. A run may have ended since, and been done twice if it went on.
UPDATE runs SET state = CASE state WHEN 'queued' THEN 'cancelled' ELSE 'expired' END, ended_at = now(), lease_until = NULL,
       reason = 'the instance was restored from a backup that was taken while this was under way'
WHERE state IN ('queued', 'running');

-- name: restore_approvals
-- What was to be sent may have been sent since.
UPDATE approvals SET state = CASE state WHEN 'waiting' THEN 'expired' WHEN 'sending' THEN 'uncertain' ELSE 'failed' END,
       ended_at = now(), reason = 'the instance was restored from a backup that was taken before this had ended'
WHERE ended_at IS NULL;

-- name: restore_schedules
UPDATE schedules SET missed = true WHERE enabled AND next_at <= now();

-- name: restore_dead_secrets
-- Tokens of runs and consents that were being asked for.
DELETE FROM secrets WHERE name LIKE 'run_token/%%' OR name LIKE 'oauth_flow/%%';

-- name: restore_consents
-- Whether a credential still works is found out at once, and what was being tried then is not going on.
UPDATE integrations SET probe_due_at = now(),
       status = CASE WHEN status = 'refreshing' THEN 'connected' ELSE status END;

-- name: restore_webhooks
-- The chain of the instance begins anew under its new name.
UPDATE webhooks SET instance_seq = 0;

-- name: restore_backups
-- The backup that this came from was being made when it was taken.
UPDATE backups SET state = CASE WHEN id = %(id)s THEN 'whole' ELSE 'failed' END, finished_at = coalesce(finished_at, now()),
       key_ids = CASE WHEN id = %(id)s THEN %(key_ids)s::text[] ELSE key_ids END,
       problem = CASE WHEN id = %(id)s THEN '' ELSE 'it was being made when the instance was restored' END
WHERE state = 'running';

-- name: restore_hinted_key
-- The key source names an active key that the backup does not know: it was rotated to since. So it is the active one here
-- too; every row that is under another is opened with that, and a rotation moves it.
INSERT INTO master_keys (key_id, state, source, activated_at, recorded, seals_from)
SELECT %(key_id)s, 'active', %(source)s, now(), false, %(seals)s;

-- name: restore_knows_key
SELECT EXISTS (SELECT FROM master_keys WHERE key_id = %(key_id)s) AS found;

-- name: restore_audit_events
SELECT count(*) AS count FROM audit_events;

-- name: restore_is_done
-- Whether this instance came back from this backup.
SELECT EXISTS (SELECT FROM former_instances WHERE backup_id = %(id)s) AS found;

-- name: restore_overtaken_key
UPDATE master_keys SET state = 'archived', archived_at = now(), ends_at = NULL, shared = true,
       seals_to = coalesce(seals_to, %(seals)s)
WHERE state IN ('active', 'retiring') AND key_id <> %(key_id)s;

-- name: restore_key_forgotten
-- Not there, and not needed by a row.
DELETE FROM master_keys k WHERE k.key_id = ANY (%(key_ids)s)
  AND k.state IN ('staged', 'archived', 'destroying', 'destroyed') AND NOT EXISTS (SELECT FROM secrets s WHERE s.key_id = k.key_id);

-- name: restore_tokens
-- Tokens of agents and operators that work again.
SELECT 'agent' AS kind, a.id, a.name, c.id AS company_id, c.name AS company, s.updated_at AS created_at
FROM secrets s JOIN agents a ON s.name = 'agent_token/' || a.id AND s.company_id = a.company_id JOIN companies c ON c.id = a.company_id
WHERE a.state <> 'retired'
UNION ALL
SELECT 'operator', t.id, o.name || ': ' || t.name, NULL, NULL, t.created_at
FROM operator_tokens t JOIN operators o ON o.id = t.operator_id
WHERE t.revoked_at IS NULL AND t.ends_at > now() AND o.disabled_at IS NULL
ORDER BY 1, 5 NULLS FIRST, 3;

-- name: restore_agent_tokens_gone
DELETE FROM secrets WHERE name LIKE 'agent_token/%%';

-- name: restore_operator_tokens_revoked
UPDATE operator_tokens SET revoked_at = now() WHERE revoked_at IS NULL;

-- name: restore_operator_token_secrets_gone
DELETE FROM secrets WHERE company_id IS NULL AND name LIKE 'operator_token/%%';

-- name: restore_without_versions
-- Nothing that was sealed comes back.
UPDATE credential_versions SET secret_id = NULL, secret_lost = state <> 'retired', refresh_due_at = NULL, revoke_after = NULL;

-- name: restore_without_integrations
UPDATE integrations SET status = 'needs attention', status_reason = 'the instance was restored without its secrets',
       status_hint = 'reconnect it', status_since = now(), probe_due_at = now() + interval '100 years';

-- name: restore_without_clients
DELETE FROM oauth_clients;

-- name: restore_without_webhooks
DELETE FROM webhooks;

-- name: restore_without_approvals
UPDATE approvals SET request = NULL, reply = NULL;

-- name: restore_without_secrets
DELETE FROM secrets;

-- name: restore_without_keys
DELETE FROM master_keys;

-- name: restore_without_audit_keys
UPDATE instance SET audit_keys_lost = (SELECT coalesce(max(audit_key), 0) FROM audit_heads);

-- name: restore_unrecorded
SELECT id, backup_id, taken_at, restored_at, without_secrets FROM former_instances WHERE NOT recorded
ORDER BY restored_at, id;

-- name: restore_recorded
UPDATE former_instances SET recorded = true WHERE id = %(id)s;
