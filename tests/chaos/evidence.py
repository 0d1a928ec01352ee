"""What a run leaves behind: its history, and the tables read when everything has ended. A plain value."""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import psycopg
from crash.replay import Row

from . import kinds
from .history import Event

__all__ = ["Evidence", "Incarnation", "Instance", "SqlRun", "Tenure", "Write", "gather"]


@dataclass
class Instance:
    id: uuid.UUID
    key: str | None
    workflow: str
    version: str | None
    status: str
    owner: int | None
    input: str
    output: Any
    error: dict[str, Any] | None
    started_at: datetime
    finished_at: datetime | None
    history: list[Row] = field(default_factory=list)

    @property
    def kind(self) -> kinds.Kind:
        return kinds.KINDS[self.workflow]

    @cached_property
    def arguments(self) -> dict[str, Any]:
        if self.kind.program is not None:
            given: dict[str, Any] = json.loads(self.input)
            return given
        definition = self.kind.definitions[0]
        values, _ = definition.signature.load_input(self.input)
        code = definition.fn.__code__
        return dict(zip(code.co_varnames[: code.co_argcount], values, strict=True))

    @property
    def token(self) -> str:
        return str(self.arguments["token"])

    def __str__(self) -> str:
        return f"{self.workflow} {self.token} ({self.id})"


@dataclass(frozen=True)
class Write:
    """A history row: who wrote it, as the server saw it. See tables.sql."""

    position: int
    xid: int
    process: str
    fenced: int | None
    instance_id: uuid.UUID
    event_id: int
    owner: int | None


@dataclass(frozen=True)
class SqlRun:
    """An execution of a step in SQL that took effect. See bank.sql."""

    position: int
    xid: int
    process: str
    fenced: int | None
    token: str
    tag: str
    nonce: str


@dataclass(frozen=True)
class Tenure:
    """A change of an instance's owner or status."""

    position: int
    xid: int
    process: str
    fenced: int | None
    instance_id: uuid.UUID
    old_owner: int | None
    owner: int | None
    old_status: str | None
    status: str
    version: str | None


@dataclass(frozen=True)
class Incarnation:
    """A worker that joined (`alive`) or ended. `seen` is the snapshot of the transaction that wrote it down."""

    position: int
    xid: int
    seen: str
    worker: int
    process: str
    state: str
    successor: int | None

    def saw(self, xid: int) -> bool:
        """Whether a transaction had ended for the one that wrote this down."""
        low, high, running = self.seen.split(":")
        if xid < int(low):
            return True
        return xid < int(high) and str(xid) not in running.split(",")


@dataclass
class Evidence:
    """Everything a run left behind.

    Attributes:
        events: the run's history, in order.
        queued: events that nobody consumed, as (instance, name, payload).
        excess: where more of a queue were held than allowed, as (queue, by whom, how many, how many at the most).
        ticks: what the schedule has started, as (id, tick, status, output); patrol: its anchor, the seconds from one
            tick to the next, and how many it counts as started, missed and skipped.
        updates: of each request its instance, key, status and reply.
        streams: the items of each stream, by instance and name, in the order of their places.
        states: what each instance publishes.
        sql_runs: executions of steps in SQL that took effect.
        told: under which transactions somebody told an instance what an attempt at a step of its had come to, as
            (instance, number of the step, transaction).
        begun: when the instances of each queue with settings began, in order; rates: how many within how many seconds.
    """

    events: list[Event]
    instances: list[Instance]
    balances: dict[int, int]
    ledger: list[kinds.Effect]
    queued: list[tuple[uuid.UUID, str, Any]]
    writes: list[Write]
    tenures: list[Tenure]
    incarnations: list[Incarnation]
    excess: list[tuple[str, str, int, int]]
    begun: dict[str, list[datetime]]
    rates: dict[str, tuple[int, float]]
    ticks: list[tuple[str, datetime, str, Any]]
    patrol: tuple[datetime, float, int, int, int]
    updates: list[tuple[uuid.UUID, str, str, Any]]
    streams: dict[tuple[uuid.UUID, str], list[Any]]
    states: dict[uuid.UUID, dict[str, Any]]
    sql_runs: list[SqlRun]
    told: set[tuple[uuid.UUID, int, int]]


