-- Starts an instance of a graph, in the caller's transaction, and returns its id of eight hex digits.
--
-- Arguments: `fut`: a node, or the text of a statement. `label`: for people, and for df.list_instances. `database`: this one, or
-- null. `transaction_mode`: caller, or new: in a transaction of its own, over another connection, which the caller's rollback
-- does not undo (see docs/df.md).
-- The variables of the caller are taken as they are now, and so is its search_path. Its steps run as the caller.
-- Not security definer, and no path of its own: the path is the caller's, for the steps.
-- Raises: 22023 for what is no graph; PGD05 where it cannot run.
create or replace function df.start(
    fut text, label text default null, database text default null, transaction_mode text default 'caller')
returns text
language sql volatile
as $$
    select df._start(fut, label, database, transaction_mode, pg_catalog.current_setting('search_path'))
$$;
