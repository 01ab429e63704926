-- What a page shows at one look, in one statement each. Asked again for as long as the page is open: who says with `seen`
-- which look they know is answered with no rows but the mark where nothing has changed.

-- name: board_view
-- The newest of each status; the run is the newest of its task.
WITH newest AS MATERIALIZED (
    SELECT wanted.n, t.* FROM unnest(%(statuses)s::text[]) WITH ORDINALITY AS wanted (status, n)
    CROSS JOIN LATERAL (
        SELECT tasks.id, tasks.title, tasks.status, tasks.assignee, tasks.created_at, tasks.updated_at FROM tasks
        WHERE tasks.status = wanted.status ORDER BY tasks.updated_at DESC, tasks.id LIMIT %(most)s) t),
board AS MATERIALIZED (
    SELECT t.n, t.id, t.title, t.status, t.assignee, a.name AS assignee_name, t.created_at, t.updated_at,
           (SELECT count(*) FROM comments c WHERE c.task_id = t.id) AS comments, r.id AS run, r.state AS run_state
    FROM newest t
    LEFT JOIN agents a ON a.id = t.assignee
    LEFT JOIN LATERAL (
        SELECT runs.id, runs.state FROM runs WHERE runs.task_id = t.id
        ORDER BY runs.created_at DESC, runs.id LIMIT 1) r ON true),
mark AS (
    SELECT md5(coalesce(string_agg(b::text, ',' ORDER BY b.n, b.updated_at DESC, b.id), '')) AS mark FROM board b)
SELECT mark.mark, b.* FROM mark LEFT JOIN board b ON mark.mark <> %(seen)s ORDER BY b.n, b.updated_at DESC, b.id;

-- name: thread_view
-- A task with its newest comments and its runs. A comment is never changed. Who said it in the name of a run is its agent.
WITH task AS MATERIALIZED (
    SELECT t.id, t.title, t.description, t.status, t.assignee, a.name AS assignee_name, t.created_by, c.name AS creator,
           t.created_at, t.updated_at
    FROM tasks t
    LEFT JOIN agents a ON a.id = t.assignee
    LEFT JOIN runs r ON r.id = CASE WHEN t.created_by LIKE 'run:%%' THEN substr(t.created_by, 5)::uuid END
    LEFT JOIN agents c
        ON c.id = CASE WHEN t.created_by LIKE 'agent:%%' THEN substr(t.created_by, 7)::uuid ELSE r.agent_id END
    WHERE t.id = %(id)s),
said AS MATERIALIZED (
    SELECT c.id, c.author, c.text, c.created_at FROM comments c
    WHERE c.task_id = %(id)s
      AND (%(after_at)s::timestamptz IS NULL OR (c.created_at, c.id) < (%(after_at)s, %(after_id)s::uuid))
    ORDER BY c.created_at DESC, c.id DESC LIMIT %(limit)s),
work AS MATERIALIZED (
    SELECT r.id, r.agent_id, a.name AS agent_name, r.state, r.created_at, r.started_at, r.ended_at
    FROM runs r JOIN agents a ON a.id = r.agent_id
    WHERE r.task_id = %(id)s ORDER BY r.created_at DESC, r.id LIMIT 20),
mark AS (
    SELECT md5((SELECT task::text FROM task) || coalesce((SELECT string_agg(said.id::text, ',') FROM said), '')
               || coalesce((SELECT string_agg(work::text, ',' ORDER BY work.created_at, work.id) FROM work), '')) AS mark)
SELECT mark.mark, task.*,
       CASE WHEN task.id IS NOT NULL THEN coalesce((
           SELECT jsonb_agg(to_jsonb(said) || jsonb_build_object('agent', a.name)
                            ORDER BY said.created_at DESC, said.id DESC)
           FROM said
           LEFT JOIN runs r ON r.id = CASE WHEN said.author LIKE 'run:%%' THEN substr(said.author, 5)::uuid END
           LEFT JOIN agents a
               ON a.id = CASE WHEN said.author LIKE 'agent:%%' THEN substr(said.author, 7)::uuid ELSE r.agent_id END),
           '[]') END AS said,
       CASE WHEN task.id IS NOT NULL THEN coalesce((
           SELECT jsonb_agg(to_jsonb(work) ORDER BY work.created_at DESC, work.id) FROM work), '[]') END AS work
FROM mark LEFT JOIN task ON mark.mark <> %(seen)s;

-- name: runs_view
-- Newest first. Which ones is settled before anything is said of them.
WITH newest AS MATERIALIZED (
    SELECT * FROM runs r
    WHERE (%(agent_id)s::uuid IS NULL OR r.agent_id = %(agent_id)s) AND (%(state)s::text IS NULL OR r.state = %(state)s)
      AND (%(after_at)s::timestamptz IS NULL OR (r.created_at, r.id) < (%(after_at)s, %(after_id)s::uuid))
    ORDER BY r.created_at DESC, r.id DESC LIMIT %(limit)s),
