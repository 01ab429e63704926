-- Backups: what is known of each, whose instance this was before it was restored, and what a restore could not bring back.

-- `place` is the folder or the store that it lies in. Of one that did not come to be, `problem` says why.
ALTER TABLE backups DROP CONSTRAINT backups_state_check;
ALTER TABLE backups
    ADD CONSTRAINT backups_state_check CHECK (state IN ('running', 'whole', 'failed', 'gone')),
    ADD COLUMN place text NOT NULL DEFAULT '',
    ADD COLUMN made_by text NOT NULL DEFAULT '',
    -- By the schedule, which also takes it away; else somebody asked for it.
    ADD COLUMN scheduled boolean NOT NULL DEFAULT false,
    ADD COLUMN with_ring boolean NOT NULL DEFAULT false,
    ADD COLUMN size bigint,
    ADD COLUMN rows bigint,
    ADD COLUMN finished_at timestamptz,
    ADD COLUMN problem text NOT NULL DEFAULT '',
    -- When it was last looked at, and what was found: empty is good.
    ADD COLUMN verified_at timestamptz,
    ADD COLUMN verify_problem text NOT NULL DEFAULT '',
    -- When it was last restored for a trial, and what was found.
    ADD COLUMN drilled_at timestamptz,
    ADD COLUMN drill_problem text NOT NULL DEFAULT '',
    -- Since when it is not where it was made.
    ADD COLUMN missing_at timestamptz;
CREATE INDEX backups_by_time ON backups (created_at, id);

-- The ids that this instance had before it was restored, each with the backup that it came back from. Their chains stay, for
-- the instance role to read; nothing is appended to them. `takes_source`: a key source that is still in that name is this instance's.
CREATE TABLE former_instances (
    id uuid PRIMARY KEY,
    backup_id uuid NOT NULL,
    taken_at timestamptz NOT NULL,
    restored_at timestamptz NOT NULL DEFAULT now(),
    takes_source boolean NOT NULL DEFAULT false,
    -- Nothing that was sealed came back, so that the first key is still to be made.
    without_secrets boolean NOT NULL DEFAULT false,
    -- Whether the audit log has it.
    recorded boolean NOT NULL DEFAULT false
);
ALTER TABLE former_instances ENABLE ROW LEVEL SECURITY;
ALTER TABLE former_instances FORCE ROW LEVEL SECURITY;
CREATE POLICY of_scope ON former_instances USING ((SELECT scope_instance()));
CREATE POLICY of_instance ON former_instances TO company_agents_instance USING (true);
GRANT SELECT ON former_instances TO company_agents_serve;
GRANT SELECT, INSERT, UPDATE, DELETE ON former_instances TO company_agents_instance;

-- Audit keys up to this number did not come back with a restore: what they linked cannot be proved any more.
ALTER TABLE instance ADD COLUMN audit_keys_lost int NOT NULL DEFAULT 0;

-- A backup says of which step of the schema it is.
GRANT SELECT ON schema_migrations TO company_agents_instance;

-- Backups whose maker's session is gone were never finished. Each is held by a lock of its maker's session.
CREATE FUNCTION backups_let_go() RETURNS SETOF uuid LANGUAGE sql AS $$
    UPDATE backups SET state = 'failed', problem = 'its maker was killed', finished_at = now()
    WHERE state = 'running' AND pg_try_advisory_xact_lock(7301005, hashtext(id::text))
    RETURNING id $$;

-- A version whose secret a restore left out: nothing opens, and the next one takes its place.
ALTER TABLE credential_versions DROP CONSTRAINT credential_versions_check;
ALTER TABLE credential_versions
    ADD COLUMN secret_lost boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT credential_versions_check CHECK (state = 'retired' OR secret_id IS NOT NULL OR secret_lost);

-- Its moment had passed when the instance was restored: it is not made up for.
ALTER TABLE schedules ADD COLUMN missed boolean NOT NULL DEFAULT false;

-- A sign of life also says which instance this is: one that was restored meanwhile is another, under the same address.
DROP FUNCTION replica_beat(uuid, text, int, text, text[], text);
CREATE FUNCTION replica_beat(replica uuid, at_host text, at_process int, of_version text, holds text[], says text)
    RETURNS TABLE (sealed_at timestamptz, wanted text[], instance uuid) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('company_agents.instance', 'on', true);
    INSERT INTO replicas AS r (id, host, process, version, key_ids, problem)
    VALUES (replica, at_host, at_process, of_version, holds, says)
    ON CONFLICT (id) DO UPDATE SET key_ids = holds, problem = says, seen_at = now();
    RETURN QUERY
        SELECT i.sealed_at, array(SELECT k.key_id FROM master_keys k
                                  WHERE k.state IN ('staged', 'active', 'retiring', 'archived')), i.id
        FROM instance i;
END $$;
