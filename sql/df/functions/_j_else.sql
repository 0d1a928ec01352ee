-- a !> b of definitions: a is an if, b is what else. Raises: 22023 where it is none.
create or replace function df._j_else(a jsonb, b jsonb) returns jsonb
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if a ->> 'op' is distinct from 'if' or a ? 'else' then
        raise exception using errcode = '22023', message = 'the left side of !> must be a ?> expression',
            hint = 'Write condition ?> then !> else; in parentheses where other operators stand beside it.';
    end if;
    return a || jsonb_build_object('else', b);
end
$$;
