-- name: memory_insert
INSERT INTO memory (id, company_id, agent_id, title, content, tags, words)
VALUES (%(id)s, %(company_id)s, %(agent_id)s, %(title)s, %(content)s, %(tags)s,
        setweight(to_tsvector('english', %(title)s), 'A') || setweight(array_to_tsvector(%(tags)s::text[]), 'B')
        || to_tsvector('english', %(content)s))
RETURNING id, title, content, tags, created_at, updated_at;

-- name: memory_replace
UPDATE memory SET title = %(title)s, content = %(content)s, tags = %(tags)s, updated_at = now(),
    words = setweight(to_tsvector('english', %(title)s), 'A') || setweight(array_to_tsvector(%(tags)s::text[]), 'B')
            || to_tsvector('english', %(content)s)
WHERE id = %(id)s AND agent_id = %(agent_id)s RETURNING id, title, content, tags, created_at, updated_at;

-- name: memory_get
SELECT id, title, content, tags, created_at, updated_at FROM memory WHERE id = %(id)s AND agent_id = %(agent_id)s;

-- name: memory_search
-- Words that the dictionary drops ("the") would find nothing alone; a plain part of the text is found as well.
SELECT id, title, content, tags, created_at, updated_at
FROM memory, websearch_to_tsquery('english', %(query)s) AS wanted
WHERE agent_id = %(agent_id)s
  AND (%(query)s = '' OR words @@ wanted OR position(lower(%(query)s) IN lower(title || ' ' || content)) > 0
       OR lower(%(query)s) = ANY (tags))
ORDER BY ts_rank_cd(words, wanted) DESC, updated_at DESC, id LIMIT %(limit)s;

-- name: memory_page
SELECT id, title, content, tags, created_at, updated_at FROM memory
WHERE agent_id = %(agent_id)s
  AND (%(after_at)s::timestamptz IS NULL OR (created_at, id) < (%(after_at)s, %(after_id)s::uuid))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s;

-- name: memory_delete
DELETE FROM memory WHERE id = %(id)s AND agent_id = %(agent_id)s;

-- name: task_insert
INSERT INTO tasks (id, company_id, title, description, assignee, created_by)
VALUES (%(id)s, %(company_id)s, %(title)s, %(description)s, %(assignee)s, %(created_by)s);

-- name: task_get
SELECT id, title, description, status, assignee, created_by, created_at, updated_at FROM tasks WHERE id = %(id)s;

-- name: task_list
SELECT id, title, description, status, assignee, created_by, created_at, updated_at FROM tasks
WHERE (%(status)s::text IS NULL OR status = %(status)s) AND (%(assignee)s::uuid IS NULL OR assignee = %(assignee)s)
  AND (%(after_at)s::timestamptz IS NULL OR (created_at, id) > (%(after_at)s, %(after_id)s::uuid))
ORDER BY created_at, id LIMIT %(limit)s;

-- name: task_update
UPDATE tasks SET title = coalesce(%(title)s, title), description = coalesce(%(description)s, description),
    status = coalesce(%(status)s, status), updated_at = now(),
    assignee = CASE WHEN %(nobody)s THEN NULL ELSE coalesce(%(assignee)s, assignee) END
WHERE id = %(id)s;

-- name: comment_insert
INSERT INTO comments (id, company_id, task_id, author, text)
VALUES (%(id)s, %(company_id)s, %(task_id)s, %(author)s, %(text)s) RETURNING id, author, text, created_at;

-- name: comment_list
SELECT id, author, text, created_at FROM comments WHERE task_id = %(task_id)s ORDER BY created_at, id;
