-- What pages that are open ask for every second: the newest tasks of each status, and the newest runs of an agent.

CREATE INDEX tasks_by_status ON tasks (company_id, status, updated_at DESC, id);
CREATE INDEX runs_by_agent ON runs (company_id, agent_id, created_at DESC, id DESC);
