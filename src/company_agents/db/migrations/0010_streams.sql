-- Open streams: replies and connections that are relayed for longer than a moment, checked again and again.

-- `streams`: how many a replica relays, or lately did; `checked_at`: the moment as of which it has closed all that were no
-- longer allowed. One that has not checked for four seconds has closed them all.
ALTER TABLE replicas
    ADD COLUMN streams int NOT NULL DEFAULT 0,
    ADD COLUMN checked_at timestamptz;

-- As before, and with the moment in which the token was made: a stream that was opened with it ends when it is replaced. To
-- seal it anew, as a rotation of the master key does, is not to replace it.
DROP FUNCTION agent_token_lookup(uuid[], uuid[]);
CREATE FUNCTION agent_token_lookup(claimed_companies uuid[], claimed_agents uuid[])
    RETURNS TABLE (n int, agent_name text, agent_state text, made_at timestamptz, id uuid, company_id uuid, name text,
                   value bytea, nonce bytea, key_id text)
    LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. cardinality(claimed_agents) LOOP
        PERFORM set_config('company_agents.company', claimed_companies[i]::text, true);
        RETURN QUERY
            SELECT i, a.name, a.state, s.updated_at, s.id, s.company_id, s.name, s.value, s.nonce, s.key_id
            FROM agents a, secrets s
            WHERE a.id = claimed_agents[i] AND a.company_id = claimed_companies[i]
              AND s.name = 'agent_token/' || claimed_agents[i] AND s.company_id = claimed_companies[i];
    END LOOP;
END $$;

-- What tells rules from others: the same for the same ones, whoever said them and when.
CREATE FUNCTION rules_mark(allows text[], asks text[]) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(allows::text || asks::text, 'UTF8')) $$;

-- Whether whoever opened these streams may still have them. Those of one company follow one another, `counts` of each, and
-- are looked at in its scope alone; `gone` are the numbers, from 1, of those who may not. A stream without a run is of an
-- agent's token, one without a version uses no credential, and one without `marks` of rules was not judged by any.
CREATE FUNCTION streams_check(companies uuid[], counts int[], agent_ids uuid[], run_ids uuid[], fences bigint[],
                              integration_ids uuid[], versions int[], tokens timestamptz[], marks bytea[])
    RETURNS TABLE (moment timestamptz, gone int[]) LANGUAGE plpgsql AS $$
DECLARE
    done int := 0;
    found int[];
BEGIN
    -- Before anything is looked at: what was committed by now is seen.
    moment := clock_timestamp();
    gone := '{}';
    FOR c IN 1 .. cardinality(companies) LOOP
        PERFORM set_config('company_agents.company', companies[c]::text, true);
        SELECT array_agg(o.n + done) INTO found
        FROM unnest(agent_ids[done + 1 : done + counts[c]], run_ids[done + 1 : done + counts[c]],
                    fences[done + 1 : done + counts[c]], integration_ids[done + 1 : done + counts[c]],
                    versions[done + 1 : done + counts[c]], tokens[done + 1 : done + counts[c]],
                    marks[done + 1 : done + counts[c]])
             WITH ORDINALITY AS o (agent_id, run_id, fence, integration_id, version, token, mark, n)
        WHERE NOT (
            EXISTS (SELECT FROM agents a
                    WHERE a.id = o.agent_id AND a.company_id = companies[c] AND a.state = 'active')
            AND EXISTS (SELECT FROM integrations i
                        LEFT JOIN integration_agents p ON p.integration_id = i.id AND p.agent_id = o.agent_id
                        WHERE i.id = o.integration_id AND i.company_id = companies[c]
                          AND (i.allow_all OR p.agent_id IS NOT NULL)
                          -- What is said of this agent; where nothing is, of all.
                          AND (o.mark IS NULL
                               OR o.mark = rules_mark(coalesce(p.allows, i.allows), coalesce(p.asks, i.asks))))
            AND (o.version IS NULL
                 OR EXISTS (SELECT FROM credential_versions v WHERE v.integration_id = o.integration_id
                            AND v.version = o.version AND v.company_id = companies[c] AND v.state <> 'retired'))
            AND CASE WHEN o.run_id IS NULL THEN
                o.token IS NULL
                OR EXISTS (SELECT FROM secrets s WHERE s.name = 'agent_token/' || o.agent_id
                           AND s.company_id = companies[c] AND s.updated_at = o.token)
            ELSE
                EXISTS (SELECT FROM runs r WHERE r.id = o.run_id AND r.company_id = companies[c]
                        AND r.agent_id = o.agent_id AND r.state = 'running' AND r.fence = o.fence
                        AND r.lease_until > clock_timestamp())
                AND NOT EXISTS (SELECT FROM run_pins p WHERE p.run_id = o.run_id
                                AND p.integration_id = o.integration_id AND p.cut_at IS NOT NULL)
            END);
        gone := gone || coalesce(found, '{}');
        done := done + counts[c];
    END LOOP;
    RETURN NEXT;
END $$;

-- What a replica says of its streams. Before its first one it says that there may be some, and that is on disk when this
-- returns; that it has checked them need not be: it says so every second.
CREATE FUNCTION streams_say(replica uuid, amount int, checked timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    IF checked IS NOT NULL THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    UPDATE replicas SET streams = amount, checked_at = coalesce(checked, clock_timestamp()) WHERE id = replica;
    RETURN FOUND;
END $$;

-- Whether a replica may still relay something that was no longer allowed at a moment (NULL: now): one that has streams and has
-- not checked since, but for those that have not for so long that they have closed them all.
CREATE FUNCTION streams_waited_for(since timestamptz, patience float8)
    RETURNS TABLE (moment timestamptz, waited boolean) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    moment := coalesce(since, clock_timestamp());
    waited := EXISTS (SELECT FROM replicas r WHERE r.streams > 0 AND r.checked_at < moment
                      AND r.checked_at > clock_timestamp() - make_interval(secs => patience));
    RETURN NEXT;
END $$;
