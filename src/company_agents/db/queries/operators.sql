-- name: operator_any
SELECT id FROM operators LIMIT 1;

-- name: operator_get
SELECT id, name, instance_owner, created_at, disabled_at FROM operators WHERE id = %(id)s;

-- name: operator_list
SELECT id, name, instance_owner, created_at, disabled_at FROM operators ORDER BY created_at, id;

-- name: operator_by_name
SELECT id, password_hash, totp_step FROM operators WHERE name = %(name)s AND disabled_at IS NULL;

-- name: operator_highest_role
SELECT CASE WHEN o.instance_owner THEN 'owner' ELSE
    (SELECT m.role FROM memberships m WHERE m.operator_id = o.id
     ORDER BY array_position(ARRAY['owner', 'operator', 'viewer'], m.role) LIMIT 1) END AS role
FROM operators o WHERE o.id = %(id)s;

-- name: operator_insert
INSERT INTO operators (id, name, password_hash, totp_step, instance_owner)
VALUES (%(id)s, %(name)s, %(password_hash)s, %(totp_step)s, %(instance_owner)s);

-- name: operator_reset
UPDATE operators SET password_hash = %(password_hash)s, totp_step = %(totp_step)s WHERE id = %(id)s;

-- name: operator_lock
-- Two that change how one person gets in, come one after the other; who signs in meanwhile waits too.
SELECT id, disabled_at FROM operators WHERE id = %(id)s FOR UPDATE;

-- name: instance_owner_any
SELECT id FROM operators WHERE instance_owner AND disabled_at IS NULL LIMIT 1;

-- name: instance_owners_lock
-- In one order, so that two who disable one another come one after the other, and the second sees who is left.
SELECT id FROM operators WHERE instance_owner AND disabled_at IS NULL ORDER BY id FOR UPDATE;

-- name: operator_disable
UPDATE operators SET disabled_at = now() WHERE id = %(id)s;

-- name: operator_enable
UPDATE operators SET disabled_at = NULL WHERE id = %(id)s AND disabled_at IS NOT NULL;

-- name: operator_totp_take
UPDATE operators SET totp_step = %(step)s WHERE id = %(id)s AND totp_step < %(step)s;

-- name: link_insert
INSERT INTO sign_in_links (id, token_hash, operator_id, instance_owner, company_id, role, ends_at)
VALUES (%(id)s, %(token_hash)s, %(operator_id)s, %(instance_owner)s, %(company_id)s, %(role)s,
        now() + make_interval(mins => %(minutes)s));

-- name: link_get
SELECT id, operator_id, instance_owner, company_id, role FROM sign_in_links
WHERE token_hash = %(token_hash)s AND used_at IS NULL AND ends_at > now();

-- name: link_use
UPDATE sign_in_links SET used_at = now() WHERE id = %(id)s AND used_at IS NULL AND ends_at > now();

-- name: links_void_of
UPDATE sign_in_links SET used_at = now() WHERE operator_id = %(operator_id)s AND used_at IS NULL AND ends_at > now();

-- name: links_void_all
UPDATE sign_in_links SET used_at = now() WHERE used_at IS NULL AND ends_at > now();

-- name: links_void_company
UPDATE sign_in_links SET used_at = now() WHERE company_id = %(company_id)s AND used_at IS NULL AND ends_at > now();

-- name: links_void_first
UPDATE sign_in_links SET used_at = now() WHERE used_at IS NULL AND operator_id IS NULL AND instance_owner;

-- name: session_insert
-- For a person as they are now: with the password that was looked at, where one was, and not disabled since.
INSERT INTO sessions (id, operator_id, token_hash, ends_at, address, browser)
SELECT %(id)s, o.id, %(token_hash)s, now() + make_interval(hours => %(hours)s), %(address)s, %(browser)s
FROM operators o WHERE o.id = %(operator_id)s AND o.disabled_at IS NULL
  AND o.password_hash = coalesce(%(password_hash)s, o.password_hash) FOR SHARE;

-- name: session_current
-- `seen_at` is written at most once a minute.
WITH seen AS (
    UPDATE sessions SET seen_at = now()
    WHERE %(used)s AND token_hash = %(token_hash)s AND ends_at > now() AND seen_at < now() - interval '1 minute'
      AND seen_at > now() - make_interval(mins => %(idle_minutes)s)
)
SELECT s.id, s.operator_id, s.created_at, s.seen_at, s.ends_at, s.confirmed_at, s.address, s.browser, o.name AS operator_name,
       o.instance_owner
