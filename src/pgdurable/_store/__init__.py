"""The rooms that know SQL names: migrations, named queries, leases. Knows rows, not workflows."""
