"""The compiled core against a real server: what it writes, how it is refused, how it loses its connection."""

from __future__ import annotations

import gc
import math
import os
import random
import select
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import given, settings

from pgdurable import _core
from pgdurable._core import Batch, Flusher
from pgdurable._store import migrations
from pgdurable._store.sql import named_queries

PATIENCE_S = 20.0
PIPELINE, COPY = 1_000_000, 1
PATHS = pytest.mark.parametrize("copy_from", [PIPELINE, COPY], ids=["pipeline", "copy"])
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
HISTORY = "instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload, error"
INSTANCE = "id, workflow, version, status, queue, owner, input"


class House:
    """A migrated schema with a worker in it, and flushers that write there. `@` in a statement is the schema."""

    def __init__(self, dsn: str, schema: str, *, prepared: bool = True) -> None:
        self.dsn, self.schema, self.prepared = dsn, schema, prepared
        migrations.migrate(dsn, schema)
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.flushers: list[Flusher] = []
        self.worker = self.one("select @.join_worker('w', '[]', interval '1 hour')")

    def rows(self, text: str, *args: Any) -> list[tuple[Any, ...]]:
        cursor = self.conn.execute(text.replace("@", self.schema), args or None)
        return cursor.fetchall() if cursor.description else []

    def one(self, text: str, *args: Any) -> Any:
        ((value,),) = self.rows(text, *args)
        return value

    def flusher(self, copy_from: int = PIPELINE, *, fenced: bool = True, setup: list[str] | None = None) -> Flusher:
        flusher = Flusher(named_queries("flush", self.schema), copy_from)
        flusher.connect(self.dsn, self.worker if fenced else None, setup or [], self.prepared)
        self.flushers.append(flusher)
        return flusher

    def owned(self, n: int) -> list[bytes]:
        """Instances that the worker owns."""
        ids = [bytes(6) + os.urandom(10) for _ in range(n)]
        for id in ids:
            self.rows(
                "insert into @.instances (id, workflow, version, status, owner, input) values (%s, 'w', '1',"
                " 'running', %s, '{}')", uuid.UUID(bytes=id), self.worker,
            )  # fmt: skip
        return ids

    def event(self, id: bytes) -> int:
        return self.one("insert into @.events (instance_id, kind, name) values (%s, 'signal', 's') returning seq",
                        uuid.UUID(bytes=id))  # fmt: skip

    def names(self) -> list[str]:
        return [name for (name,) in self.rows("select name from @.history order by name")]


@pytest.fixture(params=[True, False], ids=["prepared", "texts"])
def house(request: pytest.FixtureRequest, dsn: str, schema: str) -> Iterator[House]:
    """With flushers that prepare their statements, and with those that send the texts along, as through a pooler."""
    house = House(dsn, schema, prepared=request.param)
    yield house
    while house.flushers:
        house.flushers.pop().close()
    house.conn.close()


def step(
    flusher: Flusher, name: str, payload: bytes | None = b"1", *, id: bytes | None = None, **options: Any
) -> bytes:
    """Adds a history row; the name is its tag too."""
    id = id or bytes(6) + os.urandom(10)
    flusher.add_history(id, options.pop("event_id", 1), 0, 7, 0.5, 1, "step", name, payload, None, name, **options)
    return id


def wait(flusher: Flusher) -> None:
    writable = [flusher.fileno] if flusher.wants_write else []
    assert any(select.select([flusher.fileno], writable, [], PATIENCE_S)), "no answer from the server"


def answer(flusher: Flusher) -> Any:
    while True:
        wait(flusher)
        done = flusher.ready()
        if done is not None:
            return done


def send_and_wait(flusher: Flusher, batch: Batch) -> Any:
    flusher.send(batch)
    return answer(flusher)


def flush(flusher: Flusher) -> Any:
    return send_and_wait(flusher, flusher.take())


# --- what is written ----------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
int32 = st.integers(-(2**31), 2**31 - 1)
json_texts = st.sampled_from([
    "null", "0", '"zażółć"', "[]", "{}", '{"b": [1, 2.50, null], "a": "\\\\ \\" \\u00e9"}', "1e400", "-0.0",
]) | st.integers().map(str) | st.text("abc żółć", max_size=300).map(lambda text: f'"{text}"')  # fmt: skip


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


