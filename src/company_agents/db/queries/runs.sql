-- name: run_insert
INSERT INTO runs (id, company_id, agent_id, state, purpose, fence, lease_until, started_at, started_by)
VALUES (%(id)s, %(company_id)s, %(agent_id)s, 'running', %(purpose)s, 1,
        clock_timestamp() + make_interval(secs => %(lease)s), clock_timestamp(), %(started_by)s);

-- name: run_queue
INSERT INTO runs (id, company_id, agent_id, state, purpose, adapter, task_id, prompt, schedule_id, started_by, time_limit,
                  token_limit, micros_limit, by_task)
VALUES (%(id)s, %(company_id)s, %(agent_id)s, 'queued', %(purpose)s, %(adapter)s, %(task_id)s, %(prompt)s, %(schedule_id)s,
        %(started_by)s, %(time_limit)s, %(token_limit)s, %(micros_limit)s, %(by_task)s);

-- name: run_agent
SELECT a.id, a.name, a.state, a.adapter, a.adapter_config, a.unsandboxed FROM agents a WHERE a.id = %(agent_id)s;

-- name: runs_hold
-- One at a time in a company: who begins or queues a run counts what others have begun and queued.
SELECT pg_advisory_xact_lock(7301002, hashtext(%(company_id)s::text));

-- name: runs_under_way
SELECT count(*) FILTER (WHERE r.agent_id = %(agent_id)s) AS of_agent, count(*) AS of_company FROM runs r
WHERE r.state = 'running' AND r.lease_until > clock_timestamp();

-- name: runs_waiting
SELECT count(*) AS count FROM runs r WHERE r.agent_id = %(agent_id)s AND r.state = 'queued';

-- name: runs_of_task
-- Those of this agent for this task that have not ended; and all of the company that the assignment of a task has started
-- lately.
SELECT EXISTS (SELECT FROM runs r WHERE r.task_id = %(task_id)s AND r.agent_id = %(agent_id)s
               AND r.state IN ('queued', 'running')) AS open,
       (SELECT count(*) FROM runs r WHERE r.by_task AND r.created_at > now() - interval '1 hour') AS lately;

-- name: agent_hold
-- Who changes the same agent meanwhile waits.
SELECT id FROM agents WHERE id = %(agent_id)s FOR NO KEY UPDATE;

-- name: run_hold
SELECT id FROM runs WHERE id = %(id)s FOR NO KEY UPDATE;

-- name: run_begin
UPDATE runs SET state = 'running', fence = fence + 1, reason = '', replica = %(replica)s, due_at = NULL, delivered = 0,
    started_at = coalesce(started_at, clock_timestamp()),
    lease_until = least(clock_timestamp() + make_interval(secs => %(lease)s),
                        coalesce(started_at, clock_timestamp()) + make_interval(secs => %(longest)s))
WHERE id = %(id)s AND state = 'queued';

-- name: runs_prune
-- MATERIALIZED, here and wherever a limit meets SKIP LOCKED: a plan that asks again gets others, beyond the limit.
WITH old AS MATERIALIZED (
    SELECT r.id FROM runs r WHERE r.ended_at < now() - make_interval(days => %(days)s)
    ORDER BY r.ended_at LIMIT %(most)s FOR UPDATE SKIP LOCKED)
DELETE FROM runs USING old WHERE runs.id = old.id;

-- name: run_get
SELECT r.id, r.company_id, r.agent_id, r.state, r.purpose, r.reason, r.fence AS fencing_token, r.lease_until, r.created_at,
       r.started_at, r.ended_at, r.adapter, r.task_id, r.schedule_id, r.started_by, r.time_limit, r.token_limit,
       r.micros_limit, r.tokens, r.micros, r.prompt
FROM runs r
WHERE r.id = %(id)s AND (%(agent_id)s::uuid IS NULL OR r.agent_id = %(agent_id)s);

-- name: run_list
SELECT r.id, r.company_id, r.agent_id, r.state, r.purpose, r.reason, r.fence AS fencing_token, r.lease_until, r.created_at,
       r.started_at, r.ended_at, r.adapter, r.task_id, r.schedule_id, r.started_by, r.time_limit, r.token_limit,
       r.micros_limit, r.tokens, r.micros
