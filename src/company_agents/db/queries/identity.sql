-- name: company_insert
INSERT INTO companies (id, name) VALUES (%(id)s, %(name)s) RETURNING id, name, created_at;

-- name: company_get
SELECT id, name, created_at FROM companies WHERE id = %(id)s;

-- name: company_list
SELECT c.id, c.name, c.created_at FROM companies c
WHERE (%(operator_id)s::uuid IS NULL
       OR EXISTS (SELECT FROM operators o WHERE o.id = %(operator_id)s AND o.instance_owner)
       OR EXISTS (SELECT FROM memberships m WHERE m.operator_id = %(operator_id)s AND m.company_id = c.id))
  AND (%(after_at)s::timestamptz IS NULL OR (c.created_at, c.id) > (%(after_at)s, %(after_id)s::uuid))
ORDER BY c.created_at, c.id LIMIT %(limit)s;

-- name: member_set
INSERT INTO memberships (operator_id, company_id, role) VALUES (%(operator_id)s, %(company_id)s, %(role)s)
ON CONFLICT (operator_id, company_id) DO UPDATE SET role = excluded.role;

-- name: member_list
SELECT o.id, o.name, m.role, o.instance_owner, m.created_at, o.disabled_at
FROM memberships m JOIN operators o ON o.id = m.operator_id
WHERE m.company_id = %(company_id)s ORDER BY m.created_at, o.id;

-- name: members_lock
-- In one order, so that two who remove one another come one after the other, and the second sees who is left.
SELECT operator_id FROM memberships WHERE company_id = %(company_id)s ORDER BY operator_id FOR UPDATE;

-- name: member_remove
DELETE FROM memberships WHERE company_id = %(company_id)s AND operator_id = %(operator_id)s;

-- name: agent_insert
INSERT INTO agents (id, company_id, name) VALUES (%(id)s, %(company_id)s, %(name)s);

-- name: agent_get
SELECT a.id, a.company_id, a.name, a.state, a.adapter, a.adapter_config, a.unsandboxed, a.created_at, a.updated_at,
       s.updated_at AS token_created_at, s.last_used_at AS token_last_used_at
FROM agents a LEFT JOIN secrets s ON s.company_id = a.company_id AND s.name = 'agent_token/' || %(id)s::uuid
WHERE a.id = %(id)s;

-- name: agent_list
-- The names of their tokens as one value: under row-level security an index is not used for an expression over a column.
WITH listed AS MATERIALIZED (
    SELECT * FROM agents a
    WHERE %(after_at)s::timestamptz IS NULL OR (a.created_at, a.id) > (%(after_at)s, %(after_id)s::uuid)
    ORDER BY a.created_at, a.id LIMIT %(limit)s
), tokens AS MATERIALIZED (
    SELECT * FROM secrets s WHERE s.name = ANY (ARRAY(SELECT 'agent_token/' || l.id FROM listed l))
)
SELECT a.id, a.company_id, a.name, a.state, a.adapter, a.unsandboxed, a.created_at, a.updated_at,
       s.updated_at AS token_created_at, s.last_used_at AS token_last_used_at
FROM listed a LEFT JOIN tokens s ON s.company_id = a.company_id AND s.name = 'agent_token/' || a.id
ORDER BY a.created_at, a.id;

-- name: agent_move
UPDATE agents SET state = %(state)s, updated_at = now() WHERE id = %(id)s AND state = ANY (%(sources)s);

-- name: operator_role_lookup
SELECT role FROM operator_role_lookup(%s, %s);