history_rows = st.tuples(
    maybe(int32), maybe(int32), maybe(st.floats(width=32, allow_nan=False)), maybe(st.integers(-(2**15), 2**15 - 1)),
    texts, maybe(texts), maybe(json_texts), maybe(json_texts),
)  # fmt: skip
instance_rows = st.tuples(
    texts, maybe(texts), st.sampled_from(["pending", "running"]), texts, maybe(st.integers(-(2**63), 2**63 - 1)),
    json_texts,
)  # fmt: skip


def as_bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


@pytest.fixture(scope="module")
def shared(dsn: str) -> Iterator[House]:
    schema = f"test_{uuid.uuid4().hex[:12]}"
    house = House(dsn, schema)
    yield house
    while house.flushers:
        house.flushers.pop().close()
    house.rows("drop schema @ cascade")
    house.conn.close()


@settings(max_examples=60)
@given(
    history=st.lists(history_rows, max_size=12), instances=st.lists(instance_rows, max_size=6),
    shuffled=st.randoms(use_true_random=False),
)  # fmt: skip
def test_both_paths_write_what_psycopg_writes(
    shared: House, history: list[Any], instances: list[Any], shuffled: random.Random
) -> None:
    house = shared
    if not house.flushers:
        house.flusher(PIPELINE)
        house.flusher(COPY)
        house.rows("create table @.oracle_history (like @.history)")
        house.rows("create table @.oracle_instances (like @.instances including defaults)")
    for table in ("history", "instances", "oracle_history", "oracle_instances"):
        house.rows(f"truncate @.{table}")
    ids = [[bytes(6) + os.urandom(10) for _ in history + instances] for _ in house.flushers]
    adding = [("history", n) for n in range(len(history))] + [("instance", n) for n in range(len(instances))]
    shuffled.shuffle(adding)
    for flusher, own in zip(house.flushers, ids, strict=True):
        for kind, n in adding:
            if kind == "history":
                seq, mark, elapsed, attempt, what, name, payload, error = history[n]
                flusher.add_history(
                    own[n], n, seq, mark, elapsed, attempt, what, name, as_bytes(payload), as_bytes(error), (kind, n)
                )
            else:
                *columns, input = instances[n]
                flusher.add_instance(own[len(history) + n], *columns, as_bytes(input), (kind, n))
        if adding:
            copies = flusher.stats()["copies"]
            kind, batch, _, times = flush(flusher)
            assert (kind, batch.tags, times) == ("committed", adding, None)
            assert batch.counts_by_kind == (len(history), len(instances), 0, 0)
            assert flusher.stats()["copies"] - copies == (flusher.copy_from == COPY)
    for own in ids:
        for n, row in enumerate(history):
            house.rows(
                f"insert into @.oracle_history (recorded_at, {HISTORY})"
                " values (now(), %s, %s, %s::int, %s::int, %s::real, %s::smallint, %s, %s, %s::jsonb, %s::jsonb)",
                uuid.UUID(bytes=own[n]), n, *row,
            )  # fmt: skip
        for n, row in enumerate(instances):
            house.rows(
                f"insert into @.oracle_instances ({INSTANCE}) values (%s, %s, %s, %s, %s, %s, %s::jsonb)",
                uuid.UUID(bytes=own[len(history) + n]), *row,
            )  # fmt: skip
    for table, columns in (("history", HISTORY), ("instances", INSTANCE)):
        as_text = f"(select ({columns})::text from @.{table})"
        as_text_of_oracle = f"(select ({columns})::text from @.oracle_{table})"
        assert house.rows(f"{as_text} except all {as_text_of_oracle}") == []
        assert house.rows(f"{as_text_of_oracle} except all {as_text}") == []


