-- OAuth: a company's clients at providers, consents that are being asked for, refresh, and the history of a status.

ALTER TABLE integrations DROP CONSTRAINT integrations_status_check;
ALTER TABLE integrations
    ADD CONSTRAINT integrations_status_check
        CHECK (status IN ('connected', 'expiring', 'refreshing', 'needs attention')),
    -- What to do about it, in a sentence.
    ADD COLUMN status_hint text NOT NULL DEFAULT '',
    ADD COLUMN kind text NOT NULL DEFAULT 'token' CHECK (kind IN ('token', 'consent')),
    -- Whose credential it is, where the provider says so.
    ADD COLUMN account text NOT NULL DEFAULT '',
    -- Days after which a rotation is asked for; NULL: never.
    ADD COLUMN rotate_every int CHECK (rotate_every BETWEEN 1 AND 3650),
    ADD COLUMN probed_at timestamptz,
    ADD COLUMN probe_due_at timestamptz,
    -- The version of whose age somebody was reminded.
    ADD COLUMN reminded_version int;

-- A refresh renews a version in place. `attempt` is the fence: it grows with each attempt, and one may write only while no
-- later one has written. `attempt_ends_at` is set while an attempt is under way or its end is not known.
ALTER TABLE credential_versions
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN refresh_due_at timestamptz,
    ADD COLUMN attempt bigint NOT NULL DEFAULT 0,
    ADD COLUMN written_by bigint NOT NULL DEFAULT 0,
    ADD COLUMN attempt_began_at timestamptz,
    ADD COLUMN attempt_ends_at timestamptz,
    -- How often the end of an attempt was not known since the last one that succeeded, and when the first of those began.
    ADD COLUMN uncertain int NOT NULL DEFAULT 0,
    ADD COLUMN lost_at timestamptz,
    ADD COLUMN failures int NOT NULL DEFAULT 0,
    -- Why the last attempt brought nothing. After the last three there is no other.
    ADD COLUMN refresh_problem text NOT NULL DEFAULT ''
        CHECK (refresh_problem IN ('', 'not now', 'rejected', 'uncertain', 'gone', 'nothing')),
    ADD COLUMN refreshed_at timestamptz,
    -- When it ends for good whatever is done here, and by which rule; NULL: not known.
    ADD COLUMN ends_at timestamptz,
    ADD COLUMN ends_because text NOT NULL DEFAULT ''
        CHECK (ends_because IN ('', 'token', 'refresh', 'idle', 'absolute', 'testing'));
CREATE INDEX credential_versions_due ON credential_versions (company_id, refresh_due_at) WHERE refresh_due_at IS NOT NULL;

CREATE TABLE integration_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id uuid NOT NULL,
    integration_id uuid NOT NULL,
    version int NOT NULL,
    status text NOT NULL,
    reason text NOT NULL DEFAULT '',
    -- What showed it: use, probe, refresh, rotation, connect.
    seen_by text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (company_id, integration_id) REFERENCES integrations (company_id, id) ON DELETE CASCADE
);
CREATE INDEX integration_history_by_integration ON integration_history (integration_id, id DESC);

-- What a company is to a provider: registered there by a person, or by dynamic registration. The secret (with the
-- endpoints that it may go to) is sealed; the rest is for people.
CREATE TABLE oauth_clients (
    company_id uuid NOT NULL REFERENCES companies (id),
    provider text NOT NULL,
    issuer text NOT NULL DEFAULT '',
    client_id text NOT NULL,
    auth text NOT NULL,
    secret_id uuid NOT NULL REFERENCES secrets (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (company_id, provider, issuer)
);

-- A consent that is being asked for. Used once; the verifier, the device code and what is wanted are sealed in a secret.
CREATE TABLE oauth_flows (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL REFERENCES companies (id),
    provider text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('code', 'device')),
    -- SHA-256 of what `state` brought: there is nothing to guess from it.
    state_hash bytea,
    -- The session of the person who began it: nobody else's browser can end it. NULL: the command line.
    session_id uuid,
    -- NULL: a new integration.
    integration_id uuid,
    secret_id uuid REFERENCES secrets (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    ends_at timestamptz NOT NULL,
    used_at timestamptz,
    -- Somebody asks the provider until then whether a device's code was typed: one at a time.
    asking_until timestamptz,
    FOREIGN KEY (company_id, integration_id) REFERENCES integrations (company_id, id) ON DELETE CASCADE
);
CREATE INDEX oauth_flows_by_end ON oauth_flows (ends_at);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['integration_history', 'oauth_clients', 'oauth_flows'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY of_company ON %I USING (company_id = (SELECT scope_company()))', t);
        EXECUTE format('CREATE POLICY of_instance ON %I TO company_agents_instance USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_serve', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_instance', t);
    END LOOP;
END $$;

-- The companies that have something due, so that each can be worked on in its own scope: never their rows.
CREATE FUNCTION companies_with_refresh_due(before timestamptz) RETURNS TABLE (company_id uuid)
    LANGUAGE plpgsql AS $$
DECLARE
    each uuid;
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    FOR each IN SELECT c.id FROM companies c LOOP
        PERFORM set_config('company_agents.company', each::text, true);
        IF EXISTS (SELECT FROM credential_versions v WHERE v.company_id = each AND v.refresh_due_at <= before) THEN
            RETURN QUERY SELECT each;
        END IF;
    END LOOP;
END $$;

-- Whether a version ends soon: in a week, or in the last third of a shorter life. A rule that may not apply to it, and that
-- it has outlived, did not.
CREATE FUNCTION version_ends_soon(v credential_versions) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(v.ends_at - least(interval '7 days', (v.ends_at - v.created_at) / 3) <= now()
                    AND NOT (v.ends_because = 'testing' AND v.ends_at <= now()), false) $$;

-- Whether whoever uses a version has to see to its renewal first. One that lives for a minute only is not renewed at each use.
CREATE FUNCTION version_is_ending(v credential_versions) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(v.expires_at <= now()
                    OR (v.expires_at <= now() + interval '30 seconds' AND v.refresh_due_at <= now()), false) $$;

-- Whether a version is older than its integration wants it to be.
CREATE FUNCTION version_is_old(i integrations, v credential_versions) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(v.created_at + i.rotate_every * interval '1 day' <= now(), false) $$;

-- The companies for which something else is to be done: a probe, a reminder, a status that time has changed. Without
-- probes (`every` is NULL) none is due.
CREATE FUNCTION companies_with_upkeep_due(every interval) RETURNS TABLE (company_id uuid)
    LANGUAGE plpgsql AS $$
DECLARE
    each uuid;
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    FOR each IN SELECT c.id FROM companies c LOOP
        PERFORM set_config('company_agents.company', each::text, true);
        IF EXISTS (
            SELECT FROM integrations i
            JOIN credential_versions v ON v.integration_id = i.id AND v.state = 'current'
            WHERE i.company_id = each
              AND ((every IS NOT NULL AND (i.probe_due_at IS NULL OR i.probe_due_at <= now()
                                           OR i.probe_due_at > now() + 2 * every))
                   OR (version_is_old(i, v) AND i.reminded_version IS DISTINCT FROM v.version)
                   OR (i.status <> 'needs attention' AND (
                        (i.status <> 'expiring') = version_ends_soon(v)
                        OR (v.ends_at <= now() AND v.ends_because <> 'testing')
                        OR (v.failures > 0 AND v.expires_at <= now()))))
        ) THEN
            RETURN QUERY SELECT each;
        END IF;
    END LOOP;
END $$;
