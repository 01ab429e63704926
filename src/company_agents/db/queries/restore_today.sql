-- name: today_lineage
-- Whether a backup is of this instance, under its present name or one before. One whose key source was taken over is among
-- the former ones too, and its chain is not here.
SELECT EXISTS (SELECT FROM instance WHERE id = %(id)s) OR EXISTS (
    SELECT FROM former_instances f JOIN audit_heads h ON h.chain = f.id WHERE f.id = %(id)s) AS found;

-- name: today_former
INSERT INTO former_instances SELECT * FROM today_former_instances ON CONFLICT (id) DO NOTHING;

-- name: today_former_self
-- Today's own name: it may be another than that of the backup.
INSERT INTO former_instances (id, backup_id, taken_at)
SELECT id, %(backup)s, %(taken_at)s FROM today_instance ON CONFLICT (id) DO UPDATE SET recorded = false;

-- name: today_keys_away
DELETE FROM master_keys;

-- name: today_keys
INSERT INTO master_keys SELECT * FROM today_master_keys;

-- name: today_dying_keys
-- Whoever finishes their destruction would take rows along that have come back.
SELECT k.key_id FROM master_keys k WHERE k.state = 'destroying' AND EXISTS (SELECT FROM secrets s WHERE s.key_id = k.key_id);

-- name: today_fence
UPDATE key_fence f SET number = greatest(f.number, t.number) + 1, nonce = gen_random_uuid() FROM today_key_fence t;

-- name: today_backups_away
DELETE FROM backups;

-- name: today_backups
INSERT INTO backups SELECT * FROM today_backups;

-- name: today_server
UPDATE instance i SET server = t.server FROM today_instance t;

-- name: today_chains_away
-- What was recorded stays recorded: a chain that there is today goes on from where it is.
DELETE FROM audit_events e USING today_audit_heads t WHERE t.chain = e.chain;

-- name: today_heads_away
DELETE FROM audit_heads h USING today_audit_heads t WHERE t.chain = h.chain;

-- name: today_chains
INSERT INTO audit_events SELECT * FROM today_audit_events;

-- name: today_heads
INSERT INTO audit_heads SELECT * FROM today_audit_heads;

-- name: today_audit_keys_lost
UPDATE instance i SET audit_keys_lost = greatest(i.audit_keys_lost, t.audit_keys_lost) FROM today_instance t;

-- name: today_cursors
UPDATE audit_sink_cursors c SET seq = t.seq, mac = t.mac FROM today_audit_sink_cursors t
WHERE t.sink = c.sink AND t.chain = c.chain;

-- name: today_instance_secrets_away
-- Those of the chains, of operators and of their tokens: who has another password since, or no token any more, keeps that.
DELETE FROM secrets s WHERE s.company_id IS NULL
  AND (s.name LIKE 'audit_key/%%' OR s.name LIKE 'audit_head_key/%%' OR s.name LIKE 'operator_token/%%'
       OR s.name IN (SELECT t.name FROM today_secrets t WHERE t.company_id IS NULL));

-- name: today_instance_secrets
INSERT INTO secrets SELECT t.* FROM today_secrets t WHERE t.company_id IS NULL
  AND (t.name LIKE 'audit_key/%%' OR t.name LIKE 'audit_head_key/%%'
       OR EXISTS (SELECT FROM operators o WHERE t.name = 'operator_totp/' || o.id)
       OR EXISTS (SELECT FROM operator_tokens k WHERE t.name = 'operator_token/' || k.id));

-- name: today_operators
UPDATE operators o SET password_hash = t.password_hash, totp_step = greatest(o.totp_step, t.totp_step),
       instance_owner = o.instance_owner AND t.instance_owner, disabled_at = coalesce(t.disabled_at, o.disabled_at)
FROM today_operators t WHERE t.id = o.id;

-- name: today_operator_tokens
-- One that is not there today was taken away.
UPDATE operator_tokens k SET revoked_at = coalesce(k.revoked_at, (SELECT t.revoked_at FROM today_operator_tokens t
                                                               WHERE t.id = k.id), now())
WHERE NOT EXISTS (SELECT FROM today_operator_tokens t WHERE t.id = k.id AND t.revoked_at IS NULL);

