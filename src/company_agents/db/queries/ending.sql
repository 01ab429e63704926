-- name: consents_held
-- The versions of an integration that still have something sealed, the current one first.
SELECT version, secret_id, consent, written_by FROM credential_versions
WHERE integration_id = %(id)s AND secret_id IS NOT NULL ORDER BY version DESC;

-- name: consents_elsewhere
-- By version, as consents_beside: behind a pasted token a consent may drain that runs still hold.
SELECT count(*) AS count FROM credential_versions v JOIN integrations i ON i.id = v.integration_id
WHERE i.provider = %(provider)s AND v.consent AND v.state IN ('current', 'draining') AND i.id <> %(id)s;
