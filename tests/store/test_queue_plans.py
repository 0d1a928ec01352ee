"""Claims from queues at scale: a million that ended, a million that wait, and what a claim reads for the next one.

As test_plans: with statistics of empty tables and with fresh ones, the parameters' values known to the planner or not.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from pgdurable._store.migrations import migrate
from pgdurable._store.sql import named_queries

from .test_plans import World, pages, wrong

ENDED = 1_000_000
WAITING = 1_000_000

FILL = f"""
insert into @.instances
    (id, created_at, started_at, finished_at, wake_at, workflow, version, status, queue, partition, input)
select gen_random_uuid(), now() - interval '1 day', now() - interval '1 day', now() - interval '1 day', null, 'w', '1',
       'completed', case when n % 2 = 0 then 'mail' else 'default' end, case when n % 2 = 0 then 'large' else '' end,
       '{{}}'
  from generate_series(1, {ENDED}) n;
insert into @.instances (id, wake_at, workflow, version, queue, partition, line, input)
select gen_random_uuid(), now() - interval '1 hour' + n * interval '1 ms', 'w', '1', 'mail', 'large', 0, '{{}}'
  from generate_series(1, {WAITING}) n;
insert into @.instances (id, wake_at, workflow, version, queue, partition, line, input)
select gen_random_uuid(), now(), 'w', '1', 'mail', 'small', 0, '{{}}';
insert into @.instances (id, wake_at, workflow, version, queue, partition, line, input)
select gen_random_uuid(), now(), 'w', '1', 'tenants', 't' || n, 0, '{{}}' from generate_series(1, 20000) n;
insert into @.instances (id, wake_at, workflow, version, queue, line, input)
select gen_random_uuid(), now(), 'w', '1', q, 0, '{{}}'
  from unnest(array['full', 'spent', 'off']) q, generate_series(1, 20000);
insert into @.instances (id, wake_at, workflow, version, status, queue, input)
select gen_random_uuid(), now() + interval '1 day', 'w', '1', 'waiting', 'parked', '{{}}'
  from generate_series(1, 20000);
insert into @.instances (id, wake_at, workflow, version, input)
select gen_random_uuid(), now() - n * interval '1 ms', 'w', '1', '{{}}' from generate_series(1, 200) n;
insert into @.instances (id, wake_at, workflow, version, status, queue, owner, input)
select gen_random_uuid(), null, 'w', '1', 'running', 'full', 2, '{{}}' from generate_series(1, 500);
insert into @.queue_starts (queue, partition, at, n)
select 'spent', '', clock_timestamp() - n * interval '1 ms', 1 from generate_series(1, 1000) n
"""


class Filled(World):
    def fill(self) -> None:
        for name in ("instances", "queue_starts"):
            self.sql(f"alter table @.{name} set (autovacuum_enabled = false)")
        for name in ("me", "other"):
            self.sql(f"select @.join_worker('{name}', '[]', '1 hour')")
        self.sql("select @.set_queue('mail', concurrency => 50)")
        self.sql("select @.set_queue('full', concurrency => 500)")
        self.sql("select @.set_queue('spent', rate_count => 1000, rate_seconds => 86400)")
        self.sql("select @.set_queue('off', paused => true)")
        self.sql("analyze")
        for text in FILL.split(";\n"):
            self.sql(text)


@pytest.fixture(scope="module")
def filled(dsn: str) -> Iterator[Filled]:
    schema = f"test_{uuid.uuid4().hex[:12]}"
    migrate(dsn, schema)
    world = Filled(dsn, schema)
    try:
        world.fill()
        yield world
    finally:
        world.sql(f"drop schema {schema} cascade")
        world.conn.close()


@pytest.fixture(scope="module", params=["of_empty_tables", "fresh"])
def world(filled: Filled, request: pytest.FixtureRequest) -> Filled:
    if request.param == "fresh":
        filled.sql("analyze")
    return filled


def claim(listens: list[str], room: int = 20) -> tuple[Any, ...]:
    return (1, ["w"], ["1"], [True], room, 5, 0, [None], 0, listens)


# what is looked at -> (query, its parameters, the pages it may read, how many rows it gives)
HOT: dict[str, tuple[str, Any, int, int]] = {
    "behind a million": ("claim", claim(["mail"]), 2_500, 20),
    "many of a million": ("claim", claim(["mail"], 100), 5_000, 50),
    "of 20,000 partitions": ("claim", claim(["tenants"]), 20_000, 20),
    "no slot": ("claim", claim(["full"]), 1_200, 0),
    "rate spent": ("claim", claim(["spent"]), 300, 1),
    "paused": ("claim", claim(["off"]), 250, 0),
    "nobody waits": ("claim", claim(["none"]), 250, 0),
    "parked": ("claim", claim(["parked"]), 250, 0),
    "plain beside a million": ("claim", claim(["default"]), 1_500, 20),
    "next due": ("next_due", (["w"], [None], None, ["w"]), 200, 1),
}


@pytest.mark.parametrize(("what", "generic"), [(what, generic) for what in HOT for generic in (False, True)])
def test_plan(world: Filled, what: str, generic: bool) -> None:
    query, params, most, _ = HOT[what]
    plans = world.run(named_queries("worker", world.schema)[query], params, raw=False, generic=generic)
    found = [f"{said}, in: {plan['Query Text'][:200]}" for plan in plans for said in wrong(plan)]
    assert not found
    assert pages(plans[-1]) <= most


@pytest.mark.parametrize("what", HOT)
def test_what_it_gives(world: Filled, what: str) -> None:
    """The pages above are those of the work that is meant."""
    query, params, _, n = HOT[what]
    with world.conn.transaction(force_rollback=True):
        rows = world.conn.execute(named_queries("worker", world.schema)[query], params).fetchall()
    assert len(rows) == n


def test_one_tenants_million_does_not_delay_anothers_one(world: Filled) -> None:
    """The other's is among the first two, within milliseconds."""
    times = []
    for _ in range(20):
        with world.conn.transaction(force_rollback=True):
            began = time.perf_counter()
            rows = world.conn.execute(named_queries("worker", world.schema)["claim"], claim(["mail"], 2)).fetchall()
            times.append(time.perf_counter() - began)
            parts = world.conn.execute(
                f"select partition from {world.schema}.instances where id = any (%s)", ([row[0] for row in rows],)
            ).fetchall()
            assert sorted(parts) == [("large",), ("small",)]
    assert sorted(times)[0] < 0.05  # 3 ms on a machine that does nothing else


def test_keys_are_found_among_a_million(world: Filled) -> None:
    client = named_queries("client", world.schema)
    for query, params, most in (
        ("start", ("w", "{}", None, "1", "mail", 0, 0.0, None, uuid.uuid4(), "k", "large"), 400),
        ("start_debounced", ("w", "{}", "k", 1.0, None, "1", "mail", 0, None, uuid.uuid4(), "large", False), 400),
        ("find_debounced", ("w", "k", "1", "mail", "large"), 100),
        ("start_batched", ("w", "names", [uuid.uuid4()], ["1"], 5, 1.0, "1", "mail", 0, "large"), 600),
    ):
        for generic in (False, True):
            plans = world.run(client[query], params, raw=False, generic=generic)
            assert not [said for plan in plans for said in wrong(plan)], query
            assert pages(plans[-1]) <= most, query