@PATHS
def test_the_time_told_is_the_time_written(house: House, copy_from: int) -> None:
    for fenced in (True, False):
        flusher = house.flusher(copy_from, fenced=fenced)
        id = step(flusher, "s")
        flusher.add_instance(bytes(6) + os.urandom(10), "w", None, "pending", "q", None, b"{}", "i")
        _, _, at_us, _ = flush(flusher)
        told = EPOCH + timedelta(microseconds=at_us)
        assert house.one("select recorded_at from @.history where instance_id = %s", uuid.UUID(bytes=id)) == told
        assert house.one("select max(created_at) from @.instances") == told


@PATHS
def test_releases_and_consumed_events_ride_along(house: House, copy_from: int) -> None:
    flusher = house.flusher(copy_from)
    done, failed, parked, mine, foreign = house.owned(5)
    house.rows("update @.instances set owner = %s where id = %s", house.worker + 1, uuid.UUID(bytes=foreign))
    wake = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=timezone.utc)
    first, second, kept = house.event(mine), house.event(mine), house.event(done)
    flusher.add_release(done, "completed", b'{"ok": 1}', None, None, "done")
    step(flusher, "a", id=mine, event_id=1, event_seq=first)
    flusher.add_release(failed, "failed", None, b'{"type": "X"}', None, "failed")
    flusher.add_release(parked, "waiting", None, None, round(wake.timestamp()) * 10**6 + 123456, "parked")
    step(flusher, "b", id=mine, event_id=2, event_seq=second)
    flusher.add_release(foreign, "completed", b"1", None, None, "foreign")
    kind, batch, _, _ = flush(flusher)
    assert (kind, batch.tags) == ("committed", ["done", "a", "failed", "parked", "b", "foreign"])
    assert batch.counts_by_kind == (2, 0, 4, 2)
    assert flusher.stats()["copies"] == (copy_from == COPY)
    found = {
        row[0].bytes: row[1:]
        for row in house.rows(
            "select id, status, output, error, wake_at, owner, finished_at is not null from @.instances"
        )
    }
    assert found[done] == ("completed", {"ok": 1}, None, None, None, True)
    assert found[failed] == ("failed", None, {"type": "X"}, None, None, True)
    assert found[parked] == ("waiting", None, None, wake, None, False)
    assert (found[mine][0], found[mine][4]) == ("running", house.worker)
    # What this worker does not own it does not touch.
    assert (found[foreign][0], found[foreign][4]) == ("running", house.worker + 1)
    assert house.rows("select seq from @.events") == [(kept,)]
    assert house.names() == ["a", "b"]


def test_a_batch_goes_by_copy_from_copy_from_rows_on(house: House) -> None:
    flusher = house.flusher(3)
    for rows, copies in ((2, 0), (3, 1), (2, 1), (7, 2)):
        for n in range(rows):
            step(flusher, str(n))
        assert flush(flusher)[0] == "committed"
        assert flusher.stats()["copies"] == copies
    for _ in range(3):
        flusher.add_instance(bytes(6) + os.urandom(10), "w", "1", "pending", "q", None, b"{}", None)
    assert flush(flusher)[0] == "committed"
    assert flusher.stats()["copies"] == 3
    flusher.copy_from = 100
    for n in range(50):
        step(flusher, str(n))
    assert flush(flusher)[0] == "committed"
    assert flusher.stats()["copies"] == 3


@PATHS
def test_a_batch_larger_than_any_socket_buffer_goes_through(house: House, copy_from: int) -> None:
    flusher = house.flusher(copy_from)
    payload = b'"' + b"x" * 1_000_000 + b'"'
    for n in range(24):
        step(flusher, f"{n:02}", payload)
    assert flusher.waiting_bytes > 24_000_000
    flusher.send(flusher.take())
    wanted = flusher.wants_write
    done = None
    while done is None:
        wait(flusher)
        done = flusher.ready()
        wanted |= flusher.wants_write
    assert (done[0], len(done[1])) == ("committed", 24)
    assert wanted
    assert not flusher.wants_write
    assert house.one("select sum(length(payload #>> '{}')) from @.history") == 24_000_000


# --- refusals -----------------------------------------------------------------------------------------------------


REFUSED = {"nul": b'"\\u0000"', "no json": b"{", "not utf-8": b'"\xff"', "nothing": b""}


