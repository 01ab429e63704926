-- What an agent may do with an integration: methods and paths, how often, and what a person has to approve.

-- Rules such as `GET /repos/**`. `allows`: nothing else may be called; none: anything may. `asks`: a person is asked first.
-- Those of an integration are for all agents, as far as nothing is said of an agent by itself (NULL). `per_minute` 0: no limit.
ALTER TABLE integration_agents
    ADD COLUMN allows text[] CHECK (cardinality(allows) <= 100),
    ADD COLUMN asks text[] CHECK (cardinality(asks) <= 100),
    ADD COLUMN per_minute int CHECK (per_minute >= 0);
ALTER TABLE integrations
    ADD COLUMN allows text[] NOT NULL DEFAULT '{}' CHECK (cardinality(allows) <= 100),
    ADD COLUMN asks text[] NOT NULL DEFAULT '{}' CHECK (cardinality(asks) <= 100),
    ADD COLUMN per_minute int NOT NULL DEFAULT 0 CHECK (per_minute >= 0);

-- Calls of one agent with one integration in one minute; counted where there is a limit.
CREATE TABLE call_counts (
    company_id uuid NOT NULL,
    integration_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    minute timestamptz NOT NULL,
    calls int NOT NULL,
    PRIMARY KEY (integration_id, agent_id),
    FOREIGN KEY (company_id, integration_id) REFERENCES integrations (company_id, id) ON DELETE CASCADE,
    FOREIGN KEY (company_id, agent_id) REFERENCES agents (company_id, id) ON DELETE CASCADE
) WITH (fillfactor = 50);

-- Requests that wait for a person, or did. What is sent stands sealed in `request`, and what came back in `reply`. `method`,
-- `host` and `path` (a template of it) are for people who look through a list.
CREATE TABLE approvals (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL REFERENCES companies (id),
    integration_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    -- No reference: an approval outlives the run.
    run_id uuid,
    fence bigint,
    state text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'approved', 'sending', 'done', 'failed', 'uncertain', 'refused', 'expired')),
    -- HMACs under a key that is sealed: of all that is sent, and of what makes two requests the same one. Nobody finds out
    -- from them what a short body says.
    digest bytea NOT NULL CHECK (length(digest) = 32),
    likeness bytea NOT NULL CHECK (length(likeness) = 32),
    method text NOT NULL CHECK (length(method) <= 40),
    host text NOT NULL CHECK (length(host) <= 300),
    path text NOT NULL CHECK (length(path) <= 200),
    version int NOT NULL,
    -- Bytes of the body.
    size int NOT NULL,
    request uuid REFERENCES secrets (id),
    reply uuid REFERENCES secrets (id),
    reply_status int,
    -- Why it was not sent, or is uncertain.
    reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 1000),
    -- What the person who decided says to the agent.
    note text NOT NULL DEFAULT '' CHECK (length(note) <= 1000),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    decided_at timestamptz,
    decided_by text,
    -- When somebody last began to check and send it; nobody else does for a while.
    tried_at timestamptz,
    -- Until then whoever sends it has an answer, or has died.
    sending_until timestamptz,
    ended_at timestamptz,
    collected_at timestamptz,
    UNIQUE (company_id, id),
    FOREIGN KEY (company_id, integration_id) REFERENCES integrations (company_id, id) ON DELETE CASCADE,
    FOREIGN KEY (company_id, agent_id) REFERENCES agents (company_id, id) ON DELETE CASCADE,
    CHECK (state NOT IN ('approved', 'sending', 'done', 'refused') OR decided_by IS NOT NULL),
    CHECK ((decided_at IS NULL) = (decided_by IS NULL)),
    CHECK (state <> 'sending' OR sending_until IS NOT NULL),
    CHECK ((ended_at IS NOT NULL) = (state IN ('done', 'failed', 'uncertain', 'refused', 'expired')))
);
CREATE INDEX approvals_by_time ON approvals (company_id, created_at, id);
CREATE INDEX approvals_open ON approvals (company_id, expires_at) WHERE ended_at IS NULL;
CREATE INDEX approvals_ended ON approvals (company_id, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX approvals_kept ON approvals (company_id, ended_at) WHERE request IS NOT NULL AND ended_at IS NOT NULL;
CREATE INDEX approvals_by_likeness ON approvals (agent_id, likeness);
CREATE INDEX approvals_by_secret ON approvals (request);
CREATE INDEX approvals_by_reply ON approvals (reply) WHERE reply IS NOT NULL;
-- The same request asked twice is one.
CREATE UNIQUE INDEX approvals_one_open ON approvals (agent_id, likeness) WHERE ended_at IS NULL;

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['call_counts', 'approvals'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY of_company ON %I USING (company_id = (SELECT scope_company()))', t);
        EXECUTE format('CREATE POLICY of_instance ON %I TO company_agents_instance USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_serve', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_instance', t);
    END LOOP;
END $$;

-- It is decided once, and sent once: nothing goes back to where it could be sent again. What is to be sent never changes.
CREATE FUNCTION approval_moves() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state <> NEW.state AND (OLD.state, NEW.state) NOT IN (('waiting', 'approved'), ('waiting', 'refused'),
            ('waiting', 'expired'), ('approved', 'sending'), ('approved', 'failed'), ('sending', 'done'),
            ('sending', 'failed'), ('sending', 'uncertain')) THEN
        RAISE EXCEPTION 'an approval that is % does not become %', OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    IF (OLD.digest, OLD.likeness, OLD.integration_id, OLD.agent_id, OLD.version, OLD.created_at, OLD.expires_at)
        IS DISTINCT FROM (NEW.digest, NEW.likeness, NEW.integration_id, NEW.agent_id, NEW.version, NEW.created_at, NEW.expires_at)
       OR (NEW.request IS DISTINCT FROM OLD.request AND NEW.request IS NOT NULL) THEN
        RAISE EXCEPTION 'what was asked for does not change' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER approval_moves BEFORE UPDATE ON approvals FOR EACH ROW EXECUTE FUNCTION approval_moves();

-- Its secrets go with it, whatever takes it: its integration, its agent, or time.
CREATE FUNCTION approval_gone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM secrets s WHERE s.id IN (OLD.request, OLD.reply) AND s.company_id = OLD.company_id;
    RETURN NULL;
END $$;
CREATE TRIGGER approval_gone AFTER DELETE ON approvals FOR EACH ROW EXECUTE FUNCTION approval_gone();

-- The companies in which approvals are to be swept up: past their time, to be sent, being sent by nobody any more, or so long
-- over that their secrets or their rows go.
CREATE FUNCTION companies_with_approvals() RETURNS TABLE (company_id uuid) LANGUAGE plpgsql AS $$
DECLARE
    each uuid;
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    FOR each IN SELECT c.id FROM companies c LOOP
        PERFORM set_config('company_agents.company', each::text, true);
        IF EXISTS (SELECT FROM approvals a WHERE a.company_id = each AND a.ended_at IS NULL
                   AND (a.state <> 'waiting' OR a.expires_at <= clock_timestamp()))
           OR EXISTS (SELECT FROM approvals a WHERE a.company_id = each AND a.request IS NOT NULL
                      AND a.ended_at < now() - interval '1 hour'
                      AND (a.collected_at < now() - interval '1 hour' OR a.state = 'expired'
                           OR a.ended_at < now() - interval '7 days'))
           OR EXISTS (SELECT FROM approvals a WHERE a.company_id = each AND a.ended_at < now() - interval '90 days') THEN
            RETURN QUERY SELECT each;
        END IF;
    END LOOP;
END $$;