-- name: today_memberships_away
DELETE FROM memberships m
WHERE EXISTS (SELECT FROM today_operators o WHERE o.id = m.operator_id)
  AND EXISTS (SELECT FROM today_companies c WHERE c.id = m.company_id)
  AND NOT EXISTS (SELECT FROM today_memberships t WHERE t.operator_id = m.operator_id AND t.company_id = m.company_id);

-- name: today_memberships
UPDATE memberships m SET role = t.role FROM today_memberships t
WHERE t.operator_id = m.operator_id AND t.company_id = m.company_id
  AND array_position(ARRAY['viewer', 'operator', 'owner'], t.role) < array_position(ARRAY['viewer', 'operator', 'owner'], m.role);

-- name: today_agents
-- How an agent is executed, and what that may reach, is as somebody has said last.
UPDATE agents a SET state = CASE WHEN 'retired' IN (a.state, t.state) THEN 'retired'
                                 WHEN 'paused' IN (a.state, t.state) THEN 'paused' ELSE 'active' END,
       adapter = t.adapter, adapter_config = t.adapter_config, unsandboxed = t.unsandboxed
FROM today_agents t WHERE t.id = a.id;

-- name: today_agent_tokens_away
DELETE FROM secrets s USING today_agents t WHERE s.company_id = t.company_id AND s.name = 'agent_token/' || t.id;

-- name: today_agent_tokens
INSERT INTO secrets SELECT s.* FROM today_secrets s
JOIN agents a ON s.name = 'agent_token/' || a.id AND s.company_id = a.company_id;

-- name: today_adapter_secrets_away
DELETE FROM secrets s USING today_agents t WHERE s.company_id = t.company_id AND s.name = 'agent_adapter/' || t.id;

-- name: today_adapter_secrets
INSERT INTO secrets SELECT s.* FROM today_secrets s
JOIN agents a ON s.name = 'agent_adapter/' || a.id AND s.company_id = a.company_id;

-- name: today_schedules
-- One that was paused or deleted since starts nothing.
UPDATE schedules s SET enabled = false, next_at = NULL
WHERE EXISTS (SELECT FROM today_companies c WHERE c.id = s.company_id)
  AND NOT EXISTS (SELECT FROM today_schedules t WHERE t.id = s.id AND t.enabled);

-- name: today_versions_away
-- The credential of today is that of an integration that is there today: an older one was replaced for a reason.
DELETE FROM credential_versions v USING today_integrations t WHERE t.id = v.integration_id;

-- name: today_version_secrets_away
DELETE FROM secrets s USING today_integrations t
WHERE s.company_id = t.company_id AND s.name LIKE 'integration/%%' AND split_part(s.name, '/', 2) = t.id::text;

-- name: today_version_secrets
INSERT INTO secrets SELECT s.* FROM today_secrets s JOIN integrations i ON i.id::text = split_part(s.name, '/', 2)
WHERE s.company_id = i.company_id AND s.name LIKE 'integration/%%';

-- name: today_versions
INSERT INTO credential_versions SELECT v.* FROM today_credential_versions v
WHERE EXISTS (SELECT FROM integrations i WHERE i.id = v.integration_id);

-- name: today_integrations
UPDATE integrations i SET destination = t.destination, status = t.status, status_reason = t.status_reason,
       status_hint = t.status_hint, status_since = t.status_since, kind = t.kind, account = t.account, scopes = t.scopes,
       rotate_every = t.rotate_every, allow_all = i.allow_all AND t.allow_all,
       allows = t.allows, asks = t.asks, per_minute = t.per_minute
FROM today_integrations t WHERE t.id = i.id;

-- name: today_gone_integrations
-- One that was deleted since comes back, and nobody may use it before somebody says so. No probe says otherwise for a day.
UPDATE integrations i SET allow_all = false, probe_due_at = now() + interval '1 day', status = 'needs attention',
       status_reason = 'it was deleted after the backup was taken',
       status_hint = 'allow agents again, or delete it again', status_since = now()
WHERE EXISTS (SELECT FROM today_companies c WHERE c.id = i.company_id)
  AND NOT EXISTS (SELECT FROM today_integrations t WHERE t.id = i.id);