def gather(conn: psycopg.Connection[Any], schema: str, shop: str, events: list[Event]) -> Evidence:
    instances = {
        row[0]: Instance(*row)
        for row in conn.execute(
            f"""select i.id, k.id, i.workflow, i.version, i.status, i.owner, i.input::text, i.output, i.error,
                       coalesce(i.started_at, i.created_at), i.finished_at
                  from {schema}.instances i left join {schema}.instance_keys k on k.instance_id = i.id
                 where i.workflow <> 'patrol'
                 order by i.id"""
        )
    }
    histories: dict[uuid.UUID, list[Row]] = defaultdict(list)
    for id, *row in conn.execute(
        f"""select instance_id, event_id, kind, seq, name, attempt, fingerprint, payload::text, error::text, recorded_at
              from {schema}.history order by instance_id, event_id"""
    ):
        histories[id].append(Row(*row))
    for id, instance in instances.items():
        instance.history = histories.pop(id, [])
    assert not histories, f"history of instances that do not exist: {list(histories)}"
    ledger = conn.execute(f"select token, entry, source, target, cents from {shop}.ledger").fetchall()
    return Evidence(
        events=events,
        instances=list(instances.values()),
        balances=dict(conn.execute(f"select id, balance from {shop}.accounts").fetchall()),
        ledger=[kinds.Effect(*row) for row in ledger],
        queued=conn.execute(f"select instance_id, name, payload from {schema}.events order by seq").fetchall(),
        writes=[
            Write(*row)
            for row in conn.execute(
                f"""select position, xid::text::bigint, process, fenced, instance_id, event_id, owner
                      from {shop}.writes order by position"""
            )
        ],
        tenures=[
            Tenure(*row)
            for row in conn.execute(
                f"""select position, xid::text::bigint, process, fenced, instance_id, old_owner, owner, old_status,
                           status, version
                      from {shop}.tenures order by position"""
            )
        ],
        incarnations=[
            Incarnation(*row)
            for row in conn.execute(
                f"""select position, xid::text::bigint, seen::text, worker, process, state, successor
                      from {shop}.incarnations order by position"""
            )
        ],
        excess=conn.execute(f"select queue, what, n, most from {shop}.excess order by position").fetchall(),
        begun=dict(
            conn.execute(
                f"""select i.queue, array_agg(i.started_at order by i.started_at)
                      from {schema}.instances i join {schema}.queues q on q.name = i.queue
                     where i.started_at is not null group by 1"""
            ).fetchall()
        ),
        rates={
            name: (count, seconds)
            for name, count, seconds in conn.execute(
                f"select name, rate_count, rate_seconds from {schema}.queues where rate_count is not null"
            )
        },
        ticks=conn.execute(
            f"""select k.id, (i.labels ->> 'scheduled_at')::timestamptz, i.status, i.output
                  from {schema}.instances i left join {schema}.instance_keys k on k.instance_id = i.id
                 where i.workflow = 'patrol' order by 2, 1"""
        ).fetchall(),
        patrol=conn.execute(
            f"""select (definition ->> 'anchor')::timestamptz, (definition ->> 'every_s')::float8,
                       started, missed, skipped
                  from {schema}.schedules where name = 'patrol'"""
        ).fetchone(),  # type: ignore[arg-type]
        updates=conn.execute(f"select instance_id, key::text, status, result from {schema}.updates").fetchall(),
        streams={
            (id, stream): items
            for id, stream, items in conn.execute(
                f"""select instance_id, stream, array_agg(item order by position)
                      from {schema}.stream_items where kind = 'item' group by 1, 2"""
            )
        },
        states=dict(
            conn.execute(f"select instance_id, jsonb_object_agg(key, value) from {schema}.states group by 1").fetchall()
        ),
        sql_runs=[
            SqlRun(*row)
            for row in conn.execute(
                f"""select position, xid::text::bigint, process, fenced, token, tag, nonce
                      from {shop}.runs order by position"""
            )
        ],
        told=set(conn.execute(f"select instance_id, seq, xid::text::bigint from {shop}.told").fetchall()),
    )
