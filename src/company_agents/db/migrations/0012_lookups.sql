-- What stands before every call of an agent, many at once.

-- Integrations by id or name, for the agents that may use them now, each in the scope of the company that its caller was
-- identified in; `n` says which is answered. For a run, the version that it is pinned to, also one that was cut; else the
-- current one. `tokens`: when the agent's token was made, where that is how it called. `rules` tells the rules from others.
CREATE FUNCTION integration_lookup(companies uuid[], agent_ids uuid[], run_ids uuid[], fences bigint[], tokens timestamptz[],
                                   ids uuid[], names text[])
    RETURNS TABLE (n int, id uuid, provider text, name text, destination text, status text, version int, secret_id uuid,
                   consent boolean, written_by bigint, refresh_problem text, is_ending boolean, allows text[], asks text[],
                   per_minute int, rules bytea, is_pinned boolean, is_cut boolean)
    LANGUAGE plpgsql AS $$
BEGIN
    FOR k IN 1 .. cardinality(companies) LOOP
        PERFORM set_config('company_agents.company', companies[k]::text, true);
        RETURN QUERY
            SELECT k, i.id, i.provider, i.name, i.destination, i.status, v.version, v.secret_id, v.consent, v.written_by,
                   v.refresh_problem, version_is_ending(v),
                   -- What is said of this agent; where nothing is, of all.
                   coalesce(a.allows, i.allows), coalesce(a.asks, i.asks), coalesce(a.per_minute, i.per_minute),
                   rules_mark(coalesce(a.allows, i.allows), coalesce(a.asks, i.asks)),
                   p.run_id IS NOT NULL, coalesce(p.cut_at IS NOT NULL, false) OR v.state = 'retired'
            FROM integrations i
            LEFT JOIN integration_agents a ON a.integration_id = i.id AND a.agent_id = agent_ids[k]
            LEFT JOIN run_pins p ON p.integration_id = i.id AND p.run_id = run_ids[k]
            JOIN credential_versions v ON v.integration_id = i.id
                AND CASE WHEN p.run_id IS NULL THEN v.state = 'current' ELSE v.version = p.version END
            WHERE i.company_id = companies[k] AND (i.id = ids[k] OR i.name = names[k])
              AND (i.allow_all OR a.agent_id IS NOT NULL)
              -- The door has looked; but a call may have waited for its turn since.
              AND EXISTS (SELECT FROM agents g WHERE g.id = agent_ids[k] AND g.state = 'active')
              AND (tokens[k] IS NULL OR EXISTS (SELECT FROM secrets t
                    WHERE t.name = 'agent_token/' || agent_ids[k] AND t.company_id = companies[k] AND t.updated_at = tokens[k]))
              AND (run_ids[k] IS NULL OR EXISTS (SELECT FROM runs r WHERE r.id = run_ids[k]
                    AND r.agent_id = agent_ids[k] AND r.state = 'running' AND r.fence = fences[k]
                    AND r.lease_until > clock_timestamp()));
    END LOOP;
END $$;
