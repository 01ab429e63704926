-- What a start may do to the states of the master key, where the key source and the database disagree.

-- `shared`: the database was copied, or went back, while this key was in use. Another copy may need it, so that it is
-- archived without an end, like those that were archived by then.
ALTER TABLE master_keys ADD COLUMN shared boolean NOT NULL DEFAULT false;

-- A staged key that the source does not have is dropped: nothing was ever sealed under it.
GRANT DELETE ON master_keys TO company_agents_instance;
