-- name: streams_check
SELECT moment, gone FROM streams_check(%s::uuid[], %s::int[], %s::uuid[], %s::uuid[], %s::bigint[], %s::uuid[], %s::int[],
                                       %s::timestamptz[], %s::bytea[]);

-- name: streams_say
SELECT streams_say(%s, %s, %s) AS known;

-- name: streams_waited_for
SELECT moment, waited FROM streams_waited_for(%s, %s);
