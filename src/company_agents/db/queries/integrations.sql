-- name: integration_list
SELECT i.id, i.company_id, i.provider, i.name, i.destination, i.status, i.status_reason, i.status_since, i.status_hint,
       i.kind, i.account, i.rotate_every, i.scopes, i.allow_all, i.created_at, i.updated_at, v.version, v.expires_at,
       s.last_used_at,
       ARRAY(SELECT a.agent_id FROM integration_agents a WHERE a.integration_id = i.id ORDER BY a.created_at) AS agents
FROM integrations i
JOIN credential_versions v ON v.integration_id = i.id AND v.state = 'current'
JOIN secrets s ON s.id = v.secret_id
WHERE (%(agent_id)s::uuid IS NULL OR i.allow_all OR EXISTS (
        SELECT FROM integration_agents a WHERE a.integration_id = i.id AND a.agent_id = %(agent_id)s))
  AND (%(after_at)s::timestamptz IS NULL OR (i.created_at, i.id) > (%(after_at)s, %(after_id)s::uuid))
ORDER BY i.created_at, i.id LIMIT %(limit)s;

-- name: integration_get
SELECT i.id, i.company_id, i.provider, i.name, i.destination, i.status, i.status_reason, i.status_since, i.status_hint,
       i.kind, i.account, i.rotate_every, i.scopes, i.allow_all, i.created_at, i.updated_at, v.version, v.expires_at,
       s.last_used_at,
       ARRAY(SELECT a.agent_id FROM integration_agents a WHERE a.integration_id = i.id ORDER BY a.created_at) AS agents
FROM integrations i
JOIN credential_versions v ON v.integration_id = i.id AND v.state = 'current'
JOIN secrets s ON s.id = v.secret_id
WHERE i.id = %(id)s AND (%(agent_id)s::uuid IS NULL OR i.allow_all OR EXISTS (
        SELECT FROM integration_agents a WHERE a.integration_id = i.id AND a.agent_id = %(agent_id)s));

-- name: integration_for_use
SELECT i.id, i.provider, i.name, i.destination, i.status, v.version, v.secret_id
FROM integrations i JOIN credential_versions v ON v.integration_id = i.id AND v.state = 'current'
WHERE (i.id = %(id)s::uuid OR i.name = %(name)s::text) AND (i.allow_all OR EXISTS (
        SELECT FROM integration_agents a WHERE a.integration_id = i.id AND a.agent_id = %(agent_id)s))
  -- The door has looked; but a call may have waited for its turn since.
  AND EXISTS (SELECT FROM agents g WHERE g.id = %(agent_id)s AND g.state = 'active');

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

-- name: integration_status
UPDATE integrations SET
    status_since = CASE WHEN status = %(status)s AND status_reason = %(reason)s THEN status_since ELSE now() END,
    status = %(status)s, status_reason = %(reason)s, scopes = coalesce(%(scopes)s::text[], scopes), updated_at = now()
WHERE id = %(id)s;

-- name: integration_allow
INSERT INTO integration_agents (company_id, integration_id, agent_id)
VALUES (%(company_id)s, %(integration_id)s, %(agent_id)s) ON CONFLICT DO NOTHING;

-- name: integration_disallow
DELETE FROM integration_agents WHERE integration_id = %(integration_id)s AND agent_id = %(agent_id)s;

-- name: integration_allow_all
UPDATE integrations SET allow_all = %(on)s, updated_at = now() WHERE id = %(id)s;

-- name: version_insert
INSERT INTO credential_versions (company_id, integration_id, version, state, secret_id, expires_at, refresh_due_at)
VALUES (%(company_id)s, %(integration_id)s, %(version)s, 'current', %(secret_id)s, %(expires_at)s, %(refresh_due_at)s);

-- name: version_retire
UPDATE credential_versions SET state = 'retired', secret_id = NULL, retired_at = now(), refresh_due_at = NULL
WHERE integration_id = %(integration_id)s AND version = %(version)s;
