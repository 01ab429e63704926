-- name: backup_schedule_turn
-- Of the session: it goes with the orchestrator that holds it.
SELECT pg_try_advisory_lock(%(lock)s) AS taken;

-- name: backup_schedule_secrets
-- A company's secret, which has been there for a while: whoever sets an instance up does several things at once.
SELECT EXISTS (SELECT FROM secrets WHERE company_id IS NOT NULL
               AND created_at < now() - make_interval(mins => %(minutes)s)) AS found;

-- name: backup_schedule_failed
-- One that failed before it was begun.
INSERT INTO backups (id, file, place, state, scheduled, made_by, problem, finished_at)
VALUES (%(id)s, '', %(place)s, 'failed', true, %(made_by)s, %(problem)s, now());

-- name: backup_schedule_gone
UPDATE backups SET state = 'gone' WHERE id = %(id)s AND state = 'whole' AND scheduled;

-- name: backup_schedule_forget
-- What failed, or was taken away, long ago. The audit log has it.
DELETE FROM backups WHERE scheduled AND state IN ('failed', 'gone')
  AND created_at < now() - make_interval(days => %(days)s)
  AND (drilled_at IS NULL OR drilled_at < (SELECT max(d.drilled_at) FROM backups d));

-- name: backup_schedule_told
-- Whether the chain has an event of a kind since then; it is among the last ones, as a rule.
SELECT EXISTS (
    SELECT FROM (SELECT e.record FROM audit_events e WHERE e.chain = %(chain)s ORDER BY e.seq DESC LIMIT 20000) e
    WHERE e.record LIKE %(pattern)s AND (e.record::json ->> 'at') >= %(since)s) AS found;
