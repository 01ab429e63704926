-- name: migrate_settings
SELECT set_config('lock_timeout', '10s', false), set_config('statement_timeout', '120s', false);

-- name: migrate_lock
SELECT pg_advisory_lock(7301000);

-- name: ledger_exists
SELECT to_regclass('public.schema_migrations') IS NOT NULL AS found;

-- name: ledger_create
CREATE TABLE IF NOT EXISTS schema_migrations (
    version int PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: ledger_read
SELECT version, checksum FROM schema_migrations ORDER BY version;

-- name: ledger_add
INSERT INTO schema_migrations (version, name, checksum) VALUES (%(version)s, %(name)s, %(checksum)s);

-- name: roles_create
DO $$
DECLARE r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['company_agents_migrate', 'company_agents_serve', 'company_agents_instance'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', r);
        END IF;
        -- Up to Postgres 15, who is a member may take the role on; later that is a right of its own.
        IF NOT pg_has_role(current_user, r, CASE WHEN current_setting('server_version_num')::int < 160000
                                                 THEN 'MEMBER' ELSE 'SET' END) THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', r);
        END IF;
    END LOOP;
END $$;

-- name: roles_grant_schema
-- Rights are given only where they are missing: a user who may not give them needs none to be given.
DO $$
BEGIN
    IF NOT has_schema_privilege('company_agents_migrate', 'public', 'CREATE') THEN
        GRANT USAGE, CREATE ON SCHEMA public TO company_agents_migrate;
    END IF;
    IF NOT has_schema_privilege('company_agents_serve', 'public', 'USAGE') THEN
        GRANT USAGE ON SCHEMA public TO company_agents_serve;
    END IF;
    IF NOT has_schema_privilege('company_agents_instance', 'public', 'USAGE') THEN
        GRANT USAGE ON SCHEMA public TO company_agents_instance;
    END IF;
END $$;

-- name: jobs_schema_create
DO $$
BEGIN
    IF to_regnamespace('company_agents_jobs') IS NULL THEN
        CREATE SCHEMA company_agents_jobs AUTHORIZATION company_agents_migrate;
    END IF;
END $$;

-- name: jobs_ledger_exists
SELECT to_regclass('company_agents_jobs.steps') IS NOT NULL AS found;

-- name: jobs_ledger_create
CREATE TABLE company_agents_jobs.steps (
    name text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: jobs_ledger_read
SELECT name FROM company_agents_jobs.steps;

-- name: jobs_ledger_add
INSERT INTO company_agents_jobs.steps (name) VALUES (%(name)s);

-- name: jobs_path
SET LOCAL search_path = company_agents_jobs;

-- name: jobs_grant
DO $$
BEGIN
    GRANT USAGE ON SCHEMA company_agents_jobs TO company_agents_serve, company_agents_instance;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA company_agents_jobs
        TO company_agents_serve, company_agents_instance;
    REVOKE INSERT, UPDATE, DELETE ON company_agents_jobs.steps FROM company_agents_serve, company_agents_instance;
    GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA company_agents_jobs TO company_agents_serve, company_agents_instance;
END $$;
