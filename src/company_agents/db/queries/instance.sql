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
-- Which no new key would open. After a restore without secrets there is nothing that one has to open.
SELECT r.restored, NOT r.restored AND (EXISTS (SELECT FROM secrets) OR EXISTS (SELECT FROM companies)) AS found
FROM (SELECT EXISTS (SELECT FROM former_instances WHERE without_secrets) AS restored) r;

-- name: secrets_all
SELECT id, company_id, name, value, nonce, key_id FROM secrets ORDER BY id;

-- name: companies_all
SELECT id, name, created_at FROM companies ORDER BY created_at, id;

-- name: locate_agent
SELECT company_id FROM agents WHERE id = %(id)s;

-- name: locate_integration
SELECT company_id FROM integrations WHERE id = %(id)s;

-- name: locate_run
SELECT company_id FROM runs WHERE id = %(id)s;

-- name: audit_keys
SELECT id, company_id, name, value, nonce, key_id FROM secrets WHERE company_id IS NULL AND name LIKE 'audit_key/%%';
