-- PUBLIC, every role of the cluster that is, may do nothing here. By default it might execute every function.
revoke all on schema @extschema@ from public;
revoke all on all tables in schema @extschema@ from public;
revoke all on all routines in schema @extschema@ from public;
