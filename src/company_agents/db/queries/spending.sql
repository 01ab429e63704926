-- name: spending_limits
-- All that a paid call is compared with, in one row: limits and what was spent, of the agent, of its company, of its run.
-- Unpriced: there is an entry whose cost is not known, of this month and since the limits were last set.
SELECT a.month_tokens AS agent_tokens_limit, a.month_micros AS agent_micros_limit,
       coalesce(am.tokens, 0) AS agent_tokens, coalesce(am.micros, 0) AS agent_micros,
       c.month_tokens AS company_tokens_limit, c.month_micros AS company_micros_limit,
       coalesce(cm.tokens, 0) AS company_tokens, coalesce(cm.micros, 0) AS company_micros,
       CASE WHEN r.id IS NOT NULL THEN least(a.run_tokens, c.run_tokens, r.token_limit) END AS run_tokens_limit,
       CASE WHEN r.id IS NOT NULL THEN least(a.run_micros, c.run_micros, r.micros_limit) END AS run_micros_limit,
       coalesce(r.tokens, 0) AS run_tokens, coalesce(r.micros, 0) AS run_micros,
       CASE WHEN cm.unpriced > 0 THEN EXISTS (
           SELECT FROM cost_entries e WHERE e.micros IS NULL
           AND e.created_at > greatest(this.month::timestamp AT TIME ZONE 'UTC', c.updated_at)) ELSE false END AS company_unpriced,
       CASE WHEN am.unpriced > 0 THEN EXISTS (
           SELECT FROM cost_entries e WHERE e.micros IS NULL AND e.agent_id = %(agent_id)s
           AND e.created_at > greatest(this.month::timestamp AT TIME ZONE 'UTC', a.updated_at, c.updated_at)) ELSE false END AS agent_unpriced,
       CASE WHEN am.unpriced > 0 THEN EXISTS (
           SELECT FROM cost_entries e WHERE e.micros IS NULL AND e.run_id = r.id) ELSE false END AS run_unpriced,
       (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month')::date AS begins_anew
FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month) this
LEFT JOIN limits a ON a.agent_id = %(agent_id)s
LEFT JOIN limits c ON c.agent_id IS NULL
LEFT JOIN spending_months am ON am.agent_id = %(agent_id)s AND am.month = this.month
LEFT JOIN spending_months cm ON cm.agent_id IS NULL AND cm.month = this.month
LEFT JOIN runs r ON r.id = %(run_id)s::uuid;

-- name: spending_of_run_add
-- Of who holds the run, or held it last. Somebody who was relieved of it names an older fencing token.
UPDATE runs SET tokens = tokens + %(tokens)s, micros = micros + %(micros)s WHERE id = %(run_id)s AND fence = %(fence)s;

-- name: cost_insert
INSERT INTO cost_entries (id, company_id, agent_id, run_id, integration_id, provider, model, input_tokens, output_tokens,
                          cache_read_tokens, cache_write_tokens, micros, estimated, late)
VALUES (%(id)s, %(company_id)s, %(agent_id)s, %(run_id)s, %(integration_id)s, %(provider)s, %(model)s, %(input_tokens)s,
        %(output_tokens)s, %(cache_read_tokens)s, %(cache_write_tokens)s, %(micros)s, %(estimated)s, %(late)s);

-- name: spending_of_day_add
INSERT INTO spending AS s (company_id, agent_id, day, provider, model, calls, tokens, micros, unpriced, estimated)
VALUES (%(company_id)s, %(agent_id)s, (now() AT TIME ZONE 'UTC')::date, %(provider)s, %(model)s, 1, %(tokens)s, %(micros)s,
        %(unpriced)s, %(estimated)s)
ON CONFLICT (company_id, agent_id, day, provider, model) DO UPDATE
SET calls = s.calls + 1, tokens = s.tokens + excluded.tokens, micros = s.micros + excluded.micros,
    unpriced = s.unpriced + excluded.unpriced, estimated = s.estimated + excluded.estimated;

-- name: spending_of_month_add
-- The agent's first, then the company's, which all of its agents wait for.
INSERT INTO spending_months AS s (company_id, agent_id, month, calls, tokens, micros, unpriced)
SELECT %(company_id)s, whose, date_trunc('month', now() AT TIME ZONE 'UTC')::date, 1, %(tokens)s, %(micros)s, %(unpriced)s
FROM unnest(ARRAY[%(agent_id)s, NULL]::uuid[]) AS whose
ON CONFLICT (company_id, agent_id, month) DO UPDATE
SET calls = s.calls + 1, tokens = s.tokens + excluded.tokens, micros = s.micros + excluded.micros,
    unpriced = s.unpriced + excluded.unpriced
RETURNING agent_id, month, tokens, micros, said;

-- name: spending_of_month_hold
SELECT agent_id, month, tokens, micros, said FROM spending_months
WHERE agent_id IS NOT DISTINCT FROM %(agent_id)s::uuid AND month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
FOR UPDATE;

-- name: spending_said
UPDATE spending_months SET said = said || %(said)s::text[]
WHERE agent_id IS NOT DISTINCT FROM %(agent_id)s::uuid AND month = %(month)s;

-- name: spending_of_month
SELECT this.month, (this.month + interval '1 month')::date AS begins_anew, coalesce(s.calls, 0) AS calls,
       coalesce(s.tokens, 0) AS tokens, coalesce(s.micros, 0) AS micros, coalesce(s.unpriced, 0) AS unpriced
FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month) this
LEFT JOIN spending_months s ON s.agent_id IS NOT DISTINCT FROM %(agent_id)s::uuid AND s.month = this.month;

-- name: spending_by_day
SELECT s.day, s.agent_id, a.name AS agent, s.provider, s.model, s.calls, s.tokens, s.micros, s.unpriced, s.estimated
FROM spending s JOIN agents a ON a.company_id = s.company_id AND a.id = s.agent_id
WHERE s.day > (now() AT TIME ZONE 'UTC')::date - %(days)s::int AND (%(agent_id)s::uuid IS NULL OR s.agent_id = %(agent_id)s)
ORDER BY s.day DESC, a.name, s.provider, s.model LIMIT %(limit)s;

-- name: cost_list
SELECT e.id, e.agent_id, e.run_id, e.integration_id, e.provider, e.model, e.input_tokens, e.output_tokens, e.cache_read_tokens,
       e.cache_write_tokens, e.micros, e.estimated, e.late, e.created_at
FROM cost_entries e
WHERE (%(agent_id)s::uuid IS NULL OR e.agent_id = %(agent_id)s) AND (%(run_id)s::uuid IS NULL OR e.run_id = %(run_id)s)
  AND (%(after_at)s::timestamptz IS NULL OR (e.created_at, e.id) > (%(after_at)s, %(after_id)s::uuid))
ORDER BY e.created_at, e.id LIMIT %(limit)s;

-- name: cost_of_run
SELECT e.provider, e.model, count(*) AS calls,
       sum(e.input_tokens + e.output_tokens + e.cache_read_tokens + e.cache_write_tokens)::bigint AS tokens,
       coalesce(sum(e.micros), 0)::bigint AS micros, count(*) FILTER (WHERE e.micros IS NULL) AS unpriced,
       count(*) FILTER (WHERE e.estimated) AS estimated
FROM cost_entries e WHERE e.run_id = %(run_id)s GROUP BY e.provider, e.model ORDER BY e.provider, e.model;
