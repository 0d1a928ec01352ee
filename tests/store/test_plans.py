"""The plans of hot queries at scale, as the server really ran them: functions' inner statements too (auto_explain).

Each runs on 200,000 instances and a million rows of history, once with statistics from when the tables were empty and
once with fresh ones, with its parameters' values known to the planner and not known (as prepared statements end up).
What must not be: a sequential scan of a large table, a sort of a backlog, more pages than the work asked for takes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgdurable._store.migrations import migrate
from pgdurable._store.sql import named_queries

INSTANCES = 200_000
STEPS = 5
# Tables of which each look may read a little; every partition of history is one.
LARGE = ("instances", "instance_keys", "history", "sql_runs")
# And these, for pumps.
OF_PUMPS = ("tasks",)
SORTED_AT_MOST = 1_000

FILL = f"""
create temp table made as
    select n, overlay(@.id_at(now() - (70 - n * 70.0 / {INSTANCES}) * interval '1 day')::text
                      placing right(md5(n::text)::uuid::text, 22) from 15)::uuid as id
      from generate_series(1, {INSTANCES}) n order by n;
insert into @.instances
    (id, created_at, started_at, finished_at, wake_at, owner, workflow, version, status, input, output)
select m.id, @.id_time(m.id), case when m.n % 20 > 0 then @.id_time(m.id) end,
       case when s.status in ('completed', 'failed') then @.id_time(m.id) + interval '1 hour' end,
       case s.status when 'pending' then now() - m.n * interval '1 ms'
                     when 'waiting' then case when m.n % 3 = 0 then now() + interval '1 day' end end,
       s.owner, case when m.n % 40 = 0 then 'nobody has it' else 'w' end, '1', s.status, '{{"order": 17}}',
       case when s.status = 'completed' then '17'::jsonb end
  from made m
 cross join lateral (
    select case when m.n % 20 = 0 then 'pending' when m.n % 20 = 1 then 'waiting' when m.n % 100 = 2 then 'running'
                when m.n % 500 = 3 then 'failed' when m.n % 1000 = 4 then 'paused' else 'completed' end as status,
           case when m.n % 100 = 2 then case when m.n % 4000 = 2 then 3 else 1 + m.n / 100 % 2 end end as owner
 ) s
 order by m.n;
insert into @.instance_keys select 'order/' || m.n, m.id from made m where m.n % 4 = 0;
insert into @.history (instance_id, recorded_at, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload)
select m.id, @.id_time(m.id), e, e - 1, 12345, 0.02, 1, 'step', 'work', to_jsonb(e)
  from made m, generate_series(1, {STEPS}) e order by m.n, e;
insert into @.attempts (instance_id, seq, attempt, worker, name, started_at, details)
select m.id, 0, 1, 1, 'long', now(), '17' from made m where m.n % 100 = 2;
insert into @.step_turns (step, free_at, taken)
select 's' || n % 100, now() + n * interval '1 s', 3 from generate_series(1, 20000) n;
insert into @.events (instance_id, kind, name, payload)
select m.id, 'signal', 'go', '1' from made m where m.n % 1000 in (1, 2, 4);
insert into @.sql_runs (instance_id, open, state)
select m.id, '{{0}}', '{{"seq": 1, "next": 1, "env": {{}}, "threads": {{"0": {{"pc": 0}}}}}}'
  from made m where m.n % 10 = 1;
insert into @.tasks (instance_id, seq, kind, name, queue, attempt, run_at, submitted_by, request)
select m.id, 0, 'sql', 'step', 'default', 1, now() + m.n * interval '1 s', 'nobody', '{{}}'
  from made m where m.n % 10 = 1;
insert into @.schedules (name, workflow, definition, input, submitted_by, next_at)
select 's' || m.n, 'nobody has it', '{{"every_s": 60, "anchor": "2026-01-01T00:00:00+00:00", "overlap": "skip"}}',
       '{{}}', 'me', now() + m.n * interval '1 s'
  from made m where m.n % 100 = 1;
