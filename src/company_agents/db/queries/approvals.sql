-- name: rules_of_agent_set
-- What is not said stays. Allows the agent, if it was not allowed yet.
INSERT INTO integration_agents (company_id, integration_id, agent_id, allows, asks, per_minute)
VALUES (%(company_id)s, %(integration_id)s, %(agent_id)s, %(allows)s::text[], %(asks)s::text[], %(per_minute)s::int)
ON CONFLICT (integration_id, agent_id) DO UPDATE SET
    allows = coalesce(excluded.allows, integration_agents.allows), asks = coalesce(excluded.asks, integration_agents.asks),
    per_minute = coalesce(excluded.per_minute, integration_agents.per_minute);

-- name: rules_of_agent_replace
-- What is not said is as for all.
UPDATE integration_agents SET allows = %(allows)s::text[], asks = %(asks)s::text[], per_minute = %(per_minute)s::int
WHERE integration_id = %(integration_id)s AND agent_id = %(agent_id)s;

-- name: rules_of_all_set
UPDATE integrations SET
    allows = coalesce(%(allows)s::text[], allows), asks = coalesce(%(asks)s::text[], asks),
    per_minute = coalesce(%(per_minute)s::int, per_minute), updated_at = now()
WHERE id = %(integration_id)s;

-- name: rules_of_all
SELECT allows, asks, per_minute FROM integrations WHERE id = %(integration_id)s;

-- name: rules_of_agents
SELECT agent_id, allows, asks, per_minute FROM integration_agents
WHERE integration_id = %(integration_id)s AND (allows IS NOT NULL OR asks IS NOT NULL OR per_minute IS NOT NULL)
ORDER BY created_at, agent_id;

-- name: rules_for_agent
-- Those that count for one agent, of every integration that it may use.
SELECT i.id, coalesce(a.allows, i.allows) AS allows, coalesce(a.asks, i.asks) AS asks,
       coalesce(a.per_minute, i.per_minute) AS per_minute
FROM integrations i LEFT JOIN integration_agents a ON a.integration_id = i.id AND a.agent_id = %(agent_id)s
WHERE (i.allow_all OR a.agent_id IS NOT NULL) AND i.id = ANY (%(integrations)s);

-- name: call_count
-- A minute that another's clock has not reached yet stays the one that is counted.
INSERT INTO call_counts AS c (company_id, integration_id, agent_id, minute, calls)
VALUES (%(company_id)s, %(integration_id)s, %(agent_id)s, date_trunc('minute', clock_timestamp()), 1)
ON CONFLICT (integration_id, agent_id) DO UPDATE SET
    calls = CASE WHEN c.minute >= excluded.minute THEN c.calls + 1 ELSE 1 END, minute = greatest(c.minute, excluded.minute)
RETURNING calls, ceil(extract(epoch FROM minute + interval '1 minute' - clock_timestamp()))::int AS seconds_left;

-- name: approval_agent_hold
-- Who asks for the same agent meanwhile waits: each sees what the other has asked.
SELECT id FROM agents WHERE id = %(agent_id)s FOR NO KEY UPDATE;

-- name: approval_like
-- The one that waits; else the last of which the agent has not heard what became of it.
SELECT id FROM approvals
WHERE agent_id = %(agent_id)s AND likeness = %(likeness)s
  AND ((ended_at IS NULL AND (state <> 'waiting' OR expires_at > clock_timestamp()))
       OR (state IN ('done', 'failed', 'uncertain', 'refused') AND collected_at IS NULL
           AND ended_at > now() - make_interval(days => %(days)s)))
ORDER BY ended_at IS NULL DESC, ended_at DESC LIMIT 1;

-- name: approval_like_expire
-- It would stand in the way of the one that is asked for now.
UPDATE approvals SET state = 'expired', ended_at = clock_timestamp()
WHERE agent_id = %(agent_id)s AND likeness = %(likeness)s AND state = 'waiting' AND expires_at <= clock_timestamp()
RETURNING id, integration_id, agent_id;

-- name: approvals_waiting
SELECT count(*) AS count FROM approvals WHERE agent_id = %(agent_id)s AND state = 'waiting' AND expires_at > clock_timestamp();

-- name: approval_insert
INSERT INTO approvals (id, company_id, integration_id, agent_id, run_id, fence, digest, likeness, method, host, path, version,
                       size, request, created_at, expires_at)
