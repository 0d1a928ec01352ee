"""What taking and ending tasks reads, beside tens of thousands that wait: a few pages, whatever the statistics say.

Counted in pages (`explain (analyze, buffers)` counts those of a function's statements): a scan of the table reads more
than a thousand.
"""

from __future__ import annotations

from typing import Any

import pytest

from .namespace import Namespace

WAITING = 30_000
FILL = f"""
insert into @.instances (id, workflow, version, status, wake_at, started_at, input)
select overlay(@.id_at(now())::text placing right(md5(n::text)::uuid::text, 22) from 15)::uuid,
       'w', '1', 'waiting', null, now(), '{{}}'
  from generate_series(1, {WAITING}) n;
insert into @.tasks (instance_id, seq, kind, name, queue, submitted_by, run_at, lease_until, lease_s, owner, request)
select i.id, k.n, k.kind, k.name, 'default', 'me',
       -- Later, all but a few. The external ones are held, or wait for a person.
       now() + (i.n % 1000) * interval '1 minute' - interval '3 minutes',
       case when k.kind = 'external' and i.n % 2 = 0 then now() + interval '1 hour' end, 3600, null,
       '{{"max_attempts": 5}}'
  from (select id, row_number() over () as n from @.instances) i
 cross join (values (1, 'python', 'fetch'), (2, 'http', 'call'), (3, 'external', 'sign')) k (n, kind, name)
"""

QUERIES = {
    "claim_external": "select * from @.claim_external(n => 5)",
    "claim_external_named": "select * from @.claim_external(n => 5, steps => '{{sign,print}}')",
    "claim_tasks": "select * from @.claim_tasks({worker}, '{{fetch,other}}', true, 10)",
    "claim_tasks_of_others": "select * from @.claim_tasks({worker}, '{{other}}', false, 10)",
    "finish_tasks": (
        "select @.finish_tasks({worker}, array['{held}'::uuid], '{{1}}', '{{1}}', array['{{\"output\": 1}}'])"
    ),
    "note_tasks": "select * from @.note_tasks({worker}, array['{held}']::uuid[], '{{1}}', array['1'])",
    "return_tasks": "select @.return_tasks({worker})",
    "free_tasks": "select @.free_tasks()",
    "complete_step": "select @.complete_step('{held}', 'sign', '1')",
    "heartbeat": "select @.heartbeat('{held}', 'sign')",
    "pump_due": "select @.pump_due()",
}
MOST_PAGES = 700


@pytest.fixture(params=["stale", "fresh"])
def filled(ns: Namespace, request: pytest.FixtureRequest) -> Namespace:
    for table in ("instances", "tasks"):
        ns.rows(f"alter table @.{table} set (autovacuum_enabled = false)")
    ns.rows("analyze @.instances, @.tasks")
    for statement in FILL.split(";"):
        ns.rows(statement)
    if request.param == "fresh":
        ns.rows("analyze @.instances, @.tasks")
    return ns


def pages(ns: Namespace, query: str) -> int:
    """How many pages the query reads the second time: what is read of the catalogs the first time is no part of it."""
    found = 0
    for _ in range(2):
        with ns.main.transaction(force_rollback=True):
            plan: Any = ns.one(f"explain (analyze, buffers, format json) {query}")[0]["Plan"]
            found = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return found


def test_nothing_reads_all_that_waits(filled: Namespace) -> None:
    ns = filled
    worker = ns.worker()
    held = ns.one("select instance_id from @.tasks where kind = 'python' and run_at > now() limit 1")
    ns.rows("update @.tasks set owner = %s where instance_id = %s and kind = 'python'", worker, held)
    read = {name: pages(ns, query.format(worker=worker, held=held)) for name, query in QUERIES.items()}
    assert ns.one("select pg_relation_size('@.tasks') / 8192") > MOST_PAGES  # a scan would show
    assert {name: n for name, n in read.items() if n > MOST_PAGES} == {}, read