insert into @.workflows (name, version, kind) values ('nobody has it', '1', 'sql')
"""


class World:
    """A filled schema, a connection that tells the plans of what it runs, and one worker's point of view."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.schema = schema
        self.conn = psycopg.connect(dsn, autocommit=True)
        self._plans: list[dict[str, Any]] = []
        self.conn.add_notice_handler(self._noticed)

    def sql(self, text: str) -> list[Any]:
        cursor = self.conn.execute(text.replace("@.", self.schema + "."))
        return cursor.fetchall() if cursor.description else []

    def fill(self) -> None:
        for (name,) in self.sql("select name from @.history_partitions"):
            self.sql(f"drop table @.{name}")
        self.sql(
            "select @.make_partition(null, @.id_at(date_bin('7 days', now() - interval '70 days', '2001-01-01Z')))"
        )
        self.sql("select @.make_partitions()")
        for name in ("instances", "instance_keys", "events", "sql_runs", "tasks", "schedules"):
            self.sql(f"alter table @.{name} set (autovacuum_enabled = false)")
        for (name,) in self.sql("select name from @.history_partitions"):
            self.sql(f"alter table @.{name} set (autovacuum_enabled = false)")
        for name in ("me", "other", "dead"):
            self.sql(f"select @.join_worker('{name}', '[]', '1 hour')")
        self.sql("select @.take_over(3, 0, 1)")
        self.sql("insert into @.workflows (name, version) values ('w', '1')")
        self.sql("analyze")
        for text in FILL.split(";\n"):
            self.sql(text)
        self.mine = [id for (id,) in self.sql("select id from @.instances where owner = 1 order by id limit 20")]
        self.some = [id for (id,) in self.sql("select id from @.instances where id > @.id_at(now() - interval '9 days')"
                                              " order by id limit 20")]  # fmt: skip
        self.keys = [key for (key,) in self.sql("select id from @.instance_keys order by id limit 5")]

    def _noticed(self, notice: Any) -> None:
        _, found, plan = (notice.message_primary or "").partition("plan:\n")
        if found:
            self._plans.append(json.loads(plan))

    def run(self, text: str, params: Any, *, raw: bool, generic: bool) -> list[dict[str, Any]]:
        """Runs a query, undone afterwards; the plans of it and of the statements of the functions it calls."""
        cursor = psycopg.RawCursor(self.conn) if raw else self.conn.cursor()
        with self.conn.transaction(force_rollback=True):
            self.conn.execute("load 'auto_explain'")
            for name, value in (
                ("auto_explain.log_min_duration", "0"), ("auto_explain.log_analyze", "on"),
                ("auto_explain.log_buffers", "on"), ("auto_explain.log_nested_statements", "on"),
                ("auto_explain.log_format", "json"), ("auto_explain.log_timing", "off"),
                ("plan_cache_mode", "force_generic_plan" if generic else "force_custom_plan"),
                ("client_min_messages", "log"),
            ):  # fmt: skip
                self.conn.execute(f"set local {name} = '{value}'")
            self._plans.clear()
            cursor.execute(text, params, prepare=True)
            if cursor.description:
                cursor.fetchall()
            # The portal ends, and tells its plan, when another takes its place.
            self.conn.execute("select %s::int", (1,))
            plans = list(self._plans)
        assert plans, "auto_explain said nothing"
        return plans


@pytest.fixture(scope="module")
def filled(dsn: str) -> Iterator[World]:
    schema = f"test_{uuid.uuid4().hex[:12]}"
    migrate(dsn, schema)
    world = World(dsn, schema)
    try:
        world.fill()
        yield world
    finally:
        world.sql(f"drop schema {schema} cascade")
        world.conn.close()


@pytest.fixture(scope="module", params=["of_empty_tables", "fresh"])
def world(filled: World, request: pytest.FixtureRequest) -> World:
    if request.param == "fresh":
        filled.sql("analyze")
    return filled


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def is_large(relation: str, also: tuple[str, ...] = ()) -> bool:
    return relation in LARGE or relation in also or relation.startswith("history_")


