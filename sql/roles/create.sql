-- Group roles: nobody logs in as one of them. Names are of the whole cluster; see docs/operations.md.
create role @reader@ nologin;
create role @client@ nologin;
create role @worker@ nologin;
create role @admin@ nologin;
