-- What the schema df keeps beside the tables of its namespace. Every statement may run any number of times.

create table if not exists df.graphs (
    version   text primary key,
    graph     jsonb not null,
    made_at   timestamptz not null default now()
);
comment on table df.graphs is 'The graphs that df.start was given, each once; version is that of workflow df which it became.';

create table if not exists df.runs (
    instance_id   uuid primary key,
    created_at    timestamptz not null default now(),
    id            text not null unique check (id ~ '^[0-9a-f]{8}$'),
    version       text not null,
    submitted_by  text not null,
    label         text
);
comment on table df.runs is 'The instances that df.start started, under the ids it gave.';
create index if not exists runs_newest on df.runs (created_at desc, id);
create index if not exists runs_labelled on df.runs (label, created_at desc, id) where label is not null;
create index if not exists runs_version on df.runs (version);

create table if not exists df.vars (
    name   text not null,
    value  text,
    owner  regrole not null default quote_ident(current_user)::regrole,
    primary key (owner, name)
);
comment on table df.vars is 'What df.setvar set, for each role apart. df.start takes all that its caller has.';
alter table df.vars enable row level security;
drop policy if exists vars_of_their_owner on df.vars;
create policy vars_of_their_owner on df.vars
    using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
