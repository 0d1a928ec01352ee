-- Takes from the roles every right in the schema.
revoke all on all tables in schema @extschema@ from @reader@, @client@, @worker@, @admin@;
revoke all on all routines in schema @extschema@ from @reader@, @client@, @worker@, @admin@;
revoke all on schema @extschema@ from @reader@, @client@, @worker@, @admin@;
