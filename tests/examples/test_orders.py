"""The demo of examples/orders: it runs to its end, its proof can fail, and it leaves nothing running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgdurable import EmbeddedServer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # `examples` is no part of the installed package
from examples.orders import proof  # noqa: E402

ORDERS = 150
ALL_CHECKS = {*proof.CHECKS, proof.NOTHING_LOST, proof.ADDRESSES, proof.JOURNEYS}
CLOSED = "every cent is in one closing"


def demo(*options: str) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if name != "PGDURABLE_DSN"}
    return subprocess.Popen(
        [sys.executable, "-m", "examples.orders", *options],
        cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@dataclass
class Kept:
    """A run of the demo that is over, its database kept and running."""

    path: Path
    dsn: str
    exit_code: int
    said: str


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    # Not pytest's own folder: another pytest that starts meanwhile takes away others' right to pass through that.
    with tempfile.TemporaryDirectory(prefix="pgdurable-orders-") as folder:
        path = Path(folder) / "shop"
        process = demo("--orders", str(ORDERS), "--keep", str(path))
        said, _ = process.communicate()
        with EmbeddedServer(path) as server:
            yield Kept(path, server.dsn, process.returncode, said)


@pytest.fixture
def books(kept: Kept) -> Iterator[psycopg.Connection[Any]]:
    """The shop after the run, in a transaction that is rolled back: change what you like."""
    with psycopg.connect(kept.dsn) as conn:
        yield conn
        conn.rollback()


def told(conn: psycopg.Connection[Any]) -> proof.Told:
    query = "select input ->> 'order_id', id from durable.instances where workflow = 'order'"
    return proof.Told(dict(conn.execute(query).fetchall()))


def wrong(conn: psycopg.Connection[Any], told: proof.Told) -> set[str]:
    return {name for name, lines in proof.check(conn, told).items() if lines}


def test_the_demo_ends_well(kept: Kept) -> None:
    assert kept.exit_code == 0, kept.said
    for words in (f"{ORDERS} of {ORDERS}", "steps/s", "latency p50", "latency p99", "database crashed", "recovered"):
        assert words in kept.said, kept.said
    assert kept.said.count("killed (SIGKILL)") == 2
    answers = {line[:46].strip(): line[46:].strip() for line in kept.said.splitlines()}
    assert {name: answers.get(name) for name in ALL_CHECKS} == dict.fromkeys(ALL_CHECKS, "yes")


def test_the_run_was_eventful(kept: Kept, books: psycopg.Connection[Any]) -> None:
    """A proof over orders to which nothing happened would prove nothing."""

    def found(query: str) -> set[Any]:
        return {row[0] for row in books.execute(query)}

    ends = "select distinct coalesce(output ->> 'end', status) from durable.instances where workflow = 'order'"
    assert found(ends) == {"shipped", "refunded", "declined", "cancelled"}
    whys = found("select distinct output ->> 'why' from durable.instances")
    assert whys >= {"not enough money", "out of stock", "no approval in time", "the card is blocked"}
    kinds = found("select distinct kind from durable.history")
    assert kinds >= {"step", "attempt", "timer", "signal", "child", "child_end", "update", "state", "cancel"}
    assert "completed" in found("select status from durable.updates where name = 'redirect'")
    assert len(found("select closing from shop.closings where cents > 0")) > 2
    assert found("select partition from durable.instances where workflow = 'packing'") == {"north", "south", "harbour"}
    taken_over = books.execute("select count(*) from durable.instances where takeovers > 0").fetchall()[0][0]
    assert taken_over > 10


# What to do to the books, and which checks must notice. {id} is the first order that ended as `end` says.
VIOLATIONS: dict[str, tuple[str, str, set[str]]] = {
    "a balance off by one": (
        "shipped",
        "update shop.accounts set cents = cents + 1 where id = (select (input ->> 'account')::int from ord)",
        {"every balance is what the orders say"},
    ),
    "a double charge": (
        "shipped",
        "with again as (insert into shop.ledger select now(), l.order_id, l.account, l.kind, l.cents"
        " from shop.ledger l, ord where l.order_id = ord.order_id returning account, cents)"
        " update shop.accounts a set cents = a.cents - again.cents from again where a.id = again.account",
        {"none was charged twice, none missed", "every balance is what the orders say", CLOSED},
    ),
    "a double charge that the balance hides": (
        "shipped",
        "insert into shop.ledger select l.* from shop.ledger l, ord where l.order_id = ord.order_id",
        {"none was charged twice, none missed", CLOSED},
    ),
    "an order that was never charged": (
        "shipped",
        "delete from shop.ledger where order_id = (select order_id from ord)",
        {"none was charged twice, none missed", CLOSED},
    ),
    "a charge of the wrong account": (
        "shipped",
        "update shop.ledger set account = account + 1 where order_id = (select order_id from ord)",
        {"none was charged twice, none missed", "the books hold nothing else"},
    ),
    "a charge of the wrong amount": (
        "shipped",
        "update shop.ledger set cents = cents + 1 where order_id = (select order_id from ord)",
        {"none was charged twice, none missed", CLOSED},
    ),
    "a charge for a declined order": (
        "declined",
        "insert into shop.ledger select now(), order_id, (input ->> 'account')::int, 'debit',"
        " (input ->> 'cents')::bigint from ord",
        {"none was charged twice, none missed", CLOSED},
    ),
    "a refund that was not paid": (
        "refunded",
        "delete from shop.ledger where kind = 'refund' and order_id = (select order_id from ord)",
        {"every refund was paid once", CLOSED},
    ),
    "a refund for a shipped order": (
        "shipped",
        "insert into shop.ledger select now(), l.order_id, l.account, 'refund', l.cents"
        " from shop.ledger l, ord where l.order_id = ord.order_id",
        {"every refund was paid once", CLOSED},
    ),
    "a lost order": (
        "shipped",
        "delete from durable.instances where id = (select id from ord)",
        {
            "every acknowledged start is there",
            "the books hold nothing else",
            "every balance is what the orders say",
            "every shelf holds what the orders say",
        },
    ),
    "a lost order that had done nothing": (
        "declined",
        "delete from durable.instances where id = (select id from ord)",
        {"every acknowledged start is there"},
    ),
    "an order started twice": (
        "declined",
        "insert into durable.instances (id, workflow, status, input, output)"
        " select gen_random_uuid(), workflow, status, input, output from ord",
        {"no order exists twice"},
    ),
    "an order that hangs": (
        "declined",
        "update durable.instances set status = 'waiting' where id = (select id from ord)",
        {"every order came to its end"},
    ),
    "an order that failed": (
        "declined",
        "update durable.instances set status = 'failed' where id = (select id from ord)",
        {"every order came to its end"},
    ),
    "an order that does not say how it ended": (
        "declined",
        "update durable.instances set output = null where id = (select id from ord)",
        {"every order came to its end"},
    ),
    "a shelf off by one": (
        "shipped",
        "update shop.stock set n = n + 1 where sku = (select input ->> 'sku' from ord)",
        {"every shelf holds what the orders say"},
    ),
    "goods taken twice": (
        "shipped",
        "insert into shop.stock_moves select m.* from shop.stock_moves m, ord where m.order_id = ord.order_id",
        {"goods left once, or came back"},
    ),
    "goods nobody ordered": (
        "shipped",
        "insert into shop.stock_moves values (now(), '0-00000', 'sku-01', 1)",
        {"the books hold nothing else"},
    ),
    "goods that never came back": (
        "cancelled",
        "insert into shop.stock_moves select now(), order_id, input ->> 'sku', (input ->> 'n')::int from ord",
        {"goods left once, or came back"},
    ),
    "money that never came back": (
        "cancelled",
        "with gone as (delete from shop.ledger l using ord where l.order_id = ord.order_id)"
        " insert into shop.ledger select now(), order_id, (input ->> 'account')::int, 'debit',"
        " (input ->> 'cents')::bigint from ord",
        {"every refund was paid once", CLOSED},
    ),
    "a closing that is off by one": (
        "shipped",
        "update shop.closings set cents = cents + 1 where closing = (select max(closing) from shop.closings)",
        {CLOSED},
    ),
    "a line in no closing": (
        "shipped",
        "update shop.ledger set closing = null where order_id = (select order_id from ord)",
        {CLOSED},
    ),
    "a tick that closed the books twice": (
        "shipped",
        "insert into shop.closings select now(), max(closing), 0 from shop.closings",
        {CLOSED},
    ),
    "a parcel packed twice": (
        "shipped",
        "insert into durable.instances (id, workflow, status, input, parent)"
        " select gen_random_uuid(), i.workflow, i.status, i.input, i.parent from durable.instances i, ord"
        " where i.parent = ord.id",
        {"every parcel was packed once"},
    ),
    "a parcel that nobody packed": (
        "shipped",
        "update durable.instances set status = 'cancelled' where parent = (select id from ord)",
        {"every parcel was packed once"},
    ),
    "more parcels at once than hands": (
        "shipped",
        "update durable.instances set finished_at = 'infinity' where workflow = 'packing' and partition = 'north'",
        {"no depot had more at once than hands"},
    ),
    "a parcel to somewhere else": (
        "shipped",
        "update durable.instances set output = jsonb_set(output, '{label}', '\"to somewhere else\"')"
        " where id = (select id from ord)",
        {proof.ADDRESSES},
    ),
    "a change of address that was confirmed and forgotten": (
        "shipped",
        "insert into durable.updates (instance_id, key, name, status, result, answered_at)"
        """ select id, gen_random_uuid(), 'redirect', 'completed', '"goes to elsewhere"', now() from ord""",
        {proof.ADDRESSES},
    ),
    "a place told twice": (
        "shipped",
        "insert into durable.stream_items (instance_id, position, writer, n, stream, item)"
        " select s.instance_id, s.position + 100, s.writer, s.n + 100, s.stream, s.item"
        " from durable.stream_items s, ord where s.instance_id = ord.id and s.item = '\"at the door\"'",
        {proof.JOURNEYS},
    ),
    "a place that was lost": (
        "shipped",
        "delete from durable.stream_items where instance_id = (select id from ord) and item = '\"on the van\"'",
        {proof.JOURNEYS},
    ),
    "a step checkpointed twice": (
        "shipped",
        "insert into durable.history (instance_id, event_id, seq, attempt, kind, name)"
        " select h.instance_id, h.event_id + 1000, h.seq, h.attempt, h.kind, h.name"
        " from durable.history h, ord where h.instance_id = ord.id and h.kind = 'step' limit 1",
        {"no step was checkpointed twice"},
    ),
}


@pytest.mark.parametrize("planted", VIOLATIONS)
def test_the_proof_fails_on(planted: str, books: psycopg.Connection[Any]) -> None:
    end, statement, expected = VIOLATIONS[planted]
    promised = told(books)
    assert not wrong(books, promised)
    books.execute(
        "create temp table ord on commit drop as select id, workflow, status, input, output,"
        " input ->> 'order_id' as order_id from durable.instances"
        " where workflow = 'order' and coalesce(output ->> 'end', status) = %s order by id limit 1",
        (end,),
    )
    assert books.execute(statement).rowcount >= 1
    assert wrong(books, promised) == expected


def test_the_proof_fails_on_what_a_customer_was_told(books: psycopg.Connection[Any]) -> None:
    """The books are right, and it is not what somebody outside was told."""
    query = "select input ->> 'order_id' from durable.instances where output ->> 'end' = 'shipped' limit 1"
    ((shipped,),) = books.execute(query).fetchall()
    assert wrong(books, proof.Told(started={shipped: uuid.uuid4()})) == {proof.NOTHING_LOST}
    assert wrong(books, proof.Told(addresses={shipped: "elsewhere"})) == {proof.ADDRESSES}
    for places in (["left the depot"] * 2, ["left the depot", "on the van"], [], ["at the door", "on the van"]):
        assert wrong(books, proof.Told(places={shipped: places})) == {proof.JOURNEYS}


def test_the_readme_queries_answer(books: psycopg.Connection[Any]) -> None:
    readme = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    *queries, approval = (
        readme.partition("```sql\n")[2].partition("```")[0].replace("1-03000", "1-00123").split(";\n")[:-1]
    )
    assert len(queries) >= 5
    for query in queries:
        assert books.execute(query).fetchall(), query
    with pytest.raises(psycopg.Error, match="has ended"):
        books.execute(approval)


def test_every_check_has_been_seen_to_fail() -> None:
    assert set().union(*(expected for _, _, expected in VIOLATIONS.values())) == ALL_CHECKS


def test_a_violation_is_named_and_ends_in_an_error(kept: Kept) -> None:
    """The same through the command, over the kept database."""

    def check() -> tuple[int, str]:
        process = demo("--keep", str(kept.path), "--check")
        said, _ = process.communicate()
        return process.returncode, said

    assert check()[0] == 0
    with psycopg.connect(kept.dsn, autocommit=True) as conn:
        conn.execute("update shop.accounts set cents = cents - 1 where id = 7")
        try:
            code, said = check()
        finally:
            conn.execute("update shop.accounts set cents = cents + 1 where id = 7")
    assert code == 1
    assert "Not so: every balance is what the orders say" in said
    assert "account 7 has" in said


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the process tree from /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running(sent: signal.Signals, eventually: Callable[..., None]) -> None:
    process = demo("--orders", "400")
    assert process.stdout is not None
    said = ""
    try:
        while "worker 2 started" not in said:
            line = process.stdout.readline()
            assert line, f"the demo ended early:\n{said}"
            said += line
        started = descendants(process.pid)
        assert len(started) >= 2, "a worker and the supervisor of the server"
        server = server_of(started)
        started |= {server, *descendants(server)}
        process.send_signal(sent)
        said += process.communicate(timeout=30)[0]
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == (-signal.SIGKILL if sent == signal.SIGKILL else 130)
    eventually(lambda: not [pid for pid in started if running(pid)], f"all of {sorted(started)} are gone", 15)


def stat(pid: int) -> list[str]:
    """State, parent and the rest of /proc/PID/stat; nothing when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def running(pid: int) -> bool:
    return stat(pid)[:1] not in ([], ["Z"])


def server_of(pids: set[int]) -> int:
    """The postmaster, which is no child of the supervisor that started it."""
    for pid in pids:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(b"_embedded_supervisor" in argument for argument in arguments):
            home = json.loads(next(argument for argument in arguments if argument.startswith(b"{")))["home"]
            return int(Path(home, "pgdata", "postmaster.pid").read_text().split()[0])
    raise AssertionError("no supervisor among the processes")


def descendants(pid: int) -> set[int]:
    parents = {int(p.name): int(s[1]) for p in Path("/proc").iterdir() if p.name.isdigit() and (s := stat(int(p.name)))}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}