@PATHS
@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("tail", [False, True], ids=["", "with releases"])
def test_a_refused_batch_writes_nothing_and_the_connection_goes_on(
    house: House, copy_from: int, what: str, tail: bool
) -> None:
    flusher = house.flusher(copy_from)
    (mine,) = house.owned(1)
    event = house.event(mine)
    for n in range(5):
        step(flusher, str(n), REFUSED[what] if n == 3 else b"1")
    if tail:
        step(flusher, "e", id=mine, event_seq=event)
        flusher.add_release(mine, "completed", b"1", None, None, "released")
    kind, batch, sqlstate, message = flush(flusher)
    assert (kind, len(batch), batch.again) == ("refused", 7 if tail else 5, True)
    assert sqlstate[:2] in ("22", "08")
    assert message
    assert (flusher.idle, flusher.connected) == (True, True)
    assert house.names() == []
    assert house.one("select status from @.instances") == "running"
    assert house.one("select count(*) from @.events") == 1
    step(flusher, "after")
    assert flush(flusher)[0] == "committed"
    assert house.names() == ["after"]
    assert house.rows("select state from pg_stat_activity where pid = %s", flusher.backend_pid) == [("idle",)]


@PATHS
@pytest.mark.parametrize("where", ["release", "event", "instance"])
def test_a_refusal_after_the_rows_undoes_them_too(house: House, copy_from: int, where: str) -> None:
    flusher = house.flusher(copy_from)
    (mine,) = house.owned(1)
    event = house.event(mine)
    step(flusher, "a", id=mine, event_seq=event)
    if where == "instance":
        flusher.add_instance(mine, "w", "1", "pending", "q", None, b"{}", "there already")
    elif where == "release":
        flusher.add_release(mine, "no such status", None, None, None, "r")
    else:
        house.rows("create function @.refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$")
        house.rows("create trigger refuse before delete on @.events execute function @.refuse()")
    kind, _, sqlstate, _ = flush(flusher)
    assert (kind, sqlstate) == ("refused", {"release": "23514", "event": "P0001", "instance": "23505"}[where])
    assert house.names() == []
    step(flusher, "after")
    assert flush(flusher)[0] == "committed"


@PATHS
def test_splitting_finds_the_one_that_is_refused(house: House, copy_from: int) -> None:
    flusher = house.flusher(copy_from)
    for n in range(11):
        step(flusher, f"{n:02}", b"{" if n == 6 else b"1")
    work = [flusher.take()]
    refused: list[Batch] = []
    while work:
        batch = work.pop(0)
        flusher.send(batch)
        kind, again, *_ = answer(flusher)
        assert again is batch
        if kind == "refused" and len(batch) > 1:
            work += batch.split()
        elif kind == "refused":
            refused.append(batch)
    assert [batch.tags for batch in refused] == [["06"]]
    assert house.names() == [f"{n:02}" for n in range(11) if n != 6]


def test_split_keeps_every_transition_in_order(house: House) -> None:
    flusher = house.flusher()
    (mine,) = house.owned(1)
    event = house.event(mine)
    step(flusher, "a", id=mine, event_id=1)
    flusher.add_instance(bytes(6) + os.urandom(10), "w", None, "pending", "q", None, b"{}", "i")
    step(flusher, "b", id=mine, event_id=2, event_seq=event)
    flusher.add_release(mine, "completed", b"1", None, None, "r")
    step(flusher, "c")
    whole = flusher.take()
    parts = whole.split()
    assert [part.tags for part in parts] == [["a", "i"], ["b", "r", "c"]]
    assert [part.counts_by_kind for part in parts] == [(1, 1, 0, 0), (2, 0, 1, 1)]
    assert [part.again for part in parts] == [True, True]
    for kind in range(3):
        assert b"".join(part.rows_of(kind) for part in parts) == whole.rows_of(kind)
    assert sum(part.nbytes for part in parts) == whole.nbytes
    for part in parts:
        assert send_and_wait(flusher, part)[0] == "committed"
    assert house.names() == ["a", "b", "c"]
    assert house.one("select count(*) from @.events") == 0