def wrong(plan: dict[str, Any], also: tuple[str, ...] = ()) -> Iterator[str]:
    """What a plan does that no hot query may do."""
    for node in nodes(plan["Plan"]):
        kind, relation, loops = node["Node Type"], node.get("Relation Name", ""), node.get("Actual Loops", 0)
        rows, in_vain = node.get("Actual Rows", 0) * loops, node.get("Rows Removed by Filter", 0) * loops
        if "Seq Scan" in kind and is_large(relation, also) and rows + in_vain > 100:  # an empty partition may be
            yield f"{kind} of {relation}"
        if kind in ("Sort", "Incremental Sort") and rows > SORTED_AT_MOST:
            yield f"a sort of {rows:.0f} rows"
        if is_large(relation, also) and in_vain > 5_000:
            yield f"{in_vain} rows of {relation} read for nothing"


def pages(plan: dict[str, Any]) -> int:
    return plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]


def columns(world: World, n: int) -> list[list[Any]]:
    """The parameters of insert_history: n rows of instances that are there."""
    ids = (world.mine * n)[:n]
    return [
        ids, [1000 + place for place in range(n)], [1] * n, [1] * n, [0.1] * n, [1] * n, ["step"] * n, ["x"] * n,
        ["1"] * n, [None] * n,
    ]  # fmt: skip


# query -> (file, its parameters, the pages it may read)
HOT: dict[str, tuple[str, Any, int]] = {
    "claim": ("worker", lambda w: (1, ["w"], ["1"], [True], 20, 5, 0, [None], 0, None), 6_000),
    "next_due": ("worker", lambda w: (["w", "other"], [None, None], None, ["w", "other"]), 250),
    "owned_events": ("worker", lambda w: (1, 0, 0), 3_500),
    "events_of": ("worker", lambda w: (w.some,), 150),
    "drop_stale_events": ("worker", None, 3_500),
    "take_up": ("worker", lambda w: (w.mine, 1), 300),
    "owned": ("worker", lambda w: (1,), 2_500),
    "load_history": ("worker", lambda w: (w.some,), 400),
    "note_attempts": (
        "worker",
        lambda w: (
            1,
            w.some,
            [0] * 20,
            [1] * 20,
            ["long"] * 20,
            [2.0] * 20,
            [1.0] * 20,
            [None] * 20,
            [None] * 20,
            ["17"] * 20,
            w.some[:5],
            [1] * 5,
        ),
        900,
    ),
    "take_turns": ("worker", lambda w: ("s7", 1000, 60.0, 50), 300),
    "beat": ("worker", lambda w: (1, 60.0, "{}"), 250),
    "insert_history_fenced": ("flush", lambda w: [1, *columns(w, 20)], 500),
    "insert_history_again": ("flush", lambda w: columns(w, 20), 500),
    "read_history": ("flush", lambda w: [w.some, [1] * len(w.some)], 500),
    "release_instances": (
        "flush",
        lambda w: [1, w.mine, ["completed"] * 20, ["1"] * 20, [None] * 20, [None] * 20],
        1_500,
    ),
    "insert_instances_again": (
        "flush",
        lambda w: [w.some, ["w"] * 20, ["1"] * 20, ["pending"] * 20, ["default"] * 20, [None] * 20, ["{}"] * 20],
        400,
    ),
    "read_instances": ("flush", lambda w: [w.some], 200),
    "delete_events": ("flush", lambda w: [[1, 2, 3]], 50),
    "start_keyed": (
        "client",
        lambda w: (
            1,
            w.keys,
            [uuid.uuid4() for _ in w.keys],
            ["w"] * 5,
            ["1"] * 5,
            ["{}"] * 5,
            ["default"] * 5,
            [0.0] * 5,
        ),
        400,
    ),
    "cancel": ("client", lambda w: (w.keys[0], None), 600),
    "pause": ("client", lambda w: (w.keys[0],), 600),
    "bulk_step": (
        "client",
        lambda w: (
            "cancel",
            uuid.UUID(int=0),
            uuid.UUID(int=(1 << 128) - 1),
            '{"workflow": "w", "status": ["pending"]}',
            "{}",
            200,
            False,
        ),
        30_000,
    ),
    "heed": ("worker", lambda w: (1, w.mine), 2_000),
    "due_schedules": ("schedules", lambda w: (["w", "other"],), 150),
    "keys_taken": ("schedules", lambda w: (w.keys,), 100),
    "keys_there": ("client", lambda w: (w.keys,), 100),
    "signal": ("client", lambda w: (w.keys[0], "go", "1", None), 500),
    "find_instance": ("client", lambda w: (w.keys[0],), 200),
    "outcomes": ("client", lambda w: (w.some,), 200),
    "describe": ("client", lambda w: (w.some[0],), 50),
    "history": ("client", lambda w: (w.some[0], 0, 100), 100),
    "waiting_events": ("client", lambda w: (w.some[0],), 50),
    "list_instances": ("client", lambda w: {"status": None, "workflow": None, "before": None, "limit": 50}, 800),
    "sweep": ("upkeep", lambda w: (uuid.UUID(int=0), uuid.UUID(int=(1 << 128) - 1), 200, None, False), 5_000),
    "sweep_history": ("upkeep", lambda w: ([uuid.uuid4() for _ in range(20)], 1000), 500),
    "sweep_orphans": ("upkeep", lambda w: (uuid.UUID(int=0), uuid.UUID(int=(1 << 128) - 1), 50, 1000), 8_000),
    "spent_partitions": ("upkeep", None, 1_500),
}


