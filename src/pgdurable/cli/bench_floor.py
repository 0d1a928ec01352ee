"""What the server does without us: floors and ceilings to hold a figure against.

Each is the leanest client that Python allows: libpq itself (`psycopg.pq`), parameters encoded beforehand, one
connection, nothing adapted and nothing decoded. So a ratio to them flatters nobody.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from types import TracebackType

from psycopg import pq

from pgdurable._engine.ids import Ids
from pgdurable._store.sql import named_queries, quote_schema
from pgdurable.errors import ConnectionFailed, PgDurableError

__all__ = [
    "Bare",
    "Rows",
    "bare_inserts",
    "bare_starts",
    "bare_updates",
    "copy_again",
    "copy_instances_again",
    "make_bare_tables",
    "recorded_instances",
    "recorded_rows",
]

HEADER = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0"
_STEPS_OF_AN_INSTANCE = 10


class Bare:
    """One libpq connection. Every call blocks until the server has answered; errors are PgDurableError."""

    def __init__(self, dsn: str) -> None:
        self.pq = pq.PGconn.connect(dsn.encode())
        if self.pq.status != pq.ConnStatus.OK:
            text = self.pq.error_message.decode(errors="replace").strip()
            self.pq.finish()
            raise ConnectionFailed(f"cannot connect: {text}")

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.pq.finish()

    def run(self, statement: str) -> None:
        """Runs SQL without parameters."""
        self._check(self.pq.exec_(statement.encode()))

    def prepare(self, name: bytes, statement: str) -> None:
        self._check(self.pq.prepare(name, statement.encode()))

    def execute(self, name: bytes, params: list[bytes]) -> None:
        """Runs a prepared statement, its parameters in binary."""
        self._check(self.pq.exec_prepared(name, params, [1] * len(params), 1))

    def copy(self, statements: list[tuple[str, bytes]]) -> None:
        """Binary COPYs of rows into tables, in one transaction and one round trip more than there are tables."""
        conn = self.pq
        conn.send_query("; ".join(statement for statement, _ in statements).encode())
        data = iter([rows for _, rows in statements])
        while (result := conn.get_result()) is not None:
            if result.status == pq.ExecStatus.COPY_IN:
                conn.put_copy_data(HEADER + next(data) + b"\xff\xff")
                conn.put_copy_end()
            else:
                self._check(result)

    def fetch_copy(self, statement: str) -> list[bytes]:
        """The rows of a `copy ... to stdout (format binary)`, each as its bytes."""
        conn = self.pq
        self._check(conn.exec_(statement.encode()))
        rows = []
        while True:
            size, data = conn.get_copy_data(0)
            if size < 0:
                break
            row = bytes(data).removeprefix(HEADER)
            if row and row != b"\xff\xff":
                rows.append(row)
        while (result := conn.get_result()) is not None:
            self._check(result)
        return rows

    def _check(self, result: pq.abc.PGresult) -> None:
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COPY_OUT):
            raise PgDurableError(f"PostgreSQL refused: {result.error_message.decode(errors='replace').strip()}")


@dataclass(frozen=True)
class Rows:
    """Rows as the engine wrote them, in binary COPY form.

    Attributes:
        instances, history: one element per row, in the order of the table.
    """

    instances: list[bytes]
    history: list[bytes]


def make_bare_tables(bare: Bare, schema: str) -> None:
    """Empty tables `bare_history` and `bare_instances` with the columns, defaults and primary keys of the real ones."""
    quote_schema(schema)
    for table in ("history", "instances"):
        bare.run(f"drop table if exists {schema}.bare_{table}")
        bare.run(
            f"create table {schema}.bare_{table}"
            f" (like {schema}.{table} including defaults including constraints including storage,"
            f" primary key ({'instance_id, event_id' if table == 'history' else 'id'}))"
        )


def bare_inserts(bare: Bare, schema: str, number: int, payload: bytes = b"7") -> list[float]:
    """Seconds each of so many committed one-row inserts took: rows as the engine writes them for a step.

    Args:
        payload: the step's result as JSON.
    """
    bare.run("deallocate all")
    bare.prepare(
        b"bare_insert",
        f"insert into {schema}.bare_history"
        " (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload)"
        " values ($1::uuid, $2::int, $3::int, $4::int, $5::real, $6::smallint, $7::text, $8::text, $9::jsonb)",
    )
    constant = [
        struct.pack("!i", 12345), struct.pack("!f", 0.02), struct.pack("!h", 1), b"step", b"work", b"\1" + payload,
    ]  # fmt: skip
    clock, execute = time.perf_counter, bare.execute
    took = []
    instance = b""
    new_id = Ids(lambda: 0).new_id
    for n in range(number):
        event = n % _STEPS_OF_AN_INSTANCE + 1
        if event == 1:
            instance = new_id()
        params = [instance, struct.pack("!i", event), struct.pack("!i", event), *constant]
        began = clock()
        execute(b"bare_insert", params)
        took.append(clock() - began)
    return took


def bare_updates(bare: Bare, table: str, rows: list[int], number: int) -> list[float]:
    """Seconds each of so many committed `update TABLE set n = n + 1 where id = ...` took."""
    bare.run("deallocate all")
    bare.prepare(b"bare_update", f"update {table} set n = n + 1 where id = $1::int")
    clock, execute = time.perf_counter, bare.execute
    took = []
    for n in range(number):
        params = [struct.pack("!i", rows[n % len(rows)])]
        began = clock()
        execute(b"bare_update", params)
        took.append(clock() - began)
    return took


def recorded_rows(bare: Bare, schema: str, most: int = 50_000) -> Rows:
    """The first rows that engines wrote in this schema, at most so many of the history and their instances."""
    columns = _copied_columns(schema)
    return Rows(
        bare.fetch_copy(
            f"copy (select {columns['instances']} from {schema}.instances where id in (select distinct instance_id"
            f" from (select instance_id from {schema}.history limit {most}) h)) to stdout (format binary)"
        ),
        bare.fetch_copy(
            f"copy (select {columns['history']} from {schema}.history limit {most}) to stdout (format binary)"
        ),
    )


def copy_again(bare: Bare, schema: str, rows: Rows, history_per_commit: int) -> list[float]:
    """Seconds each commit took in which the rows went, by binary COPY, into emptied bare tables.

    Instances ride along with history in their proportion, as they do in the engine.
    """
    statements = named_queries("flush", schema)
    into_history, into_instances = (
        statements[name].replace(f"{schema}.", f"{schema}.bare_") for name in ("copy_history", "copy_instances")
    )
    bare.run(f"truncate {schema}.bare_history, {schema}.bare_instances")
    share = len(rows.instances) / max(len(rows.history), 1)
    commits = []
    done = 0
    for first in range(0, len(rows.history), history_per_commit):
        last = min(first + history_per_commit, len(rows.history))
        upto = len(rows.instances) if last == len(rows.history) else int(last * share)
        commit = [(into_history, b"".join(rows.history[first:last]))]
        if upto > done:
            commit.insert(0, (into_instances, b"".join(rows.instances[done:upto])))
        done = upto
        commits.append(commit)
    clock = time.perf_counter
    took = []
    for commit in commits:
        began = clock()
        bare.copy(commit)
        took.append(clock() - began)
    return took


def bare_starts(bare: Bare, schema: str, ids: list[bytes]) -> list[float]:
    """Seconds each committed one-row insert into `bare_instances` took, of rows as a start writes them."""
    bare.run("deallocate all")
    bare.prepare(
        b"bare_start",
        f"insert into {schema}.bare_instances (id, workflow, version, status, queue, owner, input)"
        " values ($1::uuid, $2::text, $3::text, $4::text, $5::text, null, $6::jsonb)",
    )
    clock = time.perf_counter
    took = []
    for id in ids:
        began = clock()
        bare.execute(b"bare_start", [id, b"bench_order", b"1", b"pending", b"default", b'\1[7, "sku-9"]'])
        took.append(clock() - began)
    return took


def recorded_instances(bare: Bare, schema: str, most: int = 50_000) -> list[bytes]:
    """The first instances in this schema, in binary COPY form."""
    columns = _copied_columns(schema)["instances"]
    return bare.fetch_copy(f"copy (select {columns} from {schema}.instances limit {most}) to stdout (format binary)")


def copy_instances_again(bare: Bare, schema: str, rows: list[bytes], per_commit: int) -> list[float]:
    """As `copy_again`, of instances alone."""
    into = named_queries("flush", schema)["copy_instances"].replace(f"{schema}.", f"{schema}.bare_")
    bare.run(f"truncate {schema}.bare_instances")
    commits = [b"".join(rows[first : first + per_commit]) for first in range(0, len(rows), per_commit)]
    took = []
    for commit in commits:
        began = time.perf_counter()
        bare.copy([(into, commit)])
        took.append(time.perf_counter() - began)
    return took


def _copied_columns(schema: str) -> dict[str, str]:
    """The columns the engine copies, by table, cut out of its own COPY statements."""
    statements = named_queries("flush", schema)
    found = {}
    for table in ("history", "instances"):
        text = statements[f"copy_{table}"]
        found[table] = " ".join(text[text.index("(") + 1 : text.index(")")].split())
    return found
