-- Settings are PostgreSQL's: postgresql.conf, alter database, alter role, set. What holds for one namespace alone is a row
-- of kept_settings; `settings` is the view that shows them all. No row: the default. So an extension's dump, which brings
-- its rows, meets none.

create table @extschema@.kept_settings (
    name    text primary key,
    value   text not null,
    set_at  timestamptz not null default now(),
    set_by  text not null default current_user
);
comment on table @extschema@.kept_settings is 'What was set for this namespace alone, by an update of the view settings. It goes before what is set elsewhere.';

insert into @extschema@.kept_settings (name, value)
select v.name, v.value
  from @extschema@.settings s
 cross join lateral (values
    ('partition_width', case when s.partition_width <> '7 days' then s.partition_width::text end),
    ('partition_ahead', case when s.partition_ahead <> '28 days' then s.partition_ahead::text end),
    ('retention', case when s.retention is null then 'forever' when s.retention <> '30 days' then s.retention::text end),
    ('history_grace', case when s.history_grace <> '7 days' then s.history_grace::text end),
    ('payload_aside', case when s.payload_aside <> 32768 then s.payload_aside::text end)) as v (name, value)
 where v.value is not null;

drop table @extschema@.settings;

-- The view and its trigger stay; their bodies are in sql/functions and sql/views.
create or replace function @extschema@.settings_here()
returns table (name text, value text, source text, default_value text, meaning text, problem text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select null, null, null, null, null, null where false
$$;

create or replace view @extschema@.settings as
select s.name, s.value, s.source, s.default_value, s.meaning, s.problem
  from @extschema@.settings_here() s;

create or replace function @extschema@.change_setting() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return null;
end
$$;

create trigger change_setting instead of update on @extschema@.settings
    for each row execute function @extschema@.change_setting();
