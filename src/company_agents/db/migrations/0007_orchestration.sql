-- Runs that are started for an agent: how each agent is executed, what a run was started for, what it put out, schedules,
-- and limits.

-- How an agent's runs are executed; NULL: it works by itself, and opens its runs with its own token. The configuration holds
-- nothing secret. `unsandboxed`: an operator has said that its process may run as we do, and read what we can.
ALTER TABLE agents
    ADD COLUMN adapter text CHECK (adapter IN ('process', 'http', 'llm')),
    ADD COLUMN adapter_config jsonb NOT NULL DEFAULT '{}' CHECK (pg_column_size(adapter_config) <= 65536),
    ADD COLUMN unsandboxed boolean NOT NULL DEFAULT false;

-- A schedule starts a run whenever its cron expression says so.
CREATE TABLE schedules (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL REFERENCES companies (id),
    agent_id uuid NOT NULL,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    cron text NOT NULL CHECK (length(cron) BETWEEN 1 AND 200),
    -- A name of the IANA time zone database.
    timezone text NOT NULL DEFAULT 'UTC' CHECK (length(timezone) BETWEEN 1 AND 64),
    prompt text NOT NULL CHECK (length(prompt) BETWEEN 1 AND 50000),
    enabled boolean NOT NULL DEFAULT true,
    -- When it starts a run next; NULL: it is paused, or its expression never comes true again.
    next_at timestamptz,
    -- The moment that it last came true, and why no run was started then (empty: one was).
    last_at timestamptz,
    skipped text NOT NULL DEFAULT '',
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (company_id, name),
    UNIQUE (company_id, id),
    FOREIGN KEY (company_id, agent_id) REFERENCES agents (company_id, id)
);
CREATE INDEX schedules_due ON schedules (company_id, next_at) WHERE enabled;

-- A run without an adapter was opened by the agent itself.
ALTER TABLE runs
    ADD COLUMN adapter text CHECK (adapter IN ('process', 'http', 'llm')),
    ADD COLUMN task_id uuid,
    ADD COLUMN prompt text NOT NULL DEFAULT '' CHECK (length(prompt) <= 50000),
    ADD COLUMN schedule_id uuid,
    ADD COLUMN started_by text NOT NULL DEFAULT '',
    -- Whether the assignment of its task has started it.
    ADD COLUMN by_task boolean NOT NULL DEFAULT false,
    -- The replica that executes it.
    ADD COLUMN replica uuid,
    -- How often its lease ran out; a start that was handed over by its holder is none of these.
    ADD COLUMN lost int NOT NULL DEFAULT 0,
    -- While it is queued: since when, before which time nobody need look at it, and how often it was delivered to a remote
    -- agent.
    ADD COLUMN queued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN due_at timestamptz,
    ADD COLUMN delivered int NOT NULL DEFAULT 0,
    -- Seconds from its first start; tokens and millionths of a US dollar that its calls may cost. NULL: no limit of its own.
    ADD COLUMN time_limit int CHECK (time_limit > 0),
    ADD COLUMN token_limit bigint CHECK (token_limit > 0),
    ADD COLUMN micros_limit bigint CHECK (micros_limit > 0),
    -- What they have cost.
    ADD COLUMN tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN micros bigint NOT NULL DEFAULT 0,
    ADD FOREIGN KEY (company_id, task_id) REFERENCES tasks (company_id, id) ON DELETE SET NULL (task_id),
    ADD FOREIGN KEY (company_id, schedule_id) REFERENCES schedules (company_id, id) ON DELETE SET NULL (schedule_id);
CREATE INDEX runs_queued ON runs (company_id, created_at) WHERE state = 'queued';
CREATE INDEX runs_of_task ON runs (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX runs_by_task ON runs (company_id, created_at) WHERE by_task;

-- As before; and what is queued may fail, where nobody will ever begin it.
CREATE OR REPLACE FUNCTION run_moves() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.state, NEW.state) NOT IN (('queued', 'running'), ('queued', 'failed'), ('queued', 'cancelled'),
            ('running', 'finished'), ('running', 'failed'), ('running', 'expired'), ('running', 'cancelled'),
            ('expired', 'queued')) THEN
        RAISE EXCEPTION 'a run that is % does not become %', OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.state = 'running' AND NEW.fence <= OLD.fence THEN
        RAISE EXCEPTION 'a start needs a higher fencing token' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

-- A run begins as queued, or as running where its agent opened it itself.
CREATE FUNCTION run_begins() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> (CASE WHEN NEW.adapter IS NULL THEN 'running' ELSE 'queued' END) THEN
        RAISE EXCEPTION 'a run does not begin as %', NEW.state USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER run_begins BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION run_begins();

