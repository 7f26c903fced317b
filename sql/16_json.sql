-- JSON that clients and agents can read. PostgreSQL itself accepts numbers of 131,000 digits, and any depth.

-- Why the value is refused, as the end of a sentence; null: it is not.
--
-- The size tells cheaply that a value is not too deep: each level takes 8 bytes.
create or replace function treadle._json_problem(value jsonb) returns text
language sql stable parallel safe as $$
    select case
        when jsonb_typeof(value) in ('string', 'boolean', 'null') then null
        when pg_column_size(value) > 800
            and jsonb_path_exists(value, 'strict $.**{100} ? (@.type() == "array" || @.type() == "object")')
            then 'must not be nested more than 100 levels deep.'
        when jsonb_path_exists(
            value,
            'strict $.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))')
            then 'must not hold a number beyond 1.8e308.'
    end
$$;

-- Why a filter takes too long to be compared, as the end of a sentence; null: it does not. Each value of its arrays is
-- compared with each value of an array that it is looked for in, which can have half a million.
create or replace function treadle._filter_problem(filter jsonb) returns text
language sql immutable parallel safe as $$
    select case
        when octet_length(filter::text) > 10000 then 'must have at most 10000 bytes.'
        when (select count(*) > 20 from jsonb_path_query(filter, 'strict $.** ? (@.type() == "array")[*]'))
            then 'must have at most 20 values in its arrays together.'
    end
$$;
