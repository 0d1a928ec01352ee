-- df.start in a transaction of its own: over a connection of dblink, as the caller, which commits before this returns.
--
-- It connects as pgdurable.df_connection says, else over the server's own socket. Raises: 0A000 without dblink; 08001 where
-- it cannot connect.
create or replace function df._start_apart(fut text, label text, database text) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place text := (select quote_ident(n.nspname) from pg_extension e join pg_namespace n on n.oid = e.extnamespace
                    where e.extname = 'dblink');
    target text := format('%s user=%s dbname=%s',
        coalesce(nullif(current_setting('pgdurable.df_connection', true), ''), format('host=%s port=%s',
            df._conninfo(coalesce(nullif(split_part(current_setting('unix_socket_directories'), ',', 1), ''), 'localhost')),
            current_setting('port'))),
        df._conninfo(@extschema@.caller()), df._conninfo(current_database()));
    chosen text;
begin
    if df._in_workflow() then
        raise exception using errcode = '55000',
            message = 'df.start() with transaction_mode new cannot be called inside a workflow',
            hint = 'A step of its own can start it: it commits before the next one begins.';
    elsif place is null then
        raise exception using errcode = '0A000', message = 'transaction_mode new needs the extension dblink',
            hint = 'create extension dblink; and where the server''s own socket asks for a password, set pgdurable.df_connection.';
    end if;
    begin
        execute format('select r.id from %s.dblink($1, $2) as r (id text)', place) into chosen
          using target, format('set lock_timeout = ''30s''; set statement_timeout = ''30s''; select df.start(%L, %L, %L)',
                               fut, label, database);
    exception when sqlclient_unable_to_establish_sqlconnection or connection_exception then
        raise exception using errcode = '08001', message = format('transaction_mode new could not connect: %s', sqlerrm),
            hint = 'alter database ... set pgdurable.df_connection = ''host=... port=... password=...'' says how.';
    end;
    return chosen;
end
$$;
