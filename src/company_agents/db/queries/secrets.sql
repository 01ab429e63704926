-- name: secrets_writer
SELECT key_id, seals FROM secrets_writer();

-- name: secret_insert
INSERT INTO secrets (id, company_id, name, value, nonce, key_id)
VALUES (%(id)s, %(company_id)s, %(name)s, %(value)s, %(nonce)s, %(key_id)s);

-- name: secret_replace
UPDATE secrets SET value = %(value)s, nonce = %(nonce)s, key_id = %(key_id)s, updated_at = now() WHERE id = %(id)s;

-- name: secret_delete
DELETE FROM secrets WHERE id = %(id)s;

-- name: secret_by_name
SELECT id, company_id, name, value, nonce, key_id FROM secrets
WHERE company_id IS NOT DISTINCT FROM %(company_id)s AND name = %(name)s;

-- name: secret_list
SELECT id, name, created_at, updated_at, last_used_at FROM secrets
WHERE company_id IS NOT DISTINCT FROM %(company_id)s ORDER BY name;

-- name: secrets_touch
SELECT secrets_touch(%s, %s::uuid[], %s::timestamptz[]);

-- name: agent_token_lookup
SELECT * FROM agent_token_lookup(%s::uuid[], %s::uuid[]);

-- name: operator_token_lookup
SELECT * FROM operator_token_lookup(%s);