@PATHS
def test_sending_again_changes_nothing(house: House, copy_from: int) -> None:
    flusher = house.flusher(copy_from)
    (mine,) = house.owned(1)
    event = house.event(mine)
    step(flusher, "a", id=mine, event_seq=event)
    flusher.add_instance(bytes(6) + os.urandom(10), "w", "1", "pending", "q", None, b"{}", "i")
    flusher.add_release(mine, "completed", b'"first"', None, None, "r")
    batch = flusher.take()
    assert send_and_wait(flusher, batch)[0] == "committed"
    tables = {
        table: house.rows(f"select t::text, xmin::text from @.{table} t order by 1")
        for table in ("history", "instances", "events")
    }
    batch.again = True
    for _ in range(2):
        flusher.send(batch)
        kind, _, at_us, times = answer(flusher)
        assert (kind, len(times)) == ("committed", 3)
        assert times[0] < at_us
    for table, rows in tables.items():
        assert house.rows(f"select t::text, xmin::text from @.{table} t order by 1") == rows


def test_a_row_that_is_there_already_is_refused_unless_sent_again(house: House) -> None:
    for copy_from in (PIPELINE, COPY):
        flusher = house.flusher(copy_from)
        id = step(flusher, "mine")
        assert flush(flusher)[0] == "committed"
        step(flusher, "another's", id=id)
        kind, _, sqlstate, _ = flush(flusher)
        assert (kind, sqlstate) == ("refused", "23505")
        assert house.rows("select name from @.history where instance_id = %s", uuid.UUID(bytes=id)) == [("mine",)]


# --- the fence ----------------------------------------------------------------------------------------------------


@PATHS
@pytest.mark.parametrize("again", [False, True], ids=["", "again"])
def test_a_worker_that_was_taken_over_writes_nothing(house: House, copy_from: int, again: bool) -> None:
    flusher = house.flusher(copy_from)
    client = house.flusher(copy_from, fenced=False)
    (mine,) = house.owned(1)
    assert house.one("select @.take_over(%s, 0, null)", house.worker)
    for _ in range(2):
        step(flusher, "late", id=mine)
        flusher.add_release(mine, "completed", b"1", None, None, "r")
        batch = flusher.take()
        batch.again = again
        flusher.send(batch)
        kind, refused, sqlstate, message = answer(flusher)
        assert (kind, refused, sqlstate) == ("refused", batch, "PGD01")
        assert message == f"worker {house.worker} no longer holds its lease"
        assert flusher.idle
    assert house.names() == []
    assert house.one("select status from @.instances") == "running"
    # Batches of a client have no fence.
    step(client, "client")
    assert flush(client)[0] == "committed"


@PATHS
@pytest.mark.parametrize("rest", [False, True], ids=["history alone", "with an end"])
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_flush_that_waited_for_a_takeover_writes_nothing(
    house: House, copy_from: int, rest: bool, isolation: str
) -> None:
    """Whatever the server's default isolation: the worker's row is read by a snapshot taken after the lock."""
    flusher = house.flusher(copy_from, setup=[f"set default_transaction_isolation = '{isolation}'"])
    (mine,) = house.owned(1)
    with psycopg.connect(house.dsn) as other:
        found = other.execute(f"select {house.schema}.take_over(%s, 0, null)", [house.worker]).fetchone()
        assert found == (True,)
        step(flusher, "late", id=mine)
        if rest:
            flusher.add_release(mine, "completed", b"1", None, None, "r")
        flusher.send(flusher.take())
        waits = "select count(*) from pg_locks where locktype = 'advisory' and pid = %s and not granted"
        while house.one(waits, flusher.backend_pid) == 0:
            assert flusher.ready() is None
        other.commit()
    kind, batch, sqlstate, _ = answer(flusher)
    assert (kind, sqlstate) == ("refused", "PGD01" if isolation == "read committed" else "40001")
    assert house.names() == []
    batch.again = False
    flusher.send(batch)
    assert answer(flusher)[2] == "PGD01"
    assert (house.names(), house.one("select status from @.instances")) == ([], "running")


@PATHS
@pytest.mark.parametrize("isolation", ["read committed", "read uncommitted", "repeatable read", "serializable"])
def test_any_default_isolation_lets_a_living_worker_write(house: House, copy_from: int, isolation: str) -> None:
    flusher = house.flusher(copy_from, setup=[f"set default_transaction_isolation = '{isolation}'"])
    step(flusher, "a")
    assert flush(flusher)[0] == "committed"
    assert house.names() == ["a"]