-- What a run puts out, without what the redactor took away; numbered from 1 within the run, over all its starts.
CREATE TABLE run_output (
    company_id uuid NOT NULL,
    run_id uuid NOT NULL,
    seq bigint NOT NULL CHECK (seq > 0),
    fence bigint NOT NULL,
    stream text NOT NULL CHECK (stream IN ('output', 'error', 'note')),
    text text NOT NULL CHECK (length(text) <= 16384),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, seq),
    FOREIGN KEY (company_id, run_id) REFERENCES runs (company_id, id) ON DELETE CASCADE
);

-- Limits of an agent; without one, of the company as a whole, and for each of its runs. NULL: none. Money in millionths of a
-- US dollar; a month is a calendar month in UTC.
CREATE TABLE limits (
    company_id uuid NOT NULL REFERENCES companies (id),
    agent_id uuid,
    runs_at_once int CHECK (runs_at_once BETWEEN 1 AND 1000),
    run_seconds int CHECK (run_seconds BETWEEN 10 AND 86400),
    run_tokens bigint CHECK (run_tokens > 0),
    run_micros bigint CHECK (run_micros > 0),
    month_tokens bigint CHECK (month_tokens > 0),
    month_micros bigint CHECK (month_micros > 0),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (company_id, agent_id),
    FOREIGN KEY (company_id, agent_id) REFERENCES agents (company_id, id) ON DELETE CASCADE
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['schedules', 'run_output', 'limits'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY of_company ON %I USING (company_id = (SELECT scope_company()))', t);
        EXECUTE format('CREATE POLICY of_instance ON %I TO company_agents_instance USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_serve', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_instance', t);
    END LOOP;
END $$;

-- As before, and with the fencing token: what a run writes is refused once somebody else has taken it on.
DROP FUNCTION run_token_lookup(uuid[], uuid[]);
CREATE FUNCTION run_token_lookup(claimed_companies uuid[], claimed_runs uuid[])
    RETURNS TABLE (n int, agent_id uuid, agent_name text, agent_state text, run_state text, fence bigint, is_good boolean,
                   id uuid, company_id uuid, name text, value bytea, nonce bytea, key_id text)
    LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. cardinality(claimed_runs) LOOP
        PERFORM set_config('company_agents.company', claimed_companies[i]::text, true);
        RETURN QUERY
            SELECT i, a.id, a.name, a.state, r.state, r.fence, r.state = 'running' AND r.lease_until > clock_timestamp(),
                   s.id, s.company_id, s.name, s.value, s.nonce, s.key_id
            FROM runs r, agents a, secrets s
            WHERE r.id = claimed_runs[i] AND r.company_id = claimed_companies[i]
              AND a.id = r.agent_id AND a.company_id = claimed_companies[i]
              AND s.name = 'run_token/' || claimed_runs[i] AND s.company_id = claimed_companies[i];
    END LOOP;
END $$;

-- How the runs are that a replica executes: each in the scope of the company beside it; `n` says which a row answers.
-- `holds`: it is running with this fencing token, and its lease has not ended; `seconds` are left of its time.
CREATE FUNCTION runs_watched(companies uuid[], ids uuid[], fences bigint[])
    RETURNS TABLE (n int, state text, holds boolean, seconds float8, is_spent boolean) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. cardinality(ids) LOOP
        PERFORM set_config('company_agents.company', companies[i]::text, true);
        RETURN QUERY
            SELECT i, r.state, r.state = 'running' AND r.fence = fences[i] AND r.lease_until > clock_timestamp(),
                   extract(epoch FROM r.started_at - clock_timestamp())::float8 + r.time_limit,
                   coalesce(r.tokens >= r.token_limit, false) OR coalesce(r.micros >= r.micros_limit, false)
            FROM runs r WHERE r.id = ids[i] AND r.company_id = companies[i];
    END LOOP;
END $$;

-- The companies in which a replica has something to do with runs: leases that ran out, runs that wait to be begun, schedules
-- that have come true. Never their rows: each is then worked on in its own scope.
CREATE FUNCTION companies_with_runs_due() RETURNS TABLE (company_id uuid) LANGUAGE plpgsql AS $$
DECLARE
    each uuid;
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    FOR each IN SELECT c.id FROM companies c LOOP
        PERFORM set_config('company_agents.company', each::text, true);
        IF EXISTS (SELECT FROM runs r
                   WHERE r.company_id = each AND r.state = 'running' AND r.lease_until <= clock_timestamp())
           OR EXISTS (SELECT FROM runs r WHERE r.company_id = each AND r.state = 'queued')
           OR EXISTS (SELECT FROM schedules s
                      WHERE s.company_id = each AND s.enabled AND s.next_at <= clock_timestamp()) THEN
            RETURN QUERY SELECT each;
        END IF;
    END LOOP;
END $$;