-- name: today_allowed_away
DELETE FROM integration_agents p
WHERE NOT EXISTS (SELECT FROM today_integration_agents t WHERE t.integration_id = p.integration_id AND t.agent_id = p.agent_id)
  AND EXISTS (SELECT FROM today_companies c WHERE c.id = p.company_id)
  AND EXISTS (SELECT FROM today_agents a WHERE a.id = p.agent_id);

-- name: today_allowed
UPDATE integration_agents p SET allows = t.allows, asks = t.asks, per_minute = t.per_minute
FROM today_integration_agents t WHERE t.integration_id = p.integration_id AND t.agent_id = p.agent_id;

-- name: today_clients_away
DELETE FROM oauth_clients c USING today_companies t WHERE t.id = c.company_id;

-- name: today_client_secrets_away
DELETE FROM secrets s USING today_companies t WHERE t.id = s.company_id AND s.name LIKE 'oauth_client/%%';

-- name: today_client_secrets
INSERT INTO secrets SELECT s.* FROM today_secrets s WHERE s.name LIKE 'oauth_client/%%'
  AND EXISTS (SELECT FROM companies c WHERE c.id = s.company_id);

-- name: today_clients
INSERT INTO oauth_clients SELECT t.* FROM today_oauth_clients t WHERE EXISTS (SELECT FROM companies c WHERE c.id = t.company_id);

-- name: today_webhooks_away
-- One that was deleted since sends nothing again.
DELETE FROM webhooks w
WHERE EXISTS (SELECT FROM today_companies c WHERE c.id = w.company_id)
  AND NOT EXISTS (SELECT FROM today_webhooks t WHERE t.id = w.id);

-- name: today_webhook_secrets_away
DELETE FROM secrets s WHERE s.name LIKE 'webhook/%%' AND NOT EXISTS (SELECT FROM webhooks w WHERE w.secret_id = s.id);

-- name: today_webhook_secrets
UPDATE secrets s SET value = t.value, nonce = t.nonce, key_id = t.key_id, updated_at = t.updated_at
FROM today_secrets t WHERE t.id = s.id AND s.name LIKE 'webhook/%%';

-- name: today_webhooks
UPDATE webhooks w SET url = t.url, status = t.status, status_reason = t.status_reason, status_since = t.status_since,
       seq = t.seq, previous_until = t.previous_until
FROM today_webhooks t WHERE t.id = w.id;

-- name: today_limits_away
-- Limits that were lowered since stay, and what was spent was spent: a restore opens no budget again.
DELETE FROM limits x USING today_companies t WHERE t.id = x.company_id;

-- name: today_limits
INSERT INTO limits SELECT t.* FROM today_limits t
WHERE EXISTS (SELECT FROM companies c WHERE c.id = t.company_id)
  AND (t.agent_id IS NULL OR EXISTS (SELECT FROM agents a WHERE a.id = t.agent_id));

-- name: today_costs_away
DELETE FROM cost_entries x USING today_companies t WHERE t.id = x.company_id;

-- name: today_costs
INSERT INTO cost_entries SELECT t.* FROM today_cost_entries t
WHERE EXISTS (SELECT FROM companies c WHERE c.id = t.company_id)
  AND EXISTS (SELECT FROM agents a WHERE a.id = t.agent_id);

-- name: today_spending_away
DELETE FROM spending x USING today_companies t WHERE t.id = x.company_id;

-- name: today_spending
INSERT INTO spending SELECT t.* FROM today_spending t
WHERE EXISTS (SELECT FROM companies c WHERE c.id = t.company_id)
  AND EXISTS (SELECT FROM agents a WHERE a.id = t.agent_id);

-- name: today_months_away
DELETE FROM spending_months x USING today_companies t WHERE t.id = x.company_id;

-- name: today_months
INSERT INTO spending_months SELECT t.* FROM today_spending_months t
WHERE EXISTS (SELECT FROM companies c WHERE c.id = t.company_id)
  AND (t.agent_id IS NULL OR EXISTS (SELECT FROM agents a WHERE a.id = t.agent_id));