@PATHS
def test_a_takeover_waits_for_a_commit_under_way(house: House, copy_from: int) -> None:
    flusher = house.flusher(copy_from)
    step(flusher, "a")
    with psycopg.connect(house.dsn) as other:
        # The commit has to wait in the middle, with the fence held.
        other.execute(f"lock table {house.schema}.history in share mode")
        flusher.send(flusher.take())
        fence = "select count(*) from pg_locks where locktype = 'advisory' and pid = %s and granted"
        while house.one(fence, flusher.backend_pid) == 0:
            select.select([], [], [], 0.005)
        assert flusher.flying_for_s > 0
        # It may end the session; either way the commit and the takeover do not both happen.
        assert not house.one("select @.take_over(%s, 0, null)", house.worker)
        other.rollback()
    try:
        committed = answer(flusher)[0] == "committed"
    except ConnectionError:
        committed = False
    assert committed == (house.names() == ["a"])
    assert not committed or house.one("select state from @.workers") == "alive"


# --- losing the connection ----------------------------------------------------------------------------------------


@PATHS
def test_a_session_ended_between_sends(house: House, copy_from: int) -> None:
    flusher = house.flusher(copy_from)
    step(flusher, "before")
    assert flush(flusher)[0] == "committed"
    house.one("select pg_terminate_backend(%s, 5000)", flusher.backend_pid)
    step(flusher, "a")
    batch = flusher.take()
    step(flusher, "next")
    with pytest.raises(ConnectionError):
        send_and_wait(flusher, batch)
    assert flusher.close() is batch
    assert batch.again
    assert (flusher.connected, flusher.idle, flusher.fileno, flusher.backend_pid) == (False, False, -1, None)
    assert flusher.waiting == 1
    flusher.connect(house.dsn, house.worker, [])
    assert send_and_wait(flusher, batch)[0] == "committed"
    assert flush(flusher)[0] == "committed"
    assert house.names() == ["a", "before", "next"]


def test_a_session_ended_while_idle_is_noticed(house: House) -> None:
    flusher = house.flusher()
    house.one("select pg_terminate_backend(%s, 5000)", flusher.backend_pid)
    with pytest.raises(ConnectionError):
        answer(flusher)
    assert flusher.close() is None


@PATHS
@pytest.mark.parametrize("tail", [False, True], ids=["", "with releases"])
def test_a_session_ended_in_mid_flight(house: House, copy_from: int, tail: bool) -> None:
    flusher = house.flusher(copy_from)
    (mine,) = house.owned(1)
    for n in range(4):
        step(flusher, str(n))
    if tail:
        flusher.add_release(mine, "completed", b"1", None, None, "r")
    batch = flusher.take()
    with psycopg.connect(house.dsn) as other:
        other.execute(f"lock table {house.schema}.{'instances' if tail else 'history'} in share mode")
        flusher.send(batch)
        waiting = "select count(*) from pg_locks where pid = %s and not granted"
        while house.one(waiting, flusher.backend_pid) == 0:
            if select.select([flusher.fileno], [], [], 0.005)[0]:
                assert flusher.ready() is None
        house.one("select pg_terminate_backend(%s)", flusher.backend_pid)
        with pytest.raises(ConnectionError, match=r"terminating connection|closed the connection"):
            answer(flusher)
        assert flusher.close() is batch
        assert batch.again
        assert batch.tags == ["0", "1", "2", "3"] + ["r"] * tail
    assert house.names() == []
    flusher.connect(house.dsn, house.worker, [])
    assert send_and_wait(flusher, batch)[0] == "committed"
    assert house.names() == ["0", "1", "2", "3"]
    assert house.one("select status from @.instances") == ("completed" if tail else "running")


