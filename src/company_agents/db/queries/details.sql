-- name: uses_per_day
-- Calls of agents with one integration, by day. A chain has no index by time: the newest so many events are looked at.
SELECT ((record::jsonb ->> 'at')::timestamptz AT TIME ZONE 'UTC')::date AS day, count(*) AS count FROM (
    SELECT record FROM audit_events
    WHERE chain = %(chain)s AND seq > (SELECT h.seq FROM audit_heads h WHERE h.chain = %(chain)s) - %(most)s::bigint
) newest
WHERE strpos(record, '"action":"credential.begun"') > 0 AND strpos(record, %(integration)s) > 0
  AND strpos(record, '"purpose":') = 0 AND (record::jsonb ->> 'at')::timestamptz >= now() - make_interval(days => %(days)s)
GROUP BY 1 ORDER BY 1;

-- name: uses_beyond
-- The newest event that is not looked at, if it is of these days.
SELECT seq FROM audit_events
WHERE chain = %(chain)s AND seq = (SELECT h.seq FROM audit_heads h WHERE h.chain = %(chain)s) - %(most)s::bigint
  AND (record::jsonb ->> 'at')::timestamptz >= now() - make_interval(days => %(days)s);

-- name: rotate_every
UPDATE integrations SET rotate_every = %(days)s::int, updated_at = now() WHERE id = %(id)s;
