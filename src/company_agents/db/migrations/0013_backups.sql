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
    ADD COLUMN drill_problem text NOT NULL DEFAULT '';
CREATE INDEX backups_by_time ON backups (created_at, id);

-- The ids that this instance had before it was restored, each with the backup that it came back from. Their chains stay, and
-- nothing is appended to them. `takes_source`: a key source that is still in that name is this instance's.
CREATE TABLE former_instances (
    id uuid PRIMARY KEY,
    backup_id uuid NOT NULL,
    taken_at timestamptz NOT NULL,
    restored_at timestamptz NOT NULL DEFAULT now(),
    takes_source boolean NOT NULL DEFAULT false
);
ALTER TABLE former_instances ENABLE ROW LEVEL SECURITY;
ALTER TABLE former_instances FORCE ROW LEVEL SECURITY;
CREATE POLICY of_scope ON former_instances USING ((SELECT scope_instance()));
CREATE POLICY of_instance ON former_instances TO company_agents_instance USING (true);
GRANT SELECT ON former_instances TO company_agents_serve;
GRANT SELECT, INSERT, UPDATE, DELETE ON former_instances TO company_agents_instance;

-- Audit keys up to this number did not come back with a restore: what they linked cannot be proved any more.
ALTER TABLE instance ADD COLUMN audit_keys_lost int NOT NULL DEFAULT 0;

-- A backup that is being made is held by its maker's session; one that nobody holds was killed.
CREATE FUNCTION backup_is_held(backup uuid) RETURNS boolean LANGUAGE sql AS $$
    SELECT NOT pg_try_advisory_xact_lock(7301005, hashtext(backup::text)) $$;
