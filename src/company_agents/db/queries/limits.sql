-- name: limits_of
-- Of an agent, and of its company.
SELECT agent_id, runs_at_once, run_seconds, run_tokens, run_micros, month_tokens, month_micros
FROM limits WHERE agent_id = %(agent_id)s OR agent_id IS NULL;

-- name: limits_get
SELECT runs_at_once, run_seconds, run_tokens, run_micros, month_tokens, month_micros
FROM limits WHERE agent_id IS NOT DISTINCT FROM %(agent_id)s::uuid;

-- name: limits_begin
INSERT INTO limits (company_id, agent_id) VALUES (%(company_id)s, %(agent_id)s) ON CONFLICT DO NOTHING;

-- name: limits_hold
SELECT runs_at_once, run_seconds, run_tokens, run_micros, month_tokens, month_micros
FROM limits WHERE agent_id IS NOT DISTINCT FROM %(agent_id)s::uuid FOR UPDATE;

-- name: limits_set
UPDATE limits SET runs_at_once = %(runs_at_once)s, run_seconds = %(run_seconds)s, run_tokens = %(run_tokens)s,
    run_micros = %(run_micros)s, month_tokens = %(month_tokens)s, month_micros = %(month_micros)s, updated_at = now()
WHERE agent_id IS NOT DISTINCT FROM %(agent_id)s::uuid;