# Its generic plan is much dearer by the planner's own estimate than those for known values, so it is never taken.
KNOWN_ONLY = {"list_instances"}


@pytest.mark.parametrize(
    ("query", "generic"),
    [(query, generic) for query in HOT for generic in (False, True) if not (generic and query in KNOWN_ONLY)],
)
def test_plan(world: World, query: str, generic: bool) -> None:
    file, params, most = HOT[query]
    text = named_queries(file, world.schema)[query]
    plans = world.run(text, params(world) if params else None, raw=file == "flush", generic=generic)
    found = [f"{what}, in: {plan['Query Text'][:200]}" for plan in plans for what in wrong(plan)]
    assert not found
    # The outermost statement ends last, and its pages are those of all within.
    assert pages(plans[-1]) <= most


PUMP = '{"me": 1, "names": ["w"], "versions": ["1"], "current": [true], "listens": null, "due": {}, "full_at": 0}'
# What pumps ask: statement -> (its parameters, the pages it may read).
PUMPS: dict[str, tuple[Any, int]] = {
    "select @.pump_claim(%s::jsonb)": (lambda w: (PUMP,), 12_000),
    "select @.pump_due()": (None, 6_000),
    "select @.pump_due(array['elsewhere'])": (None, 6_000),
    "select * from @.run_tasks(1, now() + interval '1 s', '-infinity', array['default'], '{}')": (None, 400),
    "select @.run_wake(%s, @.run_start('{}'), '{}', null, null)": (lambda w: (w.mine[0],), 200),
    "select @.run_save(1, %s, @.run_start('{}'), true)": (lambda w: (w.mine[0],), 200),
    "select @.run_over(1, %s, @.run_start('{}'), '1', true)": (lambda w: (w.mine[0],), 200),
    "select * from @.start_scheduled()": (None, 500),
}


@pytest.mark.parametrize("generic", [False, True])
@pytest.mark.parametrize("query", PUMPS)
def test_plan_of_pumps(world: World, query: str, generic: bool) -> None:
    params, most = PUMPS[query]
    text = query.replace("@.", world.schema + ".")
    plans = world.run(text, params(world) if params else None, raw=False, generic=generic)
    found = [f"{what}, in: {plan['Query Text'][:200]}" for plan in plans for what in wrong(plan, OF_PUMPS)]
    assert not found
    assert pages(plans[-1]) <= most


def test_the_check_sees_what_it_is_to_see(world: World) -> None:
    for text, what in (
        ("select count(*) from @.instances where input::text = 'x'", "Seq Scan of instances"),
        ("select count(*) from @.history where name = 'x'", "Seq Scan of history_"),
        ("select id from @.instances where status = 'completed' order by input::text, id", "a sort of"),
    ):
        plans = world.run(text.replace("@.", world.schema + "."), None, raw=False, generic=False)
        assert any(what in said for plan in plans for said in wrong(plan)), text
