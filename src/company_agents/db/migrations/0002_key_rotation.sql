-- Rotation of the master key: one rotator at a time, replicas that confirm, backups that need a key, and the panic.

-- Sealed: every replica drops its keys until an owner unseals. `server` is the database server that this instance last
-- ran on, as far as it says: another one, or another history of the same one, may be a copy beside the original.
ALTER TABLE instance ADD COLUMN sealed_at timestamptz, ADD COLUMN sealed_by text, ADD COLUMN server text;
GRANT UPDATE (sealed_at, sealed_by) ON instance TO company_agents_serve;

-- `rewrapped`: secrets that a rotation moved to this key. `recorded`: whether the audit log has what became of it.
ALTER TABLE master_keys
    ADD COLUMN rewrapped bigint NOT NULL DEFAULT 0,
    ADD COLUMN recorded boolean NOT NULL DEFAULT true,
    ADD COLUMN compromised_at timestamptz;

-- The fence. A rotator takes the next number with a nonce of its own and names both in each of its transactions: one
-- that was overtaken changes nothing any more. Two histories of one database may count alike; their nonces differ.
CREATE TABLE key_fence (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    number bigint NOT NULL DEFAULT 0,
    nonce uuid NOT NULL DEFAULT gen_random_uuid(),
    step text NOT NULL DEFAULT '',
    done bigint NOT NULL DEFAULT 0,
    total bigint NOT NULL DEFAULT 0,
    started_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);
INSERT INTO key_fence DEFAULT VALUES;

-- The orchestrators that run, with the keys that each holds.
CREATE TABLE replicas (
    id uuid PRIMARY KEY,
    host text NOT NULL,
    process int NOT NULL,
    version text NOT NULL,
    key_ids text[] NOT NULL,
    problem text NOT NULL DEFAULT '',
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- Backups, each with the keys that it needs: those of its rows and its active, retiring and staged ones. One that
-- is running needs them all, since nobody knows yet.
CREATE TABLE backups (
    id uuid PRIMARY KEY,
    file text NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'whole', 'gone')),
    key_ids text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['replicas', 'backups', 'key_fence'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY of_scope ON %I USING ((SELECT scope_instance()))', t);
        EXECUTE format('CREATE POLICY of_instance ON %I TO company_agents_instance USING (true)', t);
        EXECUTE format('GRANT SELECT ON %I TO company_agents_serve', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO company_agents_instance', t);
    END LOOP;
END $$;
GRANT INSERT, UPDATE, DELETE ON replicas TO company_agents_serve;

-- A sign of life. Answers whether the instance is sealed, and the keys that a replica should hold.
CREATE FUNCTION replica_beat(replica uuid, at_host text, at_process int, of_version text, holds text[], says text)
    RETURNS TABLE (sealed_at timestamptz, wanted text[]) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    INSERT INTO replicas AS r (id, host, process, version, key_ids, problem)
    VALUES (replica, at_host, at_process, of_version, holds, says)
    ON CONFLICT (id) DO UPDATE SET key_ids = holds, problem = says, seen_at = now();
    RETURN QUERY
        SELECT i.sealed_at, array(SELECT k.key_id FROM master_keys k
                                  WHERE k.state IN ('staged', 'active', 'retiring', 'archived'))
        FROM instance i;
END $$;

-- One batch of a rotation, in one transaction: the fence and the states that it assumes, then every row that is
-- still the one that was read, by its nonce. A row that somebody has written meanwhile is left as it is. The values come
-- as one text of bytes with their lengths: arrays of them take longer to write than to store. Every seal is counted.
-- Returns how many rows were moved, or NULL where the fence or a state is another, or the instance was sealed.
CREATE FUNCTION secrets_rewrap(fence_number bigint, fence_nonce uuid, new_key text, amount int, ids bytea,
                               old_nonces bytea, new_nonces bytea, lengths int[], new_values bytea)
    RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE moved bigint;
BEGIN
    -- Shorter than Postgres waits before it looks for a deadlock: whoever else is in one is not the one to lose.
    PERFORM set_config('lock_timeout', '100ms', true);
    UPDATE key_fence SET done = done + amount, updated_at = now()
    WHERE number = fence_number AND nonce = fence_nonce
      AND NOT EXISTS (SELECT FROM instance WHERE sealed_at IS NOT NULL);
    IF NOT FOUND THEN RETURN NULL; END IF;
    UPDATE master_keys SET rewrapped = rewrapped + amount WHERE key_id = new_key AND state = 'active';
    IF NOT FOUND THEN RETURN NULL; END IF;
    PERFORM nextval('master_key_seals') FROM generate_series(1, amount);
    UPDATE secrets s SET value = u.value, nonce = u.nonce, key_id = new_key
    FROM (SELECT encode(substring(ids FROM (i - 1) * 16 + 1 FOR 16), 'hex')::uuid AS id,
                 substring(old_nonces FROM (i - 1) * 12 + 1 FOR 12) AS old_nonce,
                 substring(new_nonces FROM (i - 1) * 12 + 1 FOR 12) AS nonce,
                 substring(new_values FROM start FOR lengths[i]) AS value
          FROM (SELECT i, (sum(lengths[i]) OVER (ORDER BY i) - lengths[i] + 1)::int AS start
                FROM generate_series(1, amount) i) AS placed) AS u
    WHERE s.id = u.id AND s.nonce = u.old_nonce AND s.key_id <> new_key;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END $$;

-- The audit key is renewed with each rotation. A chain goes on under a newer key only: whoever got hold of an older one
-- can append nothing with it, and the first event under the newer one holds fast what stands before it.
ALTER TABLE audit_heads ADD COLUMN audit_key int NOT NULL DEFAULT 0;

CREATE OR REPLACE FUNCTION audit_append(chains uuid[], base_seqs bigint[], base_macs bytea, counts int[], records text,
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
            INSERT INTO audit_heads (chain, seq, mac, audit_key) VALUES (chains[i], counts[i], head, key_number)
            ON CONFLICT DO NOTHING;
        ELSE
            UPDATE audit_heads h SET seq = base_seqs[i] + counts[i], mac = head, audit_key = key_number
            WHERE h.chain = chains[i] AND h.seq = base_seqs[i] AND h.audit_key <= key_number
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
