-- name: agent_adapter_set
UPDATE agents SET adapter = %(adapter)s, adapter_config = %(config)s::jsonb, unsandboxed = %(unsandboxed)s, updated_at = now()
WHERE id = %(id)s;

-- name: integration_known
SELECT id FROM integrations WHERE id::text = lower(%(named)s) OR name = %(named)s;
