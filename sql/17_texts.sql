-- Texts: words in sentences for people.

-- A number and its noun, such as `1 message` or `2 messages`. `many`: the plural, where it does not end in s.
create or replace function treadle._counted(number numeric, one text, many text default null) returns text
language sql immutable parallel safe as $$
    select number || ' ' || case when number = 1 then one else coalesce(many, one || 's') end
$$;