FROM runs r
WHERE (%(agent_id)s::uuid IS NULL OR r.agent_id = %(agent_id)s) AND (%(run_id)s::uuid IS NULL OR r.id = %(run_id)s)
  AND (%(state)s::text IS NULL OR r.state = %(state)s)
  AND (%(task_id)s::uuid IS NULL OR r.task_id = %(task_id)s)
  AND (%(after_at)s::timestamptz IS NULL OR (r.created_at, r.id) > (%(after_at)s, %(after_id)s::uuid))
ORDER BY r.created_at, r.id LIMIT %(limit)s;

-- name: run_list_newest
SELECT r.id, r.company_id, r.agent_id, r.state, r.purpose, r.reason, r.fence AS fencing_token, r.lease_until, r.created_at,
       r.started_at, r.ended_at, r.adapter, r.task_id, r.schedule_id, r.started_by, r.time_limit, r.token_limit,
       r.micros_limit, r.tokens, r.micros
FROM runs r
WHERE (%(agent_id)s::uuid IS NULL OR r.agent_id = %(agent_id)s) AND (%(run_id)s::uuid IS NULL OR r.id = %(run_id)s)
  AND (%(state)s::text IS NULL OR r.state = %(state)s)
  AND (%(task_id)s::uuid IS NULL OR r.task_id = %(task_id)s)
  AND (%(after_at)s::timestamptz IS NULL OR (r.created_at, r.id) < (%(after_at)s, %(after_id)s::uuid))
ORDER BY r.created_at DESC, r.id DESC LIMIT %(limit)s;

-- name: run_renew
UPDATE runs SET lease_until = least(clock_timestamp() + make_interval(secs => %(lease)s),
                                    started_at + make_interval(secs => %(longest)s))
WHERE id = %(id)s AND fence = %(fence)s AND state = 'running' AND lease_until > clock_timestamp();

-- name: run_end
UPDATE runs SET state = %(state)s, reason = %(reason)s, ended_at = clock_timestamp()
WHERE id = %(id)s AND fence = %(fence)s AND state = 'running' AND lease_until > clock_timestamp();

-- name: run_cancel
UPDATE runs SET state = 'cancelled', reason = %(reason)s, ended_at = clock_timestamp()
WHERE id = %(id)s AND state IN ('queued', 'running');

-- name: runs_expire
-- `again`: it is executed here, its lease has not run out too often, and there is time left.
WITH late AS MATERIALIZED (
    SELECT r.id, r.adapter IS NOT NULL AND r.lost + 1 < %(most)s
                 AND clock_timestamp() < r.started_at + make_interval(secs => least(r.time_limit, %(longest)s)) AS again
    FROM runs r WHERE r.state = 'running' AND r.lease_until <= clock_timestamp()
    ORDER BY r.lease_until LIMIT 100 FOR UPDATE SKIP LOCKED)
UPDATE runs SET state = 'expired', ended_at = clock_timestamp(),
    reason = CASE WHEN lease_until >= started_at + make_interval(secs => %(longest)s) THEN 'its longest life was over'
                  WHEN clock_timestamp() >= started_at + make_interval(secs => time_limit) THEN 'its time was over'
                  WHEN adapter IS NOT NULL THEN 'its lease ran out ' || lost + 1 || ' times'
                  ELSE 'its lease ran out' END
FROM late WHERE runs.id = late.id
RETURNING runs.id, agent_id, fence, again;

-- name: run_requeue
UPDATE runs SET state = 'queued', ended_at = NULL, lease_until = NULL, replica = NULL, reason = '', lost = lost + %(lost)s,
    queued_at = clock_timestamp(), due_at = NULL, delivered = 0
WHERE id = %(id)s AND state = 'expired';

-- name: runs_retired
SELECT r.id FROM runs r JOIN agents a ON a.id = r.agent_id
WHERE r.adapter IS NOT NULL AND r.state IN ('queued', 'running') AND a.state = 'retired' LIMIT 100;

-- name: runs_hopeless
-- Those that wait, and that nobody will begin.
SELECT r.id, CASE WHEN a.adapter IS NULL THEN 'its agent has no adapter any more'
                  WHEN r.started_at + make_interval(secs => r.time_limit) <= clock_timestamp() THEN 'its time was over'
                  ELSE %(unclaimed)s END AS reason
