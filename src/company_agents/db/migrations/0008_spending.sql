-- What calls have cost: one entry per call that said so, and sums by day, which budgets are compared with.

CREATE TABLE cost_entries (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL REFERENCES companies (id),
    agent_id uuid NOT NULL,
    -- Neither is a reference: an entry outlives the run and the integration.
    run_id uuid,
    integration_id uuid NOT NULL,
    provider text NOT NULL,
    model text NOT NULL CHECK (length(model) <= 200),
    input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
    output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
    cache_read_tokens bigint NOT NULL DEFAULT 0 CHECK (cache_read_tokens >= 0),
    cache_write_tokens bigint NOT NULL DEFAULT 0 CHECK (cache_write_tokens >= 0),
    -- Millionths of a US dollar; NULL: no price is known for this model.
    micros bigint CHECK (micros >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (company_id, agent_id) REFERENCES agents (company_id, id)
);
CREATE INDEX cost_entries_by_time ON cost_entries (company_id, created_at, id);
CREATE INDEX cost_entries_by_run ON cost_entries (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE spending (
    company_id uuid NOT NULL REFERENCES companies (id),
    agent_id uuid NOT NULL,
    -- In UTC.
    day date NOT NULL,
    calls bigint NOT NULL DEFAULT 0,
    tokens bigint NOT NULL DEFAULT 0,
    micros bigint NOT NULL DEFAULT 0,
    -- Calls among them whose price is not known.
    unpriced bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (company_id, agent_id, day),
    FOREIGN KEY (company_id, agent_id) REFERENCES agents (company_id, id)
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['cost_entries', 'spending'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY of_company ON %I USING (company_id = (SELECT scope_company()))', t);
        EXECUTE format('CREATE POLICY of_instance ON %I TO company_agents_instance USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_serve', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_instance', t);
    END LOOP;
END $$;
