update @extschema@.migrations set routines = '@digest@' where version = @version@;
