-- name: schedule_insert
INSERT INTO schedules (id, company_id, agent_id, name, cron, timezone, prompt, next_at, created_by)
VALUES (%(id)s, %(company_id)s, %(agent_id)s, %(name)s, %(cron)s, %(timezone)s, %(prompt)s, %(next_at)s, %(created_by)s);

-- name: schedule_get
SELECT s.id, s.company_id, s.agent_id, s.name, s.cron, s.timezone, s.prompt, s.enabled, s.next_at, s.last_at, s.skipped,
       s.created_by, s.created_at, s.updated_at
FROM schedules s WHERE s.id = %(id)s;

-- name: schedule_list
SELECT s.id, s.company_id, s.agent_id, s.name, s.cron, s.timezone, s.prompt, s.enabled, s.next_at, s.last_at, s.skipped,
       s.created_by, s.created_at, s.updated_at
FROM schedules s
WHERE %(after_at)s::timestamptz IS NULL OR (s.created_at, s.id) > (%(after_at)s, %(after_id)s::uuid)
ORDER BY s.created_at, s.id LIMIT %(limit)s;

-- name: schedule_count
SELECT count(*) AS count FROM schedules;

-- name: schedule_now
SELECT clock_timestamp() AS now;

-- name: schedule_hold
SELECT id FROM schedules WHERE id = %(id)s FOR UPDATE;

-- name: schedule_switch
UPDATE schedules SET enabled = %(enabled)s, next_at = %(next_at)s, updated_at = now() WHERE id = %(id)s;

-- name: schedule_delete
DELETE FROM schedules WHERE id = %(id)s;

-- name: schedules_due
SELECT s.id FROM schedules s WHERE s.enabled AND s.next_at <= clock_timestamp() ORDER BY s.next_at LIMIT 100;

-- name: schedule_hold_due
-- Whoever gets it starts its run; who comes a moment later finds it locked, or not due any more. `waits`: a run of it has
-- not even begun.
SELECT s.id, s.agent_id, s.name, s.cron, s.timezone, s.prompt, s.next_at, clock_timestamp() AS now, a.state AS agent_state,
       a.adapter, s.missed, EXISTS (SELECT FROM runs r WHERE r.schedule_id = s.id AND r.state = 'queued' AND r.fence = 0) AS waits
FROM schedules s JOIN agents a ON a.id = s.agent_id
WHERE s.id = %(id)s AND s.enabled AND s.next_at <= clock_timestamp() FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: schedule_move
UPDATE schedules SET last_at = next_at, next_at = %(next_at)s, skipped = %(skipped)s, missed = false, updated_at = now() WHERE id = %(id)s;

-- name: locate_schedule
SELECT company_id FROM schedules WHERE id = %(id)s;