FROM sessions s JOIN operators o ON o.id = s.operator_id
WHERE s.token_hash = %(token_hash)s AND s.ends_at > now()
  AND s.seen_at > now() - make_interval(mins => %(idle_minutes)s) AND o.disabled_at IS NULL;

-- name: session_watched
-- The same for a page that stays open: that is no use, so `seen_at` stays; and what they are in the company of that page.
SELECT s.id, r.role
FROM sessions s JOIN operators o ON o.id = s.operator_id, LATERAL operator_role_lookup(o.id, %(company_id)s) r
WHERE s.token_hash = %(token_hash)s AND s.ends_at > now()
  AND s.seen_at > now() - make_interval(mins => %(idle_minutes)s) AND o.disabled_at IS NULL;

-- name: session_confirm
UPDATE sessions SET confirmed_at = now() WHERE id = %(id)s;

-- name: session_list
SELECT id, operator_id, created_at, seen_at, ends_at, confirmed_at, address, browser FROM sessions
WHERE operator_id = %(operator_id)s AND ends_at > now() ORDER BY seen_at DESC;

-- name: session_end
DELETE FROM sessions WHERE id = %(id)s AND operator_id = %(operator_id)s;

-- name: sessions_end_all
DELETE FROM sessions WHERE operator_id = %(operator_id)s;

-- name: sessions_sweep
DELETE FROM sessions WHERE ends_at < now();

-- name: failures_blocked
SELECT extract(epoch FROM max(blocked_until) - clock_timestamp()) AS seconds FROM sign_in_failures
WHERE who = ANY (%(who)s) AND blocked_until > clock_timestamp();

-- name: failure_charge
-- After the free ones the wait doubles with each failure; an hour without any starts anew. No row: blocked. Whoever
-- waited here for another attempt looks at the clock anew, not at when its transaction began.
INSERT INTO sign_in_failures (who, failures, blocked_until) VALUES (%(who)s, 1, clock_timestamp())
ON CONFLICT (who) DO UPDATE SET
    failures = CASE WHEN sign_in_failures.updated_at < now() - interval '1 hour' THEN 1 ELSE sign_in_failures.failures + 1 END,
    blocked_until = clock_timestamp() + make_interval(secs => CASE
        WHEN sign_in_failures.updated_at < now() - interval '1 hour' OR sign_in_failures.failures + 1 < %(free)s THEN 0
        ELSE least(%(longest)s, 2 ^ least(sign_in_failures.failures + 1 - %(free)s, 20)) END),
    updated_at = now()
WHERE sign_in_failures.blocked_until <= clock_timestamp();

-- name: failures_sweep
-- These count no more: the next failure would begin anew.
DELETE FROM sign_in_failures WHERE updated_at < now() - interval '1 hour' AND blocked_until < now();

-- name: failures_forget
DELETE FROM sign_in_failures WHERE who = ANY (%(who)s);

-- name: operator_token_insert
INSERT INTO operator_tokens (id, operator_id, name, role, ends_at)
VALUES (%(id)s, %(operator_id)s, %(name)s, %(role)s, %(ends_at)s);

-- name: operator_token_get
SELECT t.id, t.operator_id, t.name, t.role, t.created_at, t.ends_at, t.revoked_at, s.last_used_at
FROM operator_tokens t LEFT JOIN secrets s ON s.company_id IS NULL AND s.name = 'operator_token/' || %(id)s::uuid
WHERE t.id = %(id)s;

-- name: operator_token_list
SELECT t.id, t.operator_id, t.name, t.role, t.created_at, t.ends_at, t.revoked_at, s.last_used_at
FROM operator_tokens t LEFT JOIN secrets s ON s.company_id IS NULL AND s.name = 'operator_token/' || t.id
WHERE %(operator_id)s::uuid IS NULL OR t.operator_id = %(operator_id)s ORDER BY t.created_at, t.id;

-- name: operator_token_revoke
UPDATE operator_tokens SET revoked_at = coalesce(revoked_at, now())
WHERE id = %(id)s AND (%(operator_id)s::uuid IS NULL OR operator_id = %(operator_id)s) RETURNING id;

-- name: operator_tokens_revoke_all
UPDATE operator_tokens SET revoked_at = now() WHERE operator_id = %(operator_id)s AND revoked_at IS NULL RETURNING id;