FROM runs r JOIN agents a ON a.id = r.agent_id
WHERE r.state = 'queued' AND (a.adapter IS NULL
    OR r.started_at + make_interval(secs => r.time_limit) <= clock_timestamp()
    OR (a.adapter = 'http' AND r.queued_at + make_interval(secs => %(patience)s) <= clock_timestamp()))
LIMIT 100;

-- name: run_give_up
UPDATE runs SET state = 'failed', reason = %(reason)s, ended_at = clock_timestamp() WHERE id = %(id)s AND state = 'queued';

-- name: run_output_size
SELECT coalesce(sum(length(o.text)), 0)::bigint AS size FROM run_output o WHERE o.run_id = %(run_id)s;

-- name: run_output_add
-- Of the present start alone; also in the minute after its end, for its last words. Whoever takes the run on waits, so that
-- the numbers of two starts are never the same.
WITH held AS MATERIALIZED (
    SELECT r.id FROM runs r
    WHERE r.id = %(id)s AND r.fence = %(fence)s
      AND ((r.state = 'running' AND r.lease_until > clock_timestamp())
           OR (r.state IN ('finished', 'failed', 'cancelled') AND r.ended_at > clock_timestamp() - interval '1 minute'))
    FOR NO KEY UPDATE)
INSERT INTO run_output (company_id, run_id, seq, fence, stream, text)
SELECT %(company_id)s, held.id, coalesce((SELECT max(o.seq) FROM run_output o WHERE o.run_id = held.id), 0) + p.n,
       %(fence)s, p.stream, p.text
FROM held, unnest(%(streams)s::text[], %(texts)s::text[]) WITH ORDINALITY AS p (stream, text, n);

-- name: run_output_list
SELECT o.seq, o.fence, o.stream, o.text, o.at FROM run_output o
WHERE o.run_id = %(run_id)s AND o.seq > %(after)s ORDER BY o.seq LIMIT %(limit)s;

-- name: runs_watched
SELECT * FROM runs_watched(%s::uuid[], %s::uuid[], %s::bigint[]);

-- name: runs_due
SELECT company_id FROM companies_with_runs_due();

-- name: run_look
-- A run as who is to begin it sees it; `is_live`: somebody else holds it.
SELECT r.id, r.agent_id, r.state, r.fence, r.prompt, r.task_id, r.queued_at, r.adapter AS was,
       r.lease_until > clock_timestamp() AS is_live, coalesce(r.due_at <= clock_timestamp(), true) AS is_due,
       extract(epoch FROM coalesce(r.started_at, clock_timestamp()) - clock_timestamp())::float8 + r.time_limit AS seconds,
       a.name AS agent_name, a.state AS agent_state, a.adapter, a.adapter_config, a.unsandboxed
FROM runs r JOIN agents a ON a.id = r.agent_id WHERE r.id = %(id)s;

-- name: runs_ahead
-- Of the same agent, and longer in the queue.
SELECT count(*) AS count FROM runs r, runs mine
WHERE mine.id = %(id)s AND r.agent_id = mine.agent_id AND r.state = 'queued'
  AND (r.created_at, r.id) < (mine.created_at, mine.id);

-- name: run_adapter_set
UPDATE runs SET adapter = %(adapter)s WHERE id = %(id)s AND adapter IS DISTINCT FROM %(adapter)s;

-- name: runs_to_tell
-- Those that could be begun now, by the limits of each agent; a company's own limit is looked at when one is.
WITH waiting AS (
    SELECT r.id, r.created_at, row_number() OVER (PARTITION BY r.agent_id ORDER BY r.created_at, r.id) AS place,
           least(l.runs_at_once, %(most)s) - (SELECT count(*) FROM runs u WHERE u.agent_id = r.agent_id
               AND u.state = 'running' AND u.lease_until > clock_timestamp()) AS room
    FROM runs r JOIN agents a ON a.id = r.agent_id LEFT JOIN limits l ON l.agent_id = r.agent_id
    WHERE r.state = 'queued' AND a.state = 'active' AND a.adapter IS NOT NULL
      AND coalesce(r.due_at <= clock_timestamp(), true))
SELECT id FROM waiting WHERE place <= room ORDER BY created_at, id
LIMIT greatest(0, least(%(at_once)s, (SELECT l.runs_at_once FROM limits l WHERE l.agent_id IS NULL)
    - (SELECT count(*) FROM runs u WHERE u.state = 'running' AND u.lease_until > clock_timestamp())));

