-- Of these questions of the caller's: the answers there are, which are handed out once, and those that are gone (the
-- server was restarted, or nobody has asked for their answers in a minute) and should be asked again.
-- `security definer`: whoever may execute it needs no right to the tables.
create or replace function @extschema@.answers(keys uuid[])
returns table (key uuid, instance_id uuid, gone boolean, answer text, error text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with theirs as (
        select u.key, q.key is null as gone, q.answered_at is not null as answered
          from unnest(keys) as u (key)
          left join @extschema@.queries q on q.key = u.key and q.asked_by = @extschema@.caller()
    ), taken as (
        delete from @extschema@.queries q
         using theirs t
         where q.key = t.key and t.answered
        returning q.key, q.instance_id, q.answer, q.error
    )
    select k.key, k.instance_id, false, k.answer::text, k.error::text from taken k
    union all
    select t.key, null, true, null, null from theirs t where t.gone;
end
$$;
