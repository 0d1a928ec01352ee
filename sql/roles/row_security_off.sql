-- Its trigger takes the policies away (sql/functions/apply_row_security.sql).
delete from @extschema@.row_security;
