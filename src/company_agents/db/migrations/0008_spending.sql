-- What calls have cost: one entry per call that said so; sums by day and model, for people; sums by month, which budgets are
-- compared with. Money is in millionths of a US dollar.

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
    -- NULL: no price is known for this model.
    micros bigint CHECK (micros >= 0),
    -- The reply did not say how many tokens; they were reckoned from the length of the texts.
    estimated boolean NOT NULL DEFAULT false,
    -- Somebody else had taken the run on by then: the run's own counters do not have it.
    late boolean NOT NULL DEFAULT false,
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
    provider text NOT NULL,
    model text NOT NULL,
    calls bigint NOT NULL,
    tokens bigint NOT NULL,
    micros bigint NOT NULL,
    -- Calls among them whose price is not known, and whose tokens were estimated.
    unpriced bigint NOT NULL,
    estimated bigint NOT NULL,
    PRIMARY KEY (company_id, agent_id, day, provider, model),
    FOREIGN KEY (company_id, agent_id) REFERENCES agents (company_id, id)
);
CREATE INDEX spending_by_day ON spending (company_id, day);

-- Of an agent in a month; without one, of the company.
CREATE TABLE spending_months (
    company_id uuid NOT NULL REFERENCES companies (id),
    agent_id uuid,
    -- Its first day, in UTC.
    month date NOT NULL,
    calls bigint NOT NULL,
    tokens bigint NOT NULL,
    micros bigint NOT NULL,
    unpriced bigint NOT NULL,
    -- Which budgets were said to be near their end, or spent: each once.
    said text[] NOT NULL DEFAULT '{}',
    UNIQUE NULLS NOT DISTINCT (company_id, agent_id, month),
    FOREIGN KEY (company_id, agent_id) REFERENCES agents (company_id, id)
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['cost_entries', 'spending', 'spending_months'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY of_company ON %I USING (company_id = (SELECT scope_company()))', t);
        EXECUTE format('CREATE POLICY of_instance ON %I TO company_agents_instance USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_serve', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_instance', t);
    END LOOP;
END $$;
