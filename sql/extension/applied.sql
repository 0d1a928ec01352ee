insert into @extschema@.migrations (version, library) values (@number@, '@package@');
