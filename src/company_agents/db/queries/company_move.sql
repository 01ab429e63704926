-- name: company_move_settings
-- One moment, for as long as it takes; and each value as the same text everywhere.
SELECT set_config('statement_timeout', '0', true), set_config('datestyle', 'ISO', true),
       set_config('timezone', 'UTC', true), set_config('bytea_output', 'hex', true),
       set_config('intervalstyle', 'postgres', true), set_config('extra_float_digits', '1', true);

-- name: company_find
SELECT id, name FROM companies WHERE id = %(id)s::uuid OR name = %(name)s
ORDER BY id = %(id)s::uuid DESC NULLS LAST LIMIT 1;

-- name: company_move_instance
-- Whether an id is that of this instance, or of one that it was before.
SELECT id FROM instance WHERE id = %(id)s UNION ALL SELECT id FROM former_instances WHERE id = %(id)s LIMIT 1;

-- name: company_move_references
-- For each reference whose key has no company in it, a statement that finds a row which refers to what cannot be seen here.
SELECT c.relname AS name,
       format('SELECT FROM public.%%I r WHERE %%s AND NOT EXISTS (SELECT FROM %%s s WHERE %%s) LIMIT 1', c.relname,
              string_agg(format('r.%%I IS NOT NULL', a.attname), ' AND '), k.confrelid::regclass,
              string_agg(format('s.%%I = r.%%I', b.attname, a.attname), ' AND ')) AS statement
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS u (own, other)
JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.own
JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.other
WHERE k.contype = 'f' AND k.connamespace = 'public'::regnamespace AND c.relname = ANY (%(tables)s)
GROUP BY k.oid, c.relname, k.confrelid HAVING NOT bool_or(a.attname = 'company_id')
ORDER BY c.relname;

-- name: company_move_tables
-- What the catalog says of these tables. `own`: the table numbers its rows itself, and each instance does so for itself.
SELECT c.relname AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns,
       array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum) AS types,
       array_agg(a.attidentity <> '' ORDER BY a.attnum) AS own
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname = ANY (%(tables)s)
  AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
GROUP BY c.relname;

-- name: company_move_out
-- Of one company: the scope sees to it, and so does the statement.
SELECT format('COPY (SELECT %%s FROM public.%%I WHERE %%I = %%L%%s) TO STDOUT',
              (SELECT string_agg(quote_ident(c), ', ' ORDER BY n)
               FROM unnest(%(columns)s::text[]) WITH ORDINALITY u (c, n)),
              %(name)s::text, %(owner)s::text, (%(company)s::uuid)::text,
              CASE WHEN %(sorted)s <> '' THEN ' ORDER BY ' || quote_ident(%(sorted)s) ELSE '' END) AS statement;

-- name: company_move_in
-- Rows as one array of texts for each column, which the types of the columns make values of.
SELECT format('INSERT INTO public.%%I (%%s) SELECT %%s FROM unnest(%%s) AS u (%%s)', %(name)s::text,
              string_agg(quote_ident(c), ', ' ORDER BY n),
              string_agg(format('u.%%I::%%s', c, t), ', ' ORDER BY n),
              string_agg('%%s::text[]', ', ' ORDER BY n),
              string_agg(quote_ident(c), ', ' ORDER BY n)) AS statement
FROM unnest(%(columns)s::text[], %(types)s::text[]) WITH ORDINALITY u (c, t, n);

-- name: company_move_moment
SELECT clock_timestamp()::text AS moment;

-- name: company_secrets
-- Without those of what does not travel: their names begin with its kind.
SELECT s.id, s.name, s.value, s.nonce, s.key_id, s.created_at::text AS created_at, s.updated_at::text AS updated_at,
       s.last_used_at::text AS last_used_at
FROM secrets s WHERE s.company_id = %(company_id)s AND split_part(s.name, '/', 1) <> ALL (%(but)s);

-- name: company_secret_keys
SELECT DISTINCT key_id FROM secrets WHERE company_id = %(company_id)s;

-- name: company_move_seals
-- Seals beside the one that was counted with the lock.
SELECT count(nextval('master_key_seals')) AS counted FROM generate_series(1, %(more)s);

-- name: company_runs_begin
-- A run that has ended was under way before: it goes through its states, as every run does.
UPDATE runs SET state = 'running', fence = fence + 1 WHERE id = ANY (%(ids)s::uuid[]);

-- name: company_runs_end
UPDATE runs r SET state = u.state, started_at = u.started_at, lease_until = u.lease_until, ended_at = u.ended_at
FROM unnest(%(ids)s::uuid[], %(states)s::text[], %(started)s::timestamptz[], %(leases)s::timestamptz[],
            %(ended)s::timestamptz[]) AS u (id, state, started_at, lease_until, ended_at)
WHERE r.id = u.id;

-- name: company_head
SELECT seq, mac, audit_key FROM audit_heads WHERE chain = %(chain)s;

-- name: company_head_insert
INSERT INTO audit_heads (chain, seq, mac, audit_key) VALUES (%(chain)s, %(seq)s, %(mac)s, %(audit_key)s);

-- name: company_last_event_insert
INSERT INTO audit_events (chain, seq, record, audit_key, mac)
VALUES (%(chain)s, %(seq)s, %(record)s, %(audit_key)s, %(mac)s);