-- name: jobs_told
SELECT queueing_lock::uuid AS id FROM company_agents_jobs.procrastinate_jobs
WHERE queueing_lock = ANY (%(ids)s::text[]) AND status IN ('todo', 'doing');

-- name: jobs_session
SELECT set_config('search_path', 'company_agents_jobs', false), set_config('statement_timeout', '30s', false),
       set_config('lock_timeout', '10s', false);

-- name: jobs_reach
SET LOCAL search_path = public, company_agents_jobs;

-- name: run_deliver
-- Whoever delivers it takes the turn: nobody else does before the time of the next.
UPDATE runs SET delivered = delivered + 1, due_at = clock_timestamp() + make_interval(secs => %(wait)s)
WHERE id = %(id)s AND state = 'queued' AND coalesce(due_at <= clock_timestamp(), true) RETURNING delivered;

-- name: run_delivered
UPDATE runs SET reason = %(reason)s, due_at = clock_timestamp() + make_interval(secs => %(wait)s)
WHERE id = %(id)s AND state = 'queued' AND fence = %(fence)s;

-- name: run_token_lookup
SELECT * FROM run_token_lookup(%s::uuid[], %s::uuid[]);

-- name: companies_to_sweep
SELECT company_id FROM companies_to_sweep();

-- name: pins_hold
-- Their current versions stay current to the end of the transaction; in one order, so that two never wait for each other.
SELECT i.id FROM integrations i
WHERE (%(integration_id)s::uuid IS NULL OR i.id = %(integration_id)s) AND (i.allow_all OR EXISTS (
        SELECT FROM integration_agents a WHERE a.integration_id = i.id AND a.agent_id = %(agent_id)s))
ORDER BY i.id FOR SHARE;

-- name: pins_insert
INSERT INTO run_pins (company_id, run_id, integration_id, version)
SELECT v.company_id, %(run_id)s, v.integration_id, v.version
FROM credential_versions v WHERE v.integration_id = ANY (%(integrations)s) AND v.state = 'current'
ON CONFLICT DO NOTHING;

-- name: pins_of_run
SELECT p.integration_id AS integration, i.name, p.version, p.pinned_at, p.cut_at
FROM run_pins p JOIN integrations i ON i.id = p.integration_id
WHERE p.run_id = %(run_id)s ORDER BY i.name;

-- name: pins_cut
UPDATE run_pins p SET cut_at = clock_timestamp()
FROM runs r, credential_versions v
WHERE p.integration_id = %(integration_id)s AND p.cut_at IS NULL AND r.id = p.run_id AND r.state = 'running'
  AND v.integration_id = p.integration_id AND v.version = p.version
  AND CASE WHEN %(version)s::int IS NOT NULL THEN p.version = %(version)s ELSE %(all)s OR v.state = 'draining' END
RETURNING p.run_id, p.version;

-- name: pins_move
UPDATE run_pins p SET version = %(version)s
FROM runs r
WHERE p.integration_id = %(integration_id)s AND p.version = ANY (%(sources)s) AND p.cut_at IS NULL AND r.id = p.run_id
  AND r.state = 'running';

-- name: pins_drop
-- Of a run that has ended. Without waiting for who moves or cuts one of them, who may be waiting for another: what is left goes
-- with the run.
WITH pinned AS (SELECT integration_id FROM run_pins WHERE run_id = %(run_id)s),
     free AS (SELECT run_id, integration_id FROM run_pins WHERE run_id = %(run_id)s FOR UPDATE SKIP LOCKED),
     gone AS (DELETE FROM run_pins p USING free WHERE p.run_id = free.run_id AND p.integration_id = free.integration_id)
SELECT integration_id FROM pinned;

-- name: integrations_draining
SELECT DISTINCT integration_id AS id FROM credential_versions
WHERE state = 'draining' AND (%(integrations)s::uuid[] IS NULL OR integration_id = ANY (%(integrations)s));

-- name: run_held
-- For as long as this transaction: who takes the run on, or ends it, waits.
SELECT r.id FROM runs r
WHERE r.id = %(id)s AND r.fence = %(fence)s AND r.state = 'running' AND r.lease_until > clock_timestamp() FOR SHARE;
