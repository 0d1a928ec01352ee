-- Its trigger makes the policies (sql/functions/apply_row_security.sql).
insert into @extschema@.row_security (prefix) values (@prefix@) on conflict (only_row) do update set prefix = excluded.prefix;