found AS MATERIALIZED (
    SELECT r.id, r.agent_id, a.name AS agent_name, r.state, r.purpose, r.reason, r.task_id, t.title AS task_title, r.started_by,
           coalesce(by.name, 'the schedule ' || s.name) AS starter, r.fence AS starts, r.tokens, r.micros, r.created_at,
           r.started_at, r.ended_at
    FROM newest r
    JOIN agents a ON a.id = r.agent_id
    LEFT JOIN tasks t ON t.id = r.task_id
    LEFT JOIN schedules s ON s.id = r.schedule_id
    LEFT JOIN runs other ON other.id = CASE WHEN r.started_by LIKE 'run:%%' THEN substr(r.started_by, 5)::uuid END
    LEFT JOIN agents by
        ON by.id = CASE WHEN r.started_by LIKE 'agent:%%' THEN substr(r.started_by, 7)::uuid ELSE other.agent_id END),
mark AS (
    SELECT md5(coalesce(string_agg(f::text, ',' ORDER BY f.created_at DESC, f.id DESC), '')) AS mark FROM found f)
SELECT mark.mark, f.* FROM mark LEFT JOIN found f ON mark.mark <> %(seen)s ORDER BY f.created_at DESC, f.id DESC;

-- name: run_view
-- A run with what it put out after a line, oldest first.
SELECT r.id, r.agent_id, a.name AS agent_name, r.adapter, a.unsandboxed, r.state, r.purpose, r.prompt, r.reason, r.task_id,
       t.title AS task_title, r.schedule_id, r.started_by, coalesce(by.name, 'the schedule ' || s.name) AS starter,
       r.fence AS starts, r.lease_until, r.time_limit, r.token_limit, r.micros_limit, r.tokens, r.micros, r.created_at, r.started_at, r.ended_at,
       clock_timestamp() AS now,
       coalesce((SELECT jsonb_agg(jsonb_build_object('integration_id', p.integration_id, 'name', i.name, 'version', p.version,
                                                     'state', v.state, 'cut_at', p.cut_at) ORDER BY i.name)
                 FROM run_pins p JOIN integrations i ON i.id = p.integration_id
                     LEFT JOIN credential_versions v ON v.integration_id = p.integration_id AND v.version = p.version
                 WHERE p.run_id = %(id)s), '[]') AS pins,
       coalesce((SELECT jsonb_agg(jsonb_build_object('seq', o.seq, 'stream', o.stream, 'text', o.text) ORDER BY o.seq)
                 FROM (SELECT seq, stream, text FROM run_output WHERE run_id = %(id)s AND seq > %(after)s
                       ORDER BY seq LIMIT %(most)s) o), '[]') AS output
FROM runs r
JOIN agents a ON a.id = r.agent_id
LEFT JOIN tasks t ON t.id = r.task_id
LEFT JOIN schedules s ON s.id = r.schedule_id
LEFT JOIN runs other ON other.id = CASE WHEN r.started_by LIKE 'run:%%' THEN substr(r.started_by, 5)::uuid END
LEFT JOIN agents by
    ON by.id = CASE WHEN r.started_by LIKE 'agent:%%' THEN substr(r.started_by, 7)::uuid ELSE other.agent_id END
WHERE r.id = %(id)s;

-- name: output_start
-- After which line a page begins that shows so many of the last ones.
SELECT coalesce((SELECT o.seq FROM run_output o WHERE o.run_id = %(id)s ORDER BY o.seq DESC OFFSET %(most)s LIMIT 1), 0) AS after;

-- name: months_view
-- What each agent has spent this month, beside its budget: the dearest first, and those that are retired where they spent.
SELECT a.id, a.name, a.state, coalesce(s.calls, 0) AS calls, coalesce(s.tokens, 0) AS tokens, coalesce(s.micros, 0) AS micros,
       coalesce(s.unpriced, 0) AS unpriced, l.month_tokens, l.month_micros
FROM agents a
LEFT JOIN spending_months s ON s.agent_id = a.id AND s.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
LEFT JOIN limits l ON l.agent_id = a.id
WHERE a.state <> 'retired' OR s.calls > 0
ORDER BY coalesce(s.micros, 0) DESC, coalesce(s.tokens, 0) DESC, a.name LIMIT %(limit)s;

-- name: memory_view
SELECT count(*) AS notes, max(updated_at) AS newest, coalesce(sum(length(content)), 0)::bigint AS characters
FROM memory WHERE agent_id = %(agent_id)s;
