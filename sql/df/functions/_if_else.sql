-- half !> else_branch. Raises: 22023 where the left side is no condition ?> then_branch.
create or replace function df._if_else(half text, else_branch text) returns text
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    partial jsonb;
begin
    if left(half, 1) = '{' then
        begin
            partial := half::jsonb;
        exception when others then
            partial := null;
        end;
    end if;
    if (partial ? '_partial_if') is not true then
        raise exception using errcode = '22023', message = 'the left side of !> must be a ?> expression',
            hint = 'Write condition ?> then !> else; in parentheses where other operators stand beside it.';
    end if;
    return df.if(partial ->> 'condition', partial ->> 'then_branch', else_branch);
end
$$;
