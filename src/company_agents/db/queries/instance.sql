-- name: role_take
SELECT set_config('role', %(role)s, false);

-- name: serve_settings
SELECT set_config('statement_timeout', '30s', false), set_config('lock_timeout', '10s', false);

-- name: role_powers
-- What the present user could do: attributes count for the user who signed in as well.
SELECT bool_or(r.rolsuper) AS superuser, bool_or(r.rolbypassrls) AS bypassrls,
       (SELECT pg_has_role(current_user, c.relowner, 'MEMBER') FROM pg_class c WHERE c.oid = 'secrets'::regclass) AS owner,
       pg_has_role(current_user, 'company_agents_instance', 'MEMBER') AS instance
FROM pg_roles r WHERE r.rolname IN (current_user, session_user);

-- name: server_version
SELECT current_setting('server_version_num')::int AS version;

-- name: roles_present
SELECT rolname FROM pg_roles WHERE rolname IN ('company_agents_migrate', 'company_agents_serve', 'company_agents_instance');

-- name: instance_get
SELECT id, created_at FROM instance;

-- name: instance_has_rows
SELECT EXISTS (SELECT FROM secrets) OR EXISTS (SELECT FROM companies) AS found;

-- name: master_keys_list
SELECT k.key_id, k.state, k.source, k.created_at, k.activated_at, k.archived_at, k.ends_at,
       coalesce(k.seals_to, CASE WHEN s.is_called THEN s.last_value + 1 ELSE 0 END) - k.seals_from AS seals
FROM master_keys k, master_key_seals s ORDER BY k.created_at;

-- name: master_key_first
INSERT INTO master_keys (key_id, state, source, activated_at) VALUES (%(key_id)s, 'active', %(source)s, now());

-- name: secrets_by_key
SELECT key_id, count(*) AS rows FROM secrets GROUP BY key_id ORDER BY key_id;

-- name: secrets_all
SELECT id, company_id, name, value, nonce, key_id FROM secrets ORDER BY id;

-- name: companies_all
SELECT id, name, created_at FROM companies ORDER BY created_at, id;

-- name: locate_agent
SELECT company_id FROM agents WHERE id = %(id)s;

-- name: locate_integration
SELECT company_id FROM integrations WHERE id = %(id)s;

-- name: master_keys_lock
SELECT pg_advisory_xact_lock(7301002);

-- name: audit_keys
SELECT name FROM secrets WHERE company_id IS NULL AND name LIKE 'audit_key/%%' ORDER BY name;
