-- What goes out as the audit chains grow: events to a company's webhooks, and whole chains to the sinks of an operator.

-- Where it goes to, and what signs it, is sealed in the secret `webhook/<id>`; the address here is for people. `seq` and
-- `instance_seq` say up to which event the chain of the company, and that of the instance, were read for it.
CREATE TABLE webhooks (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL REFERENCES companies (id),
    url text NOT NULL CHECK (length(url) <= 2000),
    events text[] NOT NULL,
    secret_id uuid NOT NULL REFERENCES secrets (id),
    status text NOT NULL DEFAULT 'enabled' CHECK (status IN ('enabled', 'disabled')),
    status_reason text NOT NULL DEFAULT '',
    status_since timestamptz NOT NULL DEFAULT now(),
    failing_since timestamptz,
    seq bigint NOT NULL,
    instance_seq bigint NOT NULL,
    -- Until when a rotated secret signs beside the new one; NULL: there is none.
    previous_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (company_id, id)
);
CREATE INDEX webhooks_by_time ON webhooks (company_id, created_at, id);

-- One event for one webhook, written in the transaction that moves `webhooks.seq` past it. Whoever sends it claims it for
-- a moment; a claim that has ended, ended with its holder.
CREATE TABLE webhook_deliveries (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    message_id text NOT NULL,
    type text NOT NULL,
    payload text NOT NULL,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'given up')),
    attempts int NOT NULL DEFAULT 0,
    -- When it is tried next, and at the latest.
    due_at timestamptz NOT NULL DEFAULT now(),
    claim uuid,
    claimed_until timestamptz,
    first_tried_at timestamptz,
    tried_at timestamptz,
    -- The last answer: an HTTP status, or why there was none.
    answer int,
    error text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (webhook_id, message_id),
    FOREIGN KEY (company_id, webhook_id) REFERENCES webhooks (company_id, id) ON DELETE CASCADE
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, due_at) WHERE state = 'waiting';
CREATE INDEX webhook_deliveries_ended ON webhook_deliveries (webhook_id, created_at) WHERE state <> 'waiting';
CREATE INDEX webhook_deliveries_by_time ON webhook_deliveries (webhook_id, created_at DESC, id);

-- How far each chain went out to a sink that does not say so itself; `sink` is made from its address.
CREATE TABLE audit_sink_cursors (
    sink text NOT NULL,
    chain uuid NOT NULL,
    seq bigint NOT NULL,
    mac bytea NOT NULL,
    PRIMARY KEY (sink, chain)
) WITH (fillfactor = 50);

-- How a sink is, as the orchestrator says that wrote to it last.
CREATE TABLE audit_sinks (
    sink text PRIMARY KEY,
    address text NOT NULL,
    written_at timestamptz,
    problem text NOT NULL DEFAULT '',
    seen_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['webhooks', 'webhook_deliveries', 'audit_sink_cursors', 'audit_sinks'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY of_instance ON %I TO company_agents_instance USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_serve', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_instance', t);
    END LOOP;
END $$;
CREATE POLICY of_company ON webhooks USING (company_id = (SELECT scope_company()));
CREATE POLICY of_company ON webhook_deliveries USING (company_id = (SELECT scope_company()));
CREATE POLICY of_chain ON audit_sink_cursors USING (chain = (SELECT scope_company())
    OR ((SELECT scope_instance()) AND chain = (SELECT id FROM instance)));
CREATE POLICY of_scope ON audit_sinks USING ((SELECT scope_instance()));

-- The companies for whose webhooks there is something to do: events to be read, deliveries that are due, secrets that have
-- signed long enough. Never their rows: each is then worked on in its own scope. `the_seq` is the end of the instance's
-- chain as far as the caller knows it.
CREATE FUNCTION companies_with_webhooks_due(the_seq bigint) RETURNS TABLE (company_id uuid) LANGUAGE plpgsql AS $$
DECLARE
    each uuid;
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    FOR each IN SELECT c.id FROM companies c LOOP
        PERFORM set_config('company_agents.company', each::text, true);
        IF EXISTS (SELECT FROM webhooks w WHERE w.company_id = each
                   AND (w.status = 'enabled'
                        AND (w.seq < (SELECT h.seq FROM audit_heads h WHERE h.chain = each)
                             OR w.instance_seq < the_seq
                             OR EXISTS (SELECT FROM webhook_deliveries d WHERE d.webhook_id = w.id
                                        AND d.state = 'waiting' AND d.due_at <= now()
                                        AND (d.claimed_until IS NULL OR d.claimed_until <= now())))
                        OR w.previous_until <= now())) THEN
            RETURN QUERY SELECT each;
        END IF;
    END LOOP;
END $$;

-- The companies with deliveries that ended and are older than they are kept. Never their rows, as above.
CREATE FUNCTION companies_with_old_deliveries() RETURNS TABLE (company_id uuid) LANGUAGE plpgsql AS $$
DECLARE
    each uuid;
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    FOR each IN SELECT c.id FROM companies c LOOP
        PERFORM set_config('company_agents.company', each::text, true);
        IF EXISTS (SELECT FROM webhooks w JOIN webhook_deliveries d ON d.webhook_id = w.id
                   WHERE w.company_id = each AND d.state <> 'waiting' AND d.created_at < now() - interval '30 days') THEN
            RETURN QUERY SELECT each;
        END IF;
    END LOOP;
END $$;

-- Where each chain ends, and how far it went out to a sink (0: not at all).
CREATE FUNCTION audit_ends(to_sink text) RETURNS TABLE (chain uuid, seq bigint, mac bytea, sent bigint)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    each uuid;
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    RETURN QUERY SELECT h.chain, h.seq, h.mac, coalesce(c.seq, 0)
        FROM audit_heads h JOIN instance i ON i.id = h.chain
        LEFT JOIN audit_sink_cursors c ON c.sink = to_sink AND c.chain = h.chain;
    FOR each IN SELECT c.id FROM companies c LOOP
        PERFORM set_config('company_agents.company', each::text, true);
        RETURN QUERY SELECT h.chain, h.seq, h.mac, coalesce(c.seq, 0)
            FROM audit_heads h LEFT JOIN audit_sink_cursors c ON c.sink = to_sink AND c.chain = h.chain
            WHERE h.chain = each;
    END LOOP;
END $$;