VALUES (%(id)s, %(company_id)s, %(integration_id)s, %(agent_id)s, %(run_id)s, %(fence)s, %(digest)s, %(likeness)s, %(method)s,
        %(host)s, %(path)s, %(version)s, %(size)s, %(request)s, clock_timestamp(),
        clock_timestamp() + make_interval(secs => %(seconds)s));

-- name: approval_get
SELECT a.id, a.company_id, a.integration_id, a.agent_id, a.run_id, a.method, a.host, a.path, a.version, a.size, a.reply_status,
       a.reason, a.note, a.created_at, a.expires_at, a.decided_at, a.decided_by, a.ended_at, a.collected_at,
       CASE WHEN a.state = 'waiting' AND a.expires_at <= clock_timestamp() THEN 'expired' ELSE a.state END AS state,
       i.name AS integration, g.name AS agent, a.request IS NOT NULL AS is_kept, a.request, a.reply, a.digest
FROM approvals a JOIN integrations i ON i.id = a.integration_id JOIN agents g ON g.id = a.agent_id
WHERE a.id = %(id)s AND (%(agent_id)s::uuid IS NULL OR a.agent_id = %(agent_id)s);

-- name: approval_list
SELECT a.id, a.company_id, a.integration_id, a.agent_id, a.run_id, a.method, a.host, a.path, a.version, a.size, a.reply_status,
       a.reason, a.note, a.created_at, a.expires_at, a.decided_at, a.decided_by, a.ended_at, a.collected_at,
       CASE WHEN a.state = 'waiting' AND a.expires_at <= clock_timestamp() THEN 'expired' ELSE a.state END AS state,
       i.name AS integration, g.name AS agent, a.request IS NOT NULL AS is_kept
FROM approvals a JOIN integrations i ON i.id = a.integration_id JOIN agents g ON g.id = a.agent_id
WHERE (%(agent_id)s::uuid IS NULL OR a.agent_id = %(agent_id)s)
  AND (%(state)s::text IS NULL OR
       CASE WHEN a.state = 'waiting' AND a.expires_at <= clock_timestamp() THEN 'expired' ELSE a.state END = %(state)s)
  AND (%(after_at)s::timestamptz IS NULL OR (a.created_at, a.id) > (%(after_at)s, %(after_id)s::uuid))
ORDER BY a.created_at, a.id LIMIT %(limit)s;

-- name: approvals_latest
SELECT a.id, a.company_id, a.integration_id, a.agent_id, a.run_id, a.method, a.host, a.path, a.version, a.size, a.reply_status,
       a.reason, a.note, a.created_at, a.expires_at, a.decided_at, a.decided_by, a.ended_at, a.collected_at,
       CASE WHEN a.state = 'waiting' THEN 'expired' ELSE a.state END AS state,
       i.name AS integration, g.name AS agent, a.request IS NOT NULL AS is_kept
FROM approvals a JOIN integrations i ON i.id = a.integration_id JOIN agents g ON g.id = a.agent_id
WHERE (a.state <> 'waiting' OR a.expires_at <= clock_timestamp())
  AND (%(agent_id)s::uuid IS NULL OR a.agent_id = %(agent_id)s)
ORDER BY a.created_at DESC, a.id DESC LIMIT %(limit)s;

-- name: approvals_mark
-- Another one whenever something has changed.
SELECT count(*) FILTER (WHERE state = 'waiting' AND expires_at > clock_timestamp()) AS waiting,
       extract(epoch FROM max(greatest(created_at, decided_at, tried_at, sending_until, ended_at, collected_at))) AS changed
FROM approvals WHERE (%(agent_id)s::uuid IS NULL OR agent_id = %(agent_id)s);

-- name: approval_decide
UPDATE approvals SET state = %(state)s, decided_at = clock_timestamp(), decided_by = %(by)s, note = %(note)s,
    ended_at = CASE WHEN %(state)s = 'refused' THEN clock_timestamp() END,
    -- Who approves it begins to send it.
    tried_at = CASE WHEN %(state)s = 'approved' THEN clock_timestamp() END
WHERE id = %(id)s AND state = 'waiting' AND expires_at > clock_timestamp();

-- name: approval_to_send
-- All that decides whether it may still be sent. A run's version counts for as long as the run holds it; it need not live on.
SELECT a.id, a.integration_id, a.agent_id, a.run_id, a.fence, a.state, a.digest, a.request, a.version AS asked_version,
       a.decided_by, g.name AS agent_name, g.state AS agent_state, i.allow_all OR n.agent_id IS NOT NULL AS is_allowed,
       coalesce(n.allows, i.allows) AS allows, coalesce(n.asks, i.asks) AS asks, coalesce(n.per_minute, i.per_minute) AS per_minute,
       i.provider, i.name, i.destination, i.status, v.version, v.secret_id, v.consent, v.written_by, v.refresh_problem,
       version_is_ending(v) AS is_ending, v.state AS version_state,
       r.id IS NOT NULL AS is_running, p.version AS pinned_version, p.cut_at IS NOT NULL AS is_cut,
       a.decided_at < clock_timestamp() - make_interval(secs => %(seconds)s) AS is_late
