-- name: refresh_companies
SELECT company_id FROM companies_with_refresh_due(now());

-- name: refresh_claim
-- Begin attempts on what is due, the longest due first. What another takes at this moment is passed over.
WITH due AS MATERIALIZED (
    SELECT integration_id, version, attempt_ends_at IS NOT NULL AS unended
    FROM credential_versions
    WHERE refresh_due_at <= now() AND state <> 'retired' AND (attempt_ends_at IS NULL OR attempt_ends_at <= now())
    ORDER BY refresh_due_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
)
UPDATE credential_versions v SET
    attempt = v.attempt + 1, attempt_began_at = now(), attempt_ends_at = now() + %(lease)s,
    -- One that is past its end without a result: whether it was sent is not known.
    uncertain = v.uncertain + due.unended::int,
    lost_at = CASE WHEN due.unended THEN coalesce(v.lost_at, v.attempt_began_at) ELSE v.lost_at END
FROM due JOIN integrations i ON i.id = due.integration_id
WHERE v.integration_id = due.integration_id AND v.version = due.version
RETURNING v.integration_id, v.version, v.attempt AS number, v.written_by AS base, v.secret_id, i.provider, v.created_at,
          v.uncertain AS lost, extract(epoch FROM now() - v.lost_at)::float8 AS lost_for, v.failures,
          coalesce(v.expires_at <= now(), false) AS dead, now() AS at;

-- name: refresh_begin
-- The same for one: where it is due and its token ends within `soon`, or has ended; or (NULL) in any case, where it is older than
-- `age` and was not renewed since `base`. After a failure it is left to its time.
WITH due AS (
    SELECT integration_id, version, attempt_ends_at IS NOT NULL AS unended
    FROM credential_versions
    WHERE integration_id = %(integration_id)s AND version = %(version)s AND state <> 'retired'
      AND consent AND refresh_problem NOT IN ('uncertain', 'gone', 'nothing')
      AND (attempt_ends_at IS NULL OR attempt_ends_at <= now())
      AND (failures = 0 OR refresh_due_at <= now())
      AND (%(soon)s::interval IS NULL OR expires_at <= now()
           OR (expires_at <= now() + %(soon)s AND refresh_due_at <= now()))
      AND (%(base)s::bigint IS NULL OR written_by = %(base)s)
      AND coalesce(refreshed_at, created_at) <= now() - %(age)s::interval
    FOR UPDATE
)
UPDATE credential_versions v SET
    attempt = v.attempt + 1, attempt_began_at = now(), attempt_ends_at = now() + %(lease)s,
    uncertain = v.uncertain + due.unended::int,
    lost_at = CASE WHEN due.unended THEN coalesce(v.lost_at, v.attempt_began_at) ELSE v.lost_at END
FROM due JOIN integrations i ON i.id = due.integration_id
WHERE v.integration_id = due.integration_id AND v.version = due.version
RETURNING v.integration_id, v.version, v.attempt AS number, v.written_by AS base, v.secret_id, i.provider, v.created_at,
          v.uncertain AS lost, extract(epoch FROM now() - v.lost_at)::float8 AS lost_for, v.failures,
          coalesce(v.expires_at <= now(), false) AS dead, now() AS at;

-- name: refresh_state
SELECT v.written_by, coalesce(v.attempt_ends_at > now(), false) AS under_way, v.refresh_problem AS problem,
       coalesce(v.expires_at <= now(), false) AS dead, coalesce(v.expires_at <= now() + %(soon)s, false) AS ending,
       i.status_reason AS reason, i.status_hint AS hint
FROM credential_versions v JOIN integrations i ON i.id = v.integration_id
WHERE v.integration_id = %(integration_id)s AND v.version = %(version)s AND v.state <> 'retired';

-- name: refresh_written
-- A result counts where no later attempt has brought one. It ends its own attempt, never another's.
UPDATE credential_versions SET
    written_by = %(attempt)s, expires_at = %(expires_at)s, refresh_due_at = %(refresh_due_at)s, refreshed_at = now(),
    ends_at = %(ends_at)s, ends_because = %(ends_because)s,
    uncertain = 0, lost_at = NULL, failures = 0, refresh_problem = '',
    attempt_ends_at = CASE WHEN attempt = %(attempt)s THEN NULL ELSE attempt_ends_at END
WHERE integration_id = %(integration_id)s AND version = %(version)s AND state <> 'retired' AND written_by < %(attempt)s
RETURNING version;

-- name: refresh_failed
-- What an attempt failed of says nothing of what came later: of a result that was written, or of a later attempt.
UPDATE credential_versions SET
    refresh_due_at = CASE WHEN %(retry)s::interval IS NULL THEN NULL ELSE now() + %(retry)s END,
    failures = failures + 1, refresh_problem = %(problem)s,
    uncertain = uncertain + %(lost)s::int,
    lost_at = CASE WHEN %(lost)s::int > 0 THEN coalesce(lost_at, attempt_began_at) ELSE lost_at END,
    attempt_ends_at = NULL