def test_no_server_no_connection(house: House, tmp_path: Any) -> None:
    flusher = Flusher(named_queries("flush", house.schema))
    for dsn, text in ((f"host={tmp_path}", "No such file"), ("nonsense", "missing"), (house.dsn + "&dbname=no", "no")):
        with pytest.raises(ConnectionError, match=text):
            flusher.connect(dsn, None, [])
        assert not flusher.connected
    with pytest.raises(ConnectionError, match=r"set-up of the connection failed: .*does_not_exist"):
        flusher.connect(house.dsn, None, ["select does_not_exist"])
    with pytest.raises(ConnectionError, match="preparing a statement failed"):
        Flusher(named_queries("flush", "no_such_schema")).connect(house.dsn, None, [])
    with pytest.raises(ConnectionError, match="no connection"):
        flusher.ready()
    with pytest.raises(RuntimeError, match="no connection"):
        flusher.send(flusher.take())
    assert flusher.close() is None


def test_one_batch_flies_at_a_time(house: House) -> None:
    flusher = house.flusher()
    step(flusher, "a")
    assert flusher.flying_for_s == 0.0
    flusher.send(flusher.take())
    assert not flusher.idle
    step(flusher, "b")
    second = flusher.take()
    with pytest.raises(RuntimeError, match="already flying"):
        flusher.send(second)
    assert answer(flusher)[0] == "committed"
    assert send_and_wait(flusher, second)[0] == "committed"
    assert house.names() == ["a", "b"]


def test_after_a_fork_the_child_may_not_use_the_parent_s_connection(house: House) -> None:
    flusher = house.flusher()
    step(flusher, "a")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            flusher.send(flusher.take())
        except RuntimeError as error:
            code = 0 if "belongs to the parent process" in str(error) else 2
        finally:
            flusher.close()
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    # The child closed its copy, which has not said goodbye to the server in our name.
    assert flush(flusher)[0] == "committed"


# --- adding -------------------------------------------------------------------------------------------------------


