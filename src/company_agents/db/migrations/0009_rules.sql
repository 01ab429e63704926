-- What an agent may do with an integration: methods and paths, how often, and what a person has to approve.

-- Rules such as `GET /repos/**`. `allows`: nothing else may be called; empty: anything may. `asks`: a person is asked first.
-- Those of an integration are for agents of which nothing is said by themselves.
ALTER TABLE integration_agents
    ADD COLUMN allows text[] NOT NULL DEFAULT '{}',
    ADD COLUMN asks text[] NOT NULL DEFAULT '{}',
    ADD COLUMN per_minute int CHECK (per_minute > 0);
ALTER TABLE integrations
    ADD COLUMN allows text[] NOT NULL DEFAULT '{}',
    ADD COLUMN asks text[] NOT NULL DEFAULT '{}',
    ADD COLUMN per_minute int CHECK (per_minute > 0);

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
);

-- Requests that wait for a person. What is sent stands sealed in `request`, and the reply in `reply`; `digest` is the SHA-256
-- of what was shown.
CREATE TABLE approvals (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL REFERENCES companies (id),
    integration_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    run_id uuid,
    state text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'approved', 'sending', 'done', 'failed', 'uncertain', 'refused', 'expired')),
    digest bytea NOT NULL CHECK (length(digest) = 32),
    method text NOT NULL,
    host text NOT NULL,
    path text NOT NULL,
    version int NOT NULL,
    request uuid REFERENCES secrets (id),
    reply uuid REFERENCES secrets (id),
    reply_status int,
    reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 1000),
    asked_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    decided_at timestamptz,
    decided_by text,
    ended_at timestamptz,
    collected_at timestamptz,
    UNIQUE (company_id, id),
    FOREIGN KEY (company_id, integration_id) REFERENCES integrations (company_id, id) ON DELETE CASCADE,
    FOREIGN KEY (company_id, agent_id) REFERENCES agents (company_id, id) ON DELETE CASCADE
);
CREATE INDEX approvals_by_time ON approvals (company_id, asked_at, id);
CREATE INDEX approvals_open ON approvals (company_id, expires_at) WHERE state IN ('waiting', 'approved', 'sending');
-- The same request asked twice is one.
CREATE UNIQUE INDEX approvals_one_open ON approvals (company_id, agent_id, digest)
    WHERE state IN ('waiting', 'approved', 'sending');

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
