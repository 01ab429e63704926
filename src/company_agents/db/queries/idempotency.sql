-- name: idempotency_reserve
-- One of many at once gets the row; a key that has expired is free.
INSERT INTO idempotency_keys (company_id, principal, key, request_hash)
VALUES (%(company_id)s, %(principal)s, %(key)s, %(request_hash)s)
ON CONFLICT (company_id, principal, key) DO UPDATE
    SET request_hash = excluded.request_hash, response = NULL, status = NULL, created_at = now()
    WHERE idempotency_keys.created_at < now() - make_interval(hours => %(hours)s)
RETURNING created_at;

-- name: idempotency_get
SELECT request_hash, response, status, extract(epoch FROM now() - created_at)::float8 AS age FROM idempotency_keys
WHERE principal = %(principal)s AND key = %(key)s;

-- name: idempotency_answer
-- A status without a response: whether something was created is not known. `reserved` is whose reservation it is.
UPDATE idempotency_keys SET response = %(response)s::jsonb, status = %(status)s
WHERE principal = %(principal)s AND key = %(key)s AND created_at = %(reserved)s AND response IS NULL;

-- name: idempotency_release
DELETE FROM idempotency_keys
WHERE principal = %(principal)s AND key = %(key)s AND created_at = %(reserved)s AND response IS NULL;

-- name: idempotency_sweep
DELETE FROM idempotency_keys WHERE created_at < now() - make_interval(hours => %(hours)s);
