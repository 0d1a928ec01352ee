"""What people ask the views, at scale: 200,000 instances and a million rows of history lie behind, and are not read."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import pytest

from pgdurable._store.migrations import migrate

from .test_plans import World, pages, wrong

# Instances of a workflow in SQL: some that ended, some that wait for a signal, some with a task.
IN_SQL = """
select @.define('s', '[{"op": "sql", "query": "select 1", "name": "first"},
                       {"op": "wait_signal", "signal": "go", "name": "wait"},
                       {"op": "sql", "query": "select 2", "name": "last"}]');
create temp table made_sql as
    select n, overlay(@.id_at(now() - n * interval '1 s')::text
                      placing right(md5(n::text)::uuid::text, 22) from 15)::uuid as id
      from generate_series(1, 4000) n;
insert into @.instances (id, created_at, started_at, finished_at, wake_at, workflow, version, status, input, output)
select m.id, @.id_time(m.id), @.id_time(m.id), case when m.n % 20 > 0 then now() end, null, 's',
       '1', case when m.n % 20 = 0 then 'waiting' else 'completed' end, '{}', '1' from made_sql m;
insert into @.history (instance_id, recorded_at, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload)
select m.id, @.id_time(m.id), e, e - 1, e, 0.1, 1, 'step', 'first', '1' from made_sql m, generate_series(1, 3) e
 where m.n % 20 > 0 or e = 1;
insert into @.history (instance_id, recorded_at, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, error)
select m.id, now(), 9, 9, 3, 0.1, 1, 'attempt', 'last', '{"type": "pgdurable.errors.StepTimeout", "message": "late"}'
  from made_sql m where m.n % 50 = 1;
insert into @.sql_runs (instance_id, state)
select m.id, '{"threads": {"0": {"pc": 1, "wait": {"k": "signal", "name": "go", "seq": 1}}}}'
  from made_sql m where m.n % 20 = 0;
insert into @.tasks (instance_id, seq, kind, name, submitted_by)
select m.id, 1, 'python', 'send', current_user from made_sql m where m.n % 40 = 0
"""

# what is asked -> (statement, pages it may read)
ASKED = {
    "the steps of one that waits": ("select * from @.step_status where instance_id = '{waits}'", 400),
    "the steps of one that ended": ("select * from @.step_status where instance_id = '{ended}'", 400),
    "what one waits for": ("select * from @.waiting_on where instance_id = '{waits}'", 100),
    "fifty that wait": ("select * from @.waiting_on limit 50", 1_000),
    "errors of the last minutes": (
        "select * from @.step_errors where instance_id >= @.id_at(now() - interval '10 minutes')", 1_500),
    "timeouts of the last minutes": (
        "select * from @.timed_out_steps where instance_id >= @.id_at(now() - interval '10 minutes')", 1_500),
    "the history of one": ("select * from @.steps where instance_id = '{ended}'", 100),
    "tasks": ("select * from @.task_stats", 100),
    "steps that run": ("select * from @.running_steps", 40_000),
    "the last quarter of an hour": ("select * from @.throughput_per_minute", 8_000),
    "failures": ("select workflow, count(*) from @.failures group by 1", 1_500),
    "instances over their deadline": ("select * from @.timed_out limit 50", 100),
    "settings": ("select * from @.settings", 1_000),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(dsn: str) -> Iterator[World]:
    schema = f"test_{uuid.uuid4().hex[:12]}"
    migrate(dsn, schema)
    world = World(dsn, schema)
    try:
        world.fill()
        # What fill makes of these is of instances that have ended, for other plans; here they are what views are for.
        world.sql("truncate @.sql_runs, @.tasks")
        for text in IN_SQL.split(";\n"):
            world.sql(text)
        world.sql("analyze")
        yield world
    finally:
        world.sql(f"drop schema {schema} cascade")
        world.conn.close()


@pytest.mark.parametrize("what", ASKED)
def test_a_view_reads_what_it_shows(world: World, what: str) -> None:
    text, most = ASKED[what]
    ids = {name: world.sql(f"select id from made_sql where n = {n}")[0][0] for name, n in (("waits", 20), ("ended", 1))}
    statement = text.format(**ids).replace("@.", f"{world.schema}.")
    assert world.sql(statement) or what == "instances over their deadline", "it shows nothing"
    plans = world.run(statement, None, raw=False, generic=False)
    found = [f"{said}, in: {plan['Query Text'][:200]}" for plan in plans for said in wrong(plan)]
    # What it shows it may put in order.
    assert [said for said in found if not re.match(r"a sort of \d{4} rows", said)] == []
    assert pages(plans[-1]) <= most