BAD_ROWS: dict[str, Callable[[Flusher], None]] = {
    "short id": lambda f: f.add_history(b"x" * 15, 1, 0, 0, 0.0, 1, "step", "s", b"1", None, None),
    "big seq": lambda f: f.add_history(b"x" * 16, 1, 2**31, 0, 0.0, 1, "step", "s", b"1", None, None),
    "text for a number": lambda f: f.add_history(b"x" * 16, 1, 0, 0, "0", 1, "step", "s", b"1", None, None),  # type: ignore[arg-type]
    "surrogate": lambda f: f.add_history(b"x" * 16, 1, 0, 0, 0.0, 1, "step", "\ud800", b"1", None, None),
    "text for bytes": lambda f: f.add_history(b"x" * 16, 1, 0, 0, 0.0, 1, "step", "s", "1", None, None),  # type: ignore[arg-type]
    "instance": lambda f: f.add_instance(b"x" * 16, "w", "1", "pending", "q", 2**63, b"{}", None),
    "release": lambda f: f.add_release(b"x" * 17, "completed", None, None, None, None),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_row_that_cannot_be_encoded_leaves_the_batch_as_it_was(house: House, what: str) -> None:
    flusher = house.flusher()
    step(flusher, "a")
    before = (flusher.waiting, flusher.waiting_bytes)
    with pytest.raises((ValueError, TypeError, OverflowError)):
        BAD_ROWS[what](flusher)
    assert (flusher.waiting, flusher.waiting_bytes) == before
    step(flusher, "b")
    kind, batch, _, _ = flush(flusher)
    assert (kind, batch.tags) == ("committed", ["a", "b"])
    assert house.names() == ["a", "b"]


# --- notifications, counters, memory ------------------------------------------------------------------------------


def test_notifications_are_told_without_repeats(house: House) -> None:
    flusher = house.flusher(setup=["listen heard"])
    assert flusher.notified() == set()
    for payload in ("a", "b", "a"):
        house.rows("select pg_notify('heard', %s)", payload)
    house.rows("select pg_notify('unheard', 'c')")
    found: set[str] = set()
    while found != {"a", "b"}:
        wait(flusher)
        assert flusher.ready() is None
        found |= flusher.notified()
    assert flusher.notified() == set()
    # Those that arrive with a batch's answer are kept as well.
    house.rows("select pg_notify('heard', 'd')")
    step(flusher, "s")
    assert flush(flusher)[0] == "committed"
    found = flusher.notified()
    while "d" not in found:  # the second "a" may have been on its way still
        wait(flusher)
        assert flusher.ready() is None
        found |= flusher.notified()
    assert found <= {"a", "d"}


def test_counters(house: House) -> None:
    flusher = house.flusher(3)
    empty = flusher.stats()
    assert empty == dict.fromkeys(("transitions", "history_rows", "flushes", "copies", "bytes"), 0) | dict.fromkeys(
        ("p50_ms", "p99_ms", "p999_ms")
    )
    nbytes = 0
    for rows in (1, 4):
        for n in range(rows):
            step(flusher, str(n))
        flusher.add_instance(bytes(6) + os.urandom(10), "w", "1", "pending", "q", None, b"{}", None)
        assert flusher.waiting == rows + 1
        nbytes += flusher.waiting_bytes
        assert flush(flusher)[0] == "committed"
        assert (flusher.waiting, flusher.waiting_bytes) == (0, 0)
    step(flusher, "refused", b"{")
    assert flush(flusher)[0] == "refused"
    found = flusher.stats(reset=True)
    assert found["p50_ms"] is not None
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["p999_ms"] < 60_000
    assert {name: found[name] for name in ("transitions", "history_rows", "flushes", "copies", "bytes")} == {
        "transitions": 7, "history_rows": 5, "flushes": 2, "copies": 1, "bytes": nbytes,
    }  # fmt: skip
    assert flusher.stats() == empty


def test_quantiles_of_latency_are_those_of_an_outside_clock(house: House) -> None:
    # Latencies from under a millisecond to some tens, each also taken here, around the core's own interval.
    from time import perf_counter

    flusher = house.flusher()
    low: list[float] = []
    high: list[float] = []
    for n in range(200):
        before = perf_counter()
        step(flusher, str(n))
        added = perf_counter()
        if n % 10 == 0:
            select.select([], [], [], 0.002 * (n // 10 % 10))
        flusher.send(flusher.take())
        while True:
            wait(flusher)
            asked = perf_counter()
            if flusher.ready() is not None:
                break
        low.append((asked - added) * 1e3)
        high.append((perf_counter() - before) * 1e3)
    found = flusher.stats()
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("p999_ms", 0.999)):
        rank = max(math.ceil(share * 200), 1) - 1
        # Buckets are 16 to a power of two: their middle is within 3.2 % of what they hold, and 1 us counts as none.
        assert sorted(low)[rank] * 0.96 - 0.002 <= found[name] <= sorted(high)[rank] * 1.04 + 0.002


def test_every_object_is_freed(house: House) -> None:
    gc.collect()
    before = _core.live_objects()
    for copy_from in (PIPELINE, COPY):
        for _ in range(20):
            flusher = Flusher(named_queries("flush", house.schema), copy_from)
            flusher.connect(house.dsn, house.worker, [])
            for n in range(6):
                step(flusher, str(n), b"{" if n == 3 else b"1")
            batch = flush(flusher)[1]
            parts = batch.split()
            flusher.send(parts[0])
            answer(flusher)
            flusher.send(parts[1])  # and nobody waits for it
            step(flusher, "left")
            del flusher, batch, parts
    gc.collect()
    assert _core.live_objects() == before
    sessions = "select count(*) from pg_stat_activity where pid <> pg_backend_pid() and query like %s"
    assert house.one(sessions, f"%{house.schema}%") == 0


def test_tags_are_let_go_with_their_batch(house: House) -> None:
    class Tag:
        alive = 0

        def __init__(self) -> None:
            Tag.alive += 1

        def __del__(self) -> None:
            Tag.alive -= 1

    flusher = house.flusher()
    for n in range(10):
        flusher.add_history(bytes(6) + os.urandom(10), 1, 0, 0, 0.0, 1, "step", str(n), b"1", None, Tag())
    assert Tag.alive == 10
    assert flush(flusher)[0] == "committed"
    gc.collect()
    assert Tag.alive == 0


def test_the_version_of_libpq_is_told() -> None:
    assert 140000 <= _core.libpq_version() < 300000
