-- Answers a question, once. Nothing of an instance changes by it, so no fence is asked for.
create or replace function @extschema@.answer_query(key uuid, answer jsonb, error jsonb) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update @extschema@.queries q
       set answer = answer_query.answer, error = answer_query.error, answered_at = now()
     where q.key = answer_query.key and q.answered_at is null;
    return found;
end
$$;
