-- name: integration_list
SELECT i.id, i.company_id, i.provider, i.name, i.destination, i.status, i.status_reason, i.status_since, i.status_hint,
       i.kind, i.account, i.rotate_every, i.scopes, i.allow_all, i.created_at, i.updated_at, v.version, v.expires_at,
       -- Also by a run that holds an older version, and before a rotation whose old secret is still there.
       (SELECT max(s.last_used_at) FROM credential_versions u JOIN secrets s ON s.id = u.secret_id
        WHERE u.integration_id = i.id) AS last_used_at,
       ARRAY(SELECT a.agent_id FROM integration_agents a WHERE a.integration_id = i.id ORDER BY a.created_at) AS agents
FROM integrations i
JOIN credential_versions v ON v.integration_id = i.id AND v.state = 'current'
WHERE (%(agent_id)s::uuid IS NULL OR i.allow_all OR EXISTS (
        SELECT FROM integration_agents a WHERE a.integration_id = i.id AND a.agent_id = %(agent_id)s))
  AND (%(after_at)s::timestamptz IS NULL OR (i.created_at, i.id) > (%(after_at)s, %(after_id)s::uuid))
ORDER BY i.created_at, i.id LIMIT %(limit)s;

-- name: integration_get
SELECT i.id, i.company_id, i.provider, i.name, i.destination, i.status, i.status_reason, i.status_since, i.status_hint,
       i.kind, i.account, i.rotate_every, i.scopes, i.allow_all, i.created_at, i.updated_at, v.version, v.expires_at,
       -- Also by a run that holds an older version, and before a rotation whose old secret is still there.
       (SELECT max(s.last_used_at) FROM credential_versions u JOIN secrets s ON s.id = u.secret_id
        WHERE u.integration_id = i.id) AS last_used_at,
       ARRAY(SELECT a.agent_id FROM integration_agents a WHERE a.integration_id = i.id ORDER BY a.created_at) AS agents
FROM integrations i
JOIN credential_versions v ON v.integration_id = i.id AND v.state = 'current'
WHERE i.id = %(id)s AND (%(agent_id)s::uuid IS NULL OR i.allow_all OR EXISTS (
        SELECT FROM integration_agents a WHERE a.integration_id = i.id AND a.agent_id = %(agent_id)s));

-- name: integration_lookup
SELECT * FROM integration_lookup(%s::uuid[], %s::uuid[], %s::uuid[], %s::bigint[], %s::timestamptz[], %s::uuid[], %s::text[]);

-- name: integration_there
SELECT id FROM integrations WHERE id = %(id)s::uuid OR name = %(name)s::text;

-- name: integration_named
SELECT id FROM integrations WHERE name = %(name)s;

-- name: integration_insert
INSERT INTO integrations (id, company_id, provider, name, destination, status, kind, account, scopes, allow_all)
VALUES (%(id)s, %(company_id)s, %(provider)s, %(name)s, %(destination)s, 'connected', %(kind)s, %(account)s, %(scopes)s,
        %(allow_all)s);

-- name: integration_superseded
UPDATE integrations SET
    status_since = CASE WHEN status = 'connected' THEN status_since ELSE now() END,
    status = 'connected', status_reason = '', status_hint = '', destination = %(destination)s, kind = %(kind)s,
    -- Where neither says, it is the same as before.
    account = coalesce(nullif(%(account)s, ''), account),
    scopes = CASE WHEN %(scopes)s::text[] = '{}' THEN scopes ELSE %(scopes)s END, updated_at = now()
WHERE id = %(id)s;

-- name: integration_hold
SELECT id FROM integrations WHERE id = %(id)s FOR UPDATE;

-- name: integration_current
SELECT i.name, v.version, v.secret_id FROM integrations i
JOIN credential_versions v ON v.integration_id = i.id AND v.state = 'current'
WHERE i.id = %(id)s;

-- name: integration_secrets
SELECT secret_id FROM credential_versions WHERE integration_id = %(id)s AND secret_id IS NOT NULL;