WHERE integration_id = %(integration_id)s AND version = %(version)s AND state <> 'retired'
  AND attempt = %(attempt)s AND written_by = %(base)s
RETURNING coalesce(expires_at <= now(), false) AS dead, refresh_due_at;

-- name: refresh_lost
-- The reply was lost, and it may be tried once more at once.
UPDATE credential_versions SET
    uncertain = uncertain + 1, lost_at = coalesce(lost_at, attempt_began_at), refresh_due_at = now(), attempt_ends_at = NULL
WHERE integration_id = %(integration_id)s AND version = %(version)s AND state <> 'retired'
  AND attempt = %(attempt)s AND written_by = %(base)s
RETURNING version;

-- name: refresh_released
-- Nothing was sent: it is due again in a moment, or there is nothing to renew it with.
UPDATE credential_versions SET attempt_ends_at = NULL,
    refresh_problem = CASE WHEN %(again)s THEN refresh_problem ELSE 'nothing' END,
    refresh_due_at = CASE WHEN %(again)s AND refresh_due_at IS NOT NULL
                          THEN greatest(refresh_due_at, now() + interval '5 seconds') END
WHERE integration_id = %(integration_id)s AND version = %(version)s AND attempt = %(attempt)s;

-- name: upkeep_companies
SELECT company_id FROM companies_with_upkeep_due(%(every)s);

-- name: probe_plan
-- New ones have their time somewhere in the period; so has what was planned for a longer one.
UPDATE integrations SET probe_due_at = now() + random() * %(every)s
WHERE probe_due_at IS NULL OR probe_due_at > now() + 2 * %(every)s;

-- name: probe_claim
WITH due AS MATERIALIZED (
    SELECT id FROM integrations WHERE probe_due_at <= now() ORDER BY probe_due_at LIMIT %(most)s FOR UPDATE SKIP LOCKED)
UPDATE integrations i SET probe_due_at = now() + (0.9 + 0.2 * random()) * %(every)s, probed_at = now()
FROM due WHERE i.id = due.id
RETURNING i.id;

-- name: rotation_remind
UPDATE integrations i SET reminded_version = v.version, status_hint = CASE WHEN i.status_hint = '' THEN %(hint)s ELSE i.status_hint END
FROM credential_versions v
WHERE v.integration_id = i.id AND v.state = 'current' AND version_is_old(i, v)
  AND i.reminded_version IS DISTINCT FROM v.version
RETURNING i.id, v.version, i.rotate_every, floor(extract(epoch FROM now() - v.created_at) / 86400)::int AS age;

-- name: upkeep_endings
SELECT i.id, i.provider, v.version, v.ends_at, v.ends_because, v.expires_at, version_ends_soon(v) AS soon,
       v.ends_at <= now() AND v.ends_because <> 'testing' AS ended,
       v.failures > 0 AND v.expires_at <= now() AS dead
FROM integrations i JOIN credential_versions v ON v.integration_id = i.id AND v.state = 'current'
WHERE i.status <> 'needs attention'
  AND ((i.status <> 'expiring') = version_ends_soon(v)
       OR (v.ends_at <= now() AND v.ends_because <> 'testing')
       OR (v.failures > 0 AND v.expires_at <= now()))
LIMIT %(most)s;

-- name: status_now
SELECT i.status, i.status_reason AS reason, i.status_hint AS hint, i.provider, i.name, v.version, v.refresh_problem,
       version_ends_soon(v) AS ends_soon, version_is_old(i, v) AS old,
       (SELECT h.seen_by FROM integration_history h WHERE h.integration_id = i.id ORDER BY h.id DESC LIMIT 1) AS seen_by
FROM integrations i JOIN credential_versions v ON v.integration_id = i.id AND v.state = 'current'
WHERE i.id = %(id)s;

-- name: status_write
UPDATE integrations SET
    status_since = CASE WHEN status = %(status)s THEN status_since ELSE now() END,
    status = %(status)s, status_reason = %(reason)s, status_hint = %(hint)s,
    scopes = coalesce(%(scopes)s::text[], scopes), updated_at = now()
WHERE id = %(id)s;

-- name: history_insert
INSERT INTO integration_history (company_id, integration_id, version, status, reason, seen_by)
VALUES (%(company_id)s, %(integration_id)s, %(version)s, %(status)s, %(reason)s, %(seen_by)s);

-- name: history_prune
DELETE FROM integration_history WHERE integration_id = %(integration_id)s AND id <= (
    SELECT id FROM integration_history WHERE integration_id = %(integration_id)s ORDER BY id DESC OFFSET %(kept)s LIMIT 1);

-- name: history_list
SELECT version, status, reason, seen_by, at FROM integration_history
WHERE integration_id = %(integration_id)s ORDER BY id DESC LIMIT %(limit)s;

-- name: check_current
SELECT i.provider, i.destination, v.version, v.secret_id, v.consent, v.written_by,
       version_is_ending(v) AS is_ending
FROM integrations i JOIN credential_versions v ON v.integration_id = i.id AND v.state = 'current'
WHERE i.id = %(id)s;
