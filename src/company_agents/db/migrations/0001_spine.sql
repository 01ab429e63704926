-- The spine: companies, agents, operators, secrets, integrations, work, audit.
--
-- Row-level security. A connection sees the rows of the company that its transaction was set to, by
-- `company_agents.company`; the instance's own rows by `company_agents.instance`; unset, none at all.
-- Policies are forced, so they bind the owner of the tables too. The instance role (master key, backup,
-- the command line) has a policy of its own; it is never on the path of a request.

CREATE FUNCTION scope_company() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('company_agents.company', true), '')::uuid $$;

CREATE FUNCTION scope_instance() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT current_setting('company_agents.instance', true) = 'on' $$;

CREATE TABLE instance (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO instance (id) VALUES (gen_random_uuid());

CREATE TABLE companies (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Counts every seal. A sequence is not undone by a rollback or a crash, so that it may count too many, never
-- too few; and it makes no writer wait for another.
CREATE SEQUENCE master_key_seals AS bigint MINVALUE 0 START 0;

-- One row per master key that was ever active, or is about to be. Its seals are those counted from
-- `seals_from` to `seals_to` (NULL: now).
CREATE TABLE master_keys (
    key_id text PRIMARY KEY CHECK (key_id ~ '^[0-9a-f]{16}$'),
    state text NOT NULL
        CHECK (state IN ('staged', 'active', 'retiring', 'archived', 'destroying', 'destroyed')),
    source text NOT NULL,
    seals_from bigint NOT NULL DEFAULT 0,
    seals_to bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    activated_at timestamptz,
    archived_at timestamptz,
    ends_at timestamptz
);
CREATE UNIQUE INDEX master_keys_one_active ON master_keys ((true)) WHERE state = 'active';

-- Every secret, sealed. Space is left in the pages, and no index has a column that a use or a rotation
-- changes, so that both update in place.
CREATE TABLE secrets (
    id uuid PRIMARY KEY,
    company_id uuid REFERENCES companies (id),
    name text NOT NULL,
    value bytea NOT NULL,
    nonce bytea NOT NULL CHECK (length(nonce) = 12),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    key_id text NOT NULL,
    -- The name first: it is what is looked for, also where there is no company.
    UNIQUE NULLS NOT DISTINCT (name, company_id)
) WITH (fillfactor = 50);
CREATE INDEX secrets_by_company ON secrets (company_id);
-- A sealed value does not compress; trying costs time on every write.
ALTER TABLE secrets ALTER COLUMN value SET STORAGE EXTERNAL;

CREATE TABLE agents (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL REFERENCES companies (id),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'retired')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (company_id, name),
    UNIQUE (company_id, id)
);

CREATE INDEX agents_by_time ON agents (company_id, created_at, id);

CREATE TABLE integrations (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL REFERENCES companies (id),
    provider text NOT NULL,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    -- For people. What the outgoing call obeys is sealed with the credential.
    destination text NOT NULL,
    status text NOT NULL CHECK (status IN ('connected', 'needs attention')),
    status_reason text NOT NULL DEFAULT '',
    status_since timestamptz NOT NULL DEFAULT now(),
    scopes text[] NOT NULL DEFAULT '{}',
    allow_all boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (company_id, name),
    UNIQUE (company_id, id)
);

CREATE TABLE credential_versions (
    company_id uuid NOT NULL,
    integration_id uuid NOT NULL,
    version int NOT NULL CHECK (version > 0),
    state text NOT NULL CHECK (state IN ('current', 'draining', 'retired')),
    -- A retired version has no secret any more; its row stays as history.
    secret_id uuid REFERENCES secrets (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz,
    PRIMARY KEY (integration_id, version),
    FOREIGN KEY (company_id, integration_id) REFERENCES integrations (company_id, id) ON DELETE CASCADE,
    CHECK ((state = 'retired') = (secret_id IS NULL))
);
CREATE UNIQUE INDEX credential_versions_one_current ON credential_versions (integration_id) WHERE state = 'current';
CREATE INDEX credential_versions_by_secret ON credential_versions (secret_id);

CREATE TABLE integration_agents (
    company_id uuid NOT NULL,
    integration_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (integration_id, agent_id),
    FOREIGN KEY (company_id, integration_id) REFERENCES integrations (company_id, id) ON DELETE CASCADE,
    FOREIGN KEY (company_id, agent_id) REFERENCES agents (company_id, id) ON DELETE CASCADE
);

CREATE TABLE tasks (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL REFERENCES companies (id),
    title text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    description text NOT NULL DEFAULT '',
    status text NOT NULL DEFAULT 'open'
        CHECK (status IN ('open', 'in_progress', 'blocked', 'done', 'cancelled')),
    assignee uuid,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (company_id, id),
    FOREIGN KEY (company_id, assignee) REFERENCES agents (company_id, id)
);
CREATE INDEX tasks_by_time ON tasks (company_id, created_at, id);

CREATE TABLE comments (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL,
    task_id uuid NOT NULL,
    author text NOT NULL,
    text text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (company_id, task_id) REFERENCES tasks (company_id, id) ON DELETE CASCADE
);
CREATE INDEX comments_by_task ON comments (task_id, created_at, id);

CREATE TABLE memory (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    title text NOT NULL DEFAULT '',
    content text NOT NULL,
    tags text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    words tsvector NOT NULL,
    FOREIGN KEY (company_id, agent_id) REFERENCES agents (company_id, id) ON DELETE CASCADE
);
CREATE INDEX memory_by_agent ON memory (agent_id, updated_at DESC);
CREATE INDEX memory_words ON memory USING gin (words);

-- The audit chains: one per company, one for the instance (its id). `record` is the exact text that was
-- linked; everything that an event says is in it, so nothing beside it can be altered unseen.
CREATE TABLE audit_events (
    chain uuid NOT NULL,
    seq bigint NOT NULL CHECK (seq > 0),
    record text NOT NULL,
    audit_key int NOT NULL,
    mac bytea NOT NULL,
    PRIMARY KEY (chain, seq)
);
CREATE TABLE audit_heads (
    chain uuid PRIMARY KEY,
    seq bigint NOT NULL,
    mac bytea NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE operators (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    password_hash text NOT NULL,
    -- The last time step whose code was taken: a code is good once (RFC 6238, 5.2).
    totp_step bigint NOT NULL DEFAULT 0,
    instance_owner boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz
);
CREATE TABLE memberships (
    operator_id uuid NOT NULL REFERENCES operators (id) ON DELETE CASCADE,
    company_id uuid NOT NULL REFERENCES companies (id),
    role text NOT NULL CHECK (role IN ('owner', 'operator', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (operator_id, company_id)
);
CREATE TABLE sessions (
    id uuid PRIMARY KEY,
    operator_id uuid NOT NULL REFERENCES operators (id) ON DELETE CASCADE,
    -- SHA-256 of 256 random bits: there is nothing to guess from it.
    token_hash bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    ends_at timestamptz NOT NULL,
    confirmed_at timestamptz NOT NULL DEFAULT now(),
    address text NOT NULL,
    browser text NOT NULL
);
CREATE TABLE sign_in_links (
    id uuid PRIMARY KEY,
    token_hash bytea NOT NULL UNIQUE,
    -- NULL: for a new operator.
    operator_id uuid REFERENCES operators (id) ON DELETE CASCADE,
    instance_owner boolean NOT NULL,
    company_id uuid REFERENCES companies (id),
    role text CHECK (role IN ('owner', 'operator', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    ends_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE TABLE operator_tokens (
    id uuid PRIMARY KEY,
    operator_id uuid NOT NULL REFERENCES operators (id) ON DELETE CASCADE,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    role text NOT NULL CHECK (role IN ('owner', 'operator', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    ends_at timestamptz NOT NULL,
    revoked_at timestamptz
);
-- Guessing slows down: per account and address, and per account.
CREATE TABLE sign_in_failures (
    who text PRIMARY KEY,
    failures int NOT NULL,
    blocked_until timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- What a creation with an Idempotency-Key answered. A token is never in it.
CREATE TABLE idempotency_keys (
    company_id uuid REFERENCES companies (id),
    principal text NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    response jsonb,
    status int,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (principal, key, company_id)
);

-- Rows of a company.
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['agents', 'integrations', 'credential_versions', 'integration_agents',
                             'tasks', 'comments', 'memory'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY of_company ON %I USING (company_id = (SELECT scope_company()))', t);
        EXECUTE format('CREATE POLICY of_instance ON %I TO company_agents_instance USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_serve', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_instance', t);
    END LOOP;
    -- Rows of a company, or of the instance where there is no company.
    FOREACH t IN ARRAY ARRAY['secrets', 'idempotency_keys'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY of_company ON %I USING (company_id = (SELECT scope_company())'
                       ' OR (company_id IS NULL AND (SELECT scope_instance())))', t);
        EXECUTE format('CREATE POLICY of_instance ON %I TO company_agents_instance USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_serve', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_instance', t);
    END LOOP;
    -- Rows of the instance.
    FOREACH t IN ARRAY ARRAY['operators', 'sessions', 'sign_in_links', 'operator_tokens', 'sign_in_failures'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY of_scope ON %I USING ((SELECT scope_instance()))', t);
        EXECUTE format('CREATE POLICY of_instance ON %I TO company_agents_instance USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_serve', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_instance', t);
    END LOOP;
END $$;

ALTER TABLE companies ENABLE ROW LEVEL SECURITY;
ALTER TABLE companies FORCE ROW LEVEL SECURITY;
CREATE POLICY of_company ON companies USING (id = (SELECT scope_company()) OR (SELECT scope_instance()));
CREATE POLICY of_instance ON companies TO company_agents_instance USING (true);
ALTER TABLE memberships ENABLE ROW LEVEL SECURITY;
ALTER TABLE memberships FORCE ROW LEVEL SECURITY;
CREATE POLICY of_company ON memberships
    USING (company_id = (SELECT scope_company()) OR (SELECT scope_instance()));
CREATE POLICY of_instance ON memberships TO company_agents_instance USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON memberships TO company_agents_serve, company_agents_instance;
GRANT SELECT, INSERT ON companies TO company_agents_serve;
GRANT SELECT, INSERT, UPDATE, DELETE ON companies TO company_agents_instance;

-- Append-only: neither role may change or delete an event. The chain of the instance is that of its id.
ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events FORCE ROW LEVEL SECURITY;
CREATE POLICY of_chain ON audit_events USING (chain = (SELECT scope_company())
    OR ((SELECT scope_instance()) AND chain = (SELECT id FROM instance)));
CREATE POLICY of_instance ON audit_events TO company_agents_instance USING (true);
ALTER TABLE audit_heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_heads FORCE ROW LEVEL SECURITY;
CREATE POLICY of_chain ON audit_heads USING (chain = (SELECT scope_company())
    OR ((SELECT scope_instance()) AND chain = (SELECT id FROM instance)));
CREATE POLICY of_instance ON audit_heads TO company_agents_instance USING (true);
GRANT SELECT, INSERT ON audit_events TO company_agents_serve, company_agents_instance;
GRANT SELECT, INSERT, UPDATE ON audit_heads TO company_agents_serve, company_agents_instance;

GRANT SELECT ON instance TO company_agents_serve, company_agents_instance;
GRANT UPDATE ON instance TO company_agents_instance;
GRANT SELECT ON master_keys TO company_agents_serve;
GRANT USAGE, SELECT ON SEQUENCE master_key_seals TO company_agents_serve;
GRANT SELECT, INSERT, UPDATE ON master_keys TO company_agents_instance;
GRANT USAGE, SELECT, UPDATE ON SEQUENCE master_key_seals TO company_agents_instance;

-- Who calls with these agent tokens: the agents and their sealed tokens, each in the scope of the company that
-- its token claims; `n` says which claim a row answers. In one call, because it stands before every request; as a
-- function, because a setting made in the same statement as the read would not bind that read. The name is made of
-- the claim, not of the agent's row: under row-level security an index is not used for an expression over a column.
CREATE FUNCTION agent_token_lookup(claimed_companies uuid[], claimed_agents uuid[])
    RETURNS TABLE (n int, agent_name text, agent_state text, id uuid, company_id uuid, name text, value bytea,
                   nonce bytea, key_id text)
    LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. cardinality(claimed_agents) LOOP
        PERFORM set_config('company_agents.company', claimed_companies[i]::text, true);
        RETURN QUERY
            SELECT i, a.name, a.state, s.id, s.company_id, s.name, s.value, s.nonce, s.key_id
            FROM agents a, secrets s
            WHERE a.id = claimed_agents[i] AND a.company_id = claimed_companies[i]
              AND s.name = 'agent_token/' || claimed_agents[i] AND s.company_id = claimed_companies[i];
    END LOOP;
END $$;

-- The same for an operator token.
CREATE FUNCTION operator_token_lookup(claimed_token uuid)
    RETURNS TABLE (token_role text, operator_id uuid, operator_name text, instance_owner boolean, id uuid,
                   company_id uuid, name text, value bytea, nonce bytea, key_id text)
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    RETURN QUERY
        SELECT t.role, o.id, o.name, o.instance_owner, s.id, s.company_id, s.name, s.value, s.nonce, s.key_id
        FROM operator_tokens t JOIN operators o ON o.id = t.operator_id
        JOIN secrets s ON s.company_id IS NULL AND s.name = 'operator_token/' || claimed_token
        WHERE t.id = claimed_token AND t.revoked_at IS NULL AND t.ends_at > now() AND o.disabled_at IS NULL;
END $$;

-- What an operator is in a company: no row where there is no such company, no role where they are no member.
CREATE FUNCTION operator_role_lookup(operator uuid, company uuid) RETURNS TABLE (role text)
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('company_agents.company', company::text, true),
            set_config('company_agents.instance', 'on', true);
    RETURN QUERY
        SELECT CASE WHEN o.instance_owner THEN 'owner' ELSE m.role END
        FROM companies c
        LEFT JOIN operators o ON o.id = operator AND o.disabled_at IS NULL
        LEFT JOIN memberships m ON m.operator_id = o.id AND m.company_id = c.id
        WHERE c.id = company;
END $$;

-- Sealed secrets, each of the company beside it; `n` says which a row answers.
CREATE FUNCTION secret_lookup(companies uuid[], secret_ids uuid[])
    RETURNS TABLE (n int, id uuid, company_id uuid, name text, value bytea, nonce bytea, key_id text)
    LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. cardinality(secret_ids) LOOP
        PERFORM set_config('company_agents.company', companies[i]::text, true);
        RETURN QUERY
            SELECT i, s.id, s.company_id, s.name, s.value, s.nonce, s.key_id
            FROM secrets s WHERE s.id = secret_ids[i] AND s.company_id = companies[i];
    END LOOP;
END $$;

-- When secrets were last used; called in batches.
CREATE FUNCTION secrets_touch(scope uuid, ids uuid[], times timestamptz[]) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('company_agents.company', coalesce(scope::text, ''), true);
    PERFORM set_config('company_agents.instance', CASE WHEN scope IS NULL THEN 'on' ELSE '' END, true);
    UPDATE secrets s SET last_used_at = greatest(s.last_used_at, u.at)
    FROM unnest(ids, times) AS u (id, at) WHERE s.id = u.id;
END $$;

-- Before a write to `secrets`: the writers' lock, held to the end of the transaction, and then the active
-- key, with its seals, this one counted. In this order: a rotation that switches the key waits for the
-- lock, so what is read here stays true.
CREATE FUNCTION secrets_writer() RETURNS TABLE (key_id text, seals bigint) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7301001);
    RETURN QUERY
        SELECT k.key_id, nextval('master_key_seals') - k.seals_from + 1 FROM master_keys k WHERE k.state = 'active';
END $$;

-- Append linked events to their chains, if each chain still ends where the caller linked them; the
-- chains that have moved on are returned with their ends, and nothing was appended to those. With one that has
-- lost its end, nothing is appended at all. The
-- chains come sorted, so that two replicas wait for each other in one order. Records come as one text,
-- a line each, and MACs as one value of 32 bytes each: arrays of them take longer to write than to store.
CREATE FUNCTION audit_append(chains uuid[], base_seqs bigint[], base_macs bytea, counts int[], records text,
                             macs bytea, key_number int)
    RETURNS TABLE (chain uuid, seq bigint, mac bytea) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    i int;
    done int := 0;
    lines text[] := string_to_array(records, E'\n');
    head bytea;
    the_instance uuid := (SELECT id FROM instance);
BEGIN
    FOR i IN 1 .. cardinality(chains) LOOP
        PERFORM set_config('company_agents.company',
                           CASE WHEN chains[i] = the_instance THEN '' ELSE chains[i]::text END, true),
                set_config('company_agents.instance', CASE WHEN chains[i] = the_instance THEN 'on' ELSE '' END, true);
        head := substring(macs FROM (done + counts[i] - 1) * 32 + 1 FOR 32);
        IF base_seqs[i] = 0 THEN
            INSERT INTO audit_heads VALUES (chains[i], counts[i], head) ON CONFLICT DO NOTHING;
        ELSE
            UPDATE audit_heads h SET seq = base_seqs[i] + counts[i], mac = head
            WHERE h.chain = chains[i] AND h.seq = base_seqs[i]
              AND h.mac = substring(base_macs FROM (i - 1) * 32 + 1 FOR 32);
        END IF;
        IF FOUND THEN
            INSERT INTO audit_events
            SELECT chains[i], base_seqs[i] + e.n, e.line, key_number,
                   substring(macs FROM (done + e.n::int - 1) * 32 + 1 FOR 32)
            FROM unnest(lines[done + 1 : done + counts[i]]) WITH ORDINALITY AS e (line, n);
        ELSE
            RETURN QUERY SELECT h.chain, h.seq, h.mac FROM audit_heads h WHERE h.chain = chains[i];
            IF NOT FOUND THEN
                RAISE EXCEPTION 'a chain has lost its end' USING ERRCODE = 'data_corrupted';
            END IF;
        END IF;
        done := done + counts[i];
    END LOOP;
END $$;

-- The ends of chains, held to the end of the transaction: what is linked to them then fits. The chains come sorted.
CREATE FUNCTION audit_hold(chains uuid[]) RETURNS TABLE (chain uuid, seq bigint, mac bytea) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    the_instance uuid := (SELECT id FROM instance);
BEGIN
    FOR i IN 1 .. cardinality(chains) LOOP
        PERFORM set_config('company_agents.company',
                           CASE WHEN chains[i] = the_instance THEN '' ELSE chains[i]::text END, true),
                set_config('company_agents.instance', CASE WHEN chains[i] = the_instance THEN 'on' ELSE '' END, true);
        RETURN QUERY SELECT h.chain, h.seq, h.mac FROM audit_heads h WHERE h.chain = chains[i] FOR UPDATE;
    END LOOP;
END $$;