-- name: integration_delete
DELETE FROM integrations WHERE id = %(id)s;

-- name: integration_allow
INSERT INTO integration_agents (company_id, integration_id, agent_id)
VALUES (%(company_id)s, %(integration_id)s, %(agent_id)s) ON CONFLICT DO NOTHING;

-- name: integration_disallow
DELETE FROM integration_agents WHERE integration_id = %(integration_id)s AND agent_id = %(agent_id)s;

-- name: integration_allow_all
UPDATE integrations SET allow_all = %(on)s, updated_at = now() WHERE id = %(id)s;

-- name: version_insert
INSERT INTO credential_versions (company_id, integration_id, version, state, secret_id, consent, expires_at, refresh_due_at,
                                 ends_at, ends_because)
VALUES (%(company_id)s, %(integration_id)s, %(version)s, 'current', %(secret_id)s, %(consent)s, %(expires_at)s,
        %(refresh_due_at)s, %(ends_at)s, %(ends_because)s);

-- name: version_drain
UPDATE credential_versions SET state = 'draining' WHERE integration_id = %(integration_id)s AND state = 'current';

-- name: versions_live
SELECT version, secret_id FROM credential_versions
WHERE integration_id = %(integration_id)s AND state <> 'retired' AND consent;

-- name: versions_unheld
-- One whose refresh is under way is not to go yet: what the provider gives it is the value that is to be revoked.
SELECT v.version, v.secret_id, v.consent FROM credential_versions v
WHERE v.integration_id = %(integration_id)s AND v.state = 'draining' AND NOT EXISTS (
    SELECT FROM run_pins p JOIN runs r ON r.id = p.run_id
    WHERE p.integration_id = v.integration_id AND p.version = v.version AND p.cut_at IS NULL AND r.state = 'running')
  AND (v.attempt_ends_at IS NULL OR v.attempt_ends_at <= now())
FOR UPDATE OF v;

-- name: version_retire
UPDATE credential_versions SET
    state = 'retired', retired_at = now(), refresh_due_at = NULL,
    secret_id = CASE WHEN %(keeps_secret)s THEN secret_id END,
    revoke_after = CASE WHEN %(keeps_secret)s THEN now() END
WHERE integration_id = %(integration_id)s AND version = %(version)s;

-- name: version_claim
-- Nobody else tries it for a while that grows.
UPDATE credential_versions SET
    revoke_tries = revoke_tries + 1, revoke_after = now() + interval '1 minute' * power(5, least(revoke_tries, 3))
WHERE (integration_id, version) = (
    SELECT integration_id, version FROM credential_versions
    WHERE state = 'retired' AND secret_id IS NOT NULL AND revoke_after <= now()
      AND (%(integration_id)s::uuid IS NULL OR integration_id = %(integration_id)s)
    ORDER BY revoke_after LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING integration_id, version, secret_id, revoke_tries;

-- name: version_unclaim
-- Nothing was asked at the provider: that was no try. It has its time all the same, so that nobody goes round and round.
UPDATE credential_versions SET revoke_tries = greatest(revoke_tries - 1, 0)
WHERE integration_id = %(integration_id)s AND version = %(version)s AND secret_id = %(secret_id)s;

-- name: version_forget
UPDATE credential_versions SET secret_id = NULL, revoke_after = NULL
WHERE integration_id = %(integration_id)s AND version = %(version)s AND secret_id = %(secret_id)s;

-- name: version_list
SELECT v.version, v.state, v.created_at, v.expires_at, v.retired_at,
       (SELECT count(*) FROM run_pins p JOIN runs r ON r.id = p.run_id
        WHERE p.integration_id = v.integration_id AND p.version = v.version AND p.cut_at IS NULL
          AND r.state = 'running') AS runs
FROM credential_versions v WHERE v.integration_id = %(integration_id)s ORDER BY v.version DESC LIMIT 100;

-- name: version_state
SELECT state FROM credential_versions WHERE integration_id = %(integration_id)s AND version = %(version)s;
