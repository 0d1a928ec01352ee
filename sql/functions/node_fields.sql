-- The fields that nodes of this kind have: what each is, and whether it has to be there. No rows: there is no such kind.
create or replace function @extschema@.node_fields(op text)
returns table (field text, kind text, needed boolean)
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    with own (op, field, kind, needed) as (values
        ('sql', 'query', 'text', true),
        ('call', 'function', 'text', true), ('call', 'args', 'args', false),
        ('seq', 'steps', 'nodes', true), ('atomic', 'steps', 'nodes', true),
        ('parallel', 'branches', 'nodes', true), ('parallel', 'limit', 'int', false),
        ('race', 'branches', 'nodes', true),
        ('if', 'when', 'node', true), ('if', 'then', 'node', true), ('if', 'else', 'node', false),
        ('rows', 'of', 'text', true),
        ('loop', 'body', 'node', true), ('loop', 'while', 'node', false),
        ('for_each', 'query', 'text', true), ('for_each', 'in', 'ref', false), ('for_each', 'body', 'node', true),
        ('for_each', 'as', 'name', false), ('for_each', 'limit', 'int', false),
        ('break', 'value', 'json', false),
        ('sleep', 'seconds', 'seconds', true),
        ('wait_until', 'at', 'time', true),
        ('wait_for_schedule', 'cron', 'text', true), ('wait_for_schedule', 'tz', 'text', false),
        ('wait_signal', 'signal', 'text', true),
        ('http', 'url', 'text', true), ('http', 'method', 'text', false), ('http', 'headers', 'object', false),
        ('http', 'body', 'json', false), ('http', 'ok', 'json', false), ('http', 'max_bytes', 'int', false),
        ('http', 'at_most_once', 'boolean', false), ('http', 'query', 'json', false), ('http', 'queue', 'text', false),
        ('start_child', 'workflow', 'text', true), ('start_child', 'input', 'json', false),
        ('start_child', 'wait', 'boolean', false), ('start_child', 'parent_close', 'close', false),
        ('start_child', 'id', 'text', false), ('start_child', 'version', 'text', false), ('start_child', 'queue', 'text', false),
        ('python', 'step', 'text', true), ('python', 'args', 'args', false), ('python', 'kwargs', 'object', false),
        ('python', 'queue', 'text', false),
        ('external', 'queue', 'text', false), ('external', 'input', 'json', false),
        ('external', 'at_most_once', 'boolean', false),
        ('on_error', 'body', 'node', true), ('on_error', 'handler', 'node', true),
        ('compensate', 'body', 'node', true), ('compensate', 'undo', 'node', true),
        ('value', 'value', 'json', false))
    select o.field, o.kind, o.needed from own o where o.op = node_fields.op
    union all
    select c.field, c.kind, c.field = 'name' and node_fields.op = 'external'
      from (values ('name', 'text'), ('into', 'name'), ('retry', 'retry'), ('timeout', 'timeout'),
                   ('continue_on_error', 'boolean'), ('label', 'text')) as c (field, kind)
     where exists (select from own o where o.op = node_fields.op)
$$;