FROM approvals a JOIN agents g ON g.id = a.agent_id JOIN integrations i ON i.id = a.integration_id
JOIN credential_versions v ON v.integration_id = a.integration_id AND v.version = a.version
LEFT JOIN integration_agents n ON n.integration_id = a.integration_id AND n.agent_id = a.agent_id
LEFT JOIN runs r ON r.id = a.run_id AND r.state = 'running' AND r.lease_until > clock_timestamp()
LEFT JOIN run_pins p ON p.run_id = r.id AND p.integration_id = a.integration_id
WHERE a.id = %(id)s;

-- name: approval_begin
-- Nobody sends it after this but who did this.
UPDATE approvals SET state = 'sending', sending_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE id = %(id)s AND state = 'approved';

-- name: approval_end
UPDATE approvals SET state = %(state)s, ended_at = clock_timestamp(), reason = %(reason)s, reply = %(reply)s,
    reply_status = %(reply_status)s
WHERE id = %(id)s AND state = %(was)s;

-- name: approval_collect
UPDATE approvals SET collected_at = clock_timestamp()
WHERE id = %(id)s AND collected_at IS NULL AND state IN ('done', 'failed', 'uncertain', 'refused');

-- name: approval_agent_is_active
SELECT id FROM agents WHERE id = %(agent_id)s AND state = 'active';

-- name: approvals_expire
WITH late AS MATERIALIZED (
    SELECT a.id FROM approvals a WHERE a.state = 'waiting' AND a.expires_at <= clock_timestamp()
    ORDER BY a.expires_at LIMIT 100 FOR UPDATE SKIP LOCKED)
UPDATE approvals SET state = 'expired', ended_at = clock_timestamp() FROM late WHERE approvals.id = late.id
RETURNING approvals.id, integration_id, agent_id;

-- name: approvals_lost
WITH lost AS MATERIALIZED (
    SELECT a.id FROM approvals a WHERE a.state = 'sending' AND a.sending_until <= clock_timestamp()
    ORDER BY a.sending_until LIMIT 100 FOR UPDATE SKIP LOCKED)
UPDATE approvals SET state = 'uncertain', ended_at = clock_timestamp(), reason = %(reason)s FROM lost WHERE approvals.id = lost.id
RETURNING approvals.id, integration_id, agent_id;

-- name: approvals_to_try
-- Those that whoever approved them has not sent.
WITH left_over AS MATERIALIZED (
    SELECT a.id FROM approvals a
    WHERE a.state = 'approved' AND a.tried_at < clock_timestamp() - make_interval(secs => %(seconds)s)
    ORDER BY a.decided_at LIMIT %(most)s FOR UPDATE SKIP LOCKED)
UPDATE approvals SET tried_at = clock_timestamp() FROM left_over WHERE approvals.id = left_over.id
RETURNING approvals.id;

-- name: approvals_forget
-- What was heard, or waited for long enough, is no longer kept. The row stays.
WITH old AS MATERIALIZED (
    SELECT a.id, a.request, a.reply FROM approvals a
    WHERE a.request IS NOT NULL AND a.ended_at < now() - interval '1 hour'
      AND (a.collected_at < now() - interval '1 hour' OR a.state = 'expired' OR a.ended_at < now() - make_interval(days => %(days)s))
    ORDER BY a.ended_at LIMIT %(most)s FOR UPDATE SKIP LOCKED)
UPDATE approvals SET request = NULL, reply = NULL FROM old WHERE approvals.id = old.id
RETURNING old.request AS old_request, old.reply AS old_reply;

-- name: approvals_prune
WITH old AS MATERIALIZED (
    SELECT a.id FROM approvals a WHERE a.ended_at < now() - make_interval(days => %(days)s)
    ORDER BY a.ended_at LIMIT %(most)s FOR UPDATE SKIP LOCKED)
DELETE FROM approvals USING old WHERE approvals.id = old.id;

-- name: companies_with_approvals
SELECT company_id FROM companies_with_approvals();

-- name: locate_approval
SELECT company_id FROM approvals WHERE id = %(id)s;
