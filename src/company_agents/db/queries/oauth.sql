-- name: client_get
SELECT provider, issuer, client_id, auth, secret_id, created_at, updated_at FROM oauth_clients
WHERE provider = %(provider)s AND issuer = %(issuer)s;

-- name: client_list
SELECT provider, issuer, client_id, auth, secret_id, created_at, updated_at FROM oauth_clients ORDER BY provider, issuer;

-- name: client_hold
SELECT secret_id FROM oauth_clients WHERE provider = %(provider)s AND issuer = %(issuer)s FOR UPDATE;

-- name: client_put
INSERT INTO oauth_clients (company_id, provider, issuer, client_id, auth, secret_id)
VALUES (%(company_id)s, %(provider)s, %(issuer)s, %(client_id)s, %(auth)s, %(secret_id)s)
ON CONFLICT (company_id, provider, issuer)
DO UPDATE SET client_id = excluded.client_id, auth = excluded.auth, secret_id = excluded.secret_id, updated_at = now();

-- name: client_delete
DELETE FROM oauth_clients WHERE provider = %(provider)s AND issuer = %(issuer)s RETURNING secret_id;

-- name: flow_insert
INSERT INTO oauth_flows (id, company_id, provider, kind, state_hash, session_id, integration_id, secret_id, ends_at)
VALUES (%(id)s, %(company_id)s, %(provider)s, %(kind)s, %(state_hash)s, %(session_id)s, %(integration_id)s,
        %(secret_id)s, %(ends_at)s);

-- name: flow_get
SELECT id, provider, kind, session_id, integration_id, secret_id, ends_at, used_at FROM oauth_flows WHERE id = %(id)s;

-- name: flow_claim
-- Whoever comes with the right state uses it up, whatever else is wrong with what they bring.
UPDATE oauth_flows SET used_at = now(), secret_id = NULL
WHERE id = %(id)s AND used_at IS NULL AND state_hash IS NOT DISTINCT FROM %(state_hash)s
RETURNING provider, session_id, ends_at;

-- name: flow_known
SELECT used_at FROM oauth_flows WHERE id = %(id)s AND state_hash = %(state_hash)s;

-- name: flow_delete
DELETE FROM oauth_flows WHERE id = %(id)s RETURNING secret_id;

-- name: flows_over
-- A while longer than they are good for: whoever comes late is told that it is too late.
DELETE FROM oauth_flows WHERE ends_at < now() - interval '1 hour' RETURNING id, secret_id;

-- name: flows_ended
UPDATE oauth_flows f SET secret_id = NULL FROM oauth_flows old
WHERE f.id = old.id AND old.secret_id IS NOT NULL AND old.ends_at < now() RETURNING old.secret_id;

-- name: flows_open
-- Those that are used up too, until they are swept.
SELECT count(*) AS count FROM oauth_flows;

-- name: flow_asking
-- One at a time; whoever dies at it lets go by time.
UPDATE oauth_flows SET asking_until = now() + make_interval(secs => %(lease)s)
WHERE id = %(id)s AND used_at IS NULL AND (asking_until IS NULL OR asking_until < now())
RETURNING id;

-- name: flow_asked
UPDATE oauth_flows SET asking_until = NULL WHERE id = %(id)s;

-- name: consents_beside
-- By version: an integration whose present credential is a token may have a consent that runs still hold.
SELECT count(*) AS count FROM credential_versions v JOIN integrations i ON i.id = v.integration_id
WHERE i.provider = (SELECT provider FROM integrations WHERE id = %(id)s) AND v.consent
  AND v.state IN ('current', 'draining') AND NOT (v.integration_id = %(id)s AND v.version = %(version)s);
