-- Runs: one piece of work by one agent each, owned for as long as a lease; and the credential versions that they hold.
-- docs/runs.md draws the states and their moves.

CREATE TABLE runs (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL REFERENCES companies (id),
    agent_id uuid NOT NULL,
    state text NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'running', 'finished', 'failed', 'expired', 'cancelled')),
    purpose text NOT NULL DEFAULT '' CHECK (length(purpose) <= 1000),
    -- Why it ended so, where somebody said so.
    reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 1000),
    -- The fencing token: it grows with each start, and who has an older one may write nothing more.
    fence bigint NOT NULL DEFAULT 0 CHECK (fence >= 0),
    lease_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    ended_at timestamptz,
    UNIQUE (company_id, id),
    FOREIGN KEY (company_id, agent_id) REFERENCES agents (company_id, id),
    CHECK (state <> 'running' OR (fence > 0 AND lease_until IS NOT NULL AND started_at IS NOT NULL)),
    CHECK ((ended_at IS NOT NULL) = (state IN ('finished', 'failed', 'expired', 'cancelled')))
);
CREATE INDEX runs_by_time ON runs (company_id, created_at, id);
CREATE INDEX runs_under_way ON runs (company_id, lease_until) WHERE state = 'running';
CREATE INDEX runs_ended ON runs (company_id, ended_at) WHERE ended_at IS NOT NULL;

-- Which version of an integration a run uses, until it ends. One that was cut is refused, and nothing takes its place.
CREATE TABLE run_pins (
    company_id uuid NOT NULL,
    run_id uuid NOT NULL,
    integration_id uuid NOT NULL,
    version int NOT NULL,
    pinned_at timestamptz NOT NULL DEFAULT now(),
    cut_at timestamptz,
    PRIMARY KEY (run_id, integration_id),
    FOREIGN KEY (company_id, run_id) REFERENCES runs (company_id, id) ON DELETE CASCADE,
    FOREIGN KEY (company_id, integration_id) REFERENCES integrations (company_id, id) ON DELETE CASCADE,
    FOREIGN KEY (integration_id, version) REFERENCES credential_versions (integration_id, version) ON DELETE CASCADE
);
CREATE INDEX run_pins_by_version ON run_pins (integration_id, version);

-- A retired version has its secret for as long as it is to be revoked at the provider.
ALTER TABLE credential_versions DROP CONSTRAINT credential_versions_check;
ALTER TABLE credential_versions
    ADD CHECK (state = 'retired' OR secret_id IS NOT NULL),
    -- Whether there is something to be revoked: a consent, not a pasted token.
    ADD COLUMN consent boolean NOT NULL DEFAULT false,
    ADD COLUMN revoke_tries int NOT NULL DEFAULT 0,
    ADD COLUMN revoke_after timestamptz;
CREATE INDEX credential_versions_leaving ON credential_versions (company_id)
    WHERE state = 'draining' OR (state = 'retired' AND secret_id IS NOT NULL);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['runs', 'run_pins'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY of_company ON %I USING (company_id = (SELECT scope_company()))', t);
        EXECUTE format('CREATE POLICY of_instance ON %I TO company_agents_instance USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_serve', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_instance', t);
    END LOOP;
END $$;

-- What has ended does not begin again, but for a lease that ran out: its work may be queued once more. A start has a
-- higher fencing token than the one before it.
CREATE FUNCTION run_moves() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.state, NEW.state) NOT IN (('queued', 'running'), ('queued', 'cancelled'), ('running', 'finished'),
            ('running', 'failed'), ('running', 'expired'), ('running', 'cancelled'), ('expired', 'queued')) THEN
        RAISE EXCEPTION 'a run that is % does not become %', OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.state = 'running' AND NEW.fence <= OLD.fence THEN
        RAISE EXCEPTION 'a start needs a higher fencing token' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER run_moves BEFORE UPDATE ON runs
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION run_moves();

CREATE FUNCTION run_fence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a fencing token never goes back' USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER run_fence BEFORE UPDATE ON runs
    FOR EACH ROW WHEN (NEW.fence < OLD.fence) EXECUTE FUNCTION run_fence();

-- Who calls with these run tokens; as agent_token_lookup. `is_good`: it is running, and its lease has not ended.
CREATE FUNCTION run_token_lookup(claimed_companies uuid[], claimed_runs uuid[])
    RETURNS TABLE (n int, agent_id uuid, agent_name text, agent_state text, run_state text, is_good boolean, id uuid,
                   company_id uuid, name text, value bytea, nonce bytea, key_id text)
    LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. cardinality(claimed_runs) LOOP
        PERFORM set_config('company_agents.company', claimed_companies[i]::text, true);
        RETURN QUERY
            SELECT i, a.id, a.name, a.state, r.state, r.state = 'running' AND r.lease_until > clock_timestamp(),
                   s.id, s.company_id, s.name, s.value, s.nonce, s.key_id
            FROM runs r, agents a, secrets s
            WHERE r.id = claimed_runs[i] AND r.company_id = claimed_companies[i]
              AND a.id = r.agent_id AND a.company_id = claimed_companies[i]
              AND s.name = 'run_token/' || claimed_runs[i] AND s.company_id = claimed_companies[i];
    END LOOP;
END $$;

-- The companies in which something is to be swept up: leases that ran out, versions that leave, runs that ended long ago.
CREATE FUNCTION companies_to_sweep() RETURNS TABLE (company_id uuid) LANGUAGE plpgsql AS $$
DECLARE
    each uuid;
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    FOR each IN SELECT c.id FROM companies c LOOP
        PERFORM set_config('company_agents.company', each::text, true);
        IF EXISTS (SELECT FROM runs r
                   WHERE r.company_id = each AND r.state = 'running' AND r.lease_until <= clock_timestamp())
           OR EXISTS (SELECT FROM runs r WHERE r.company_id = each AND r.ended_at < now() - interval '90 days')
           OR EXISTS (SELECT FROM credential_versions v WHERE v.company_id = each AND
                      (v.state = 'draining' OR (v.state = 'retired' AND v.secret_id IS NOT NULL))) THEN
            RETURN QUERY SELECT each;
        END IF;
    END LOOP;
END $$;
