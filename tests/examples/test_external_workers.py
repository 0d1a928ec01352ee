"""The external workers of examples/external, as somebody would run them: in psql, and in Node."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from databases import database
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from pgdurable._store.migrations import migrate

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "external"
NODE = ROOT / ".test-servers" / "node"
Eventually = Callable[..., None]

LABELS = [
    {"op": "external", "name": "print", "queue": "labels", "input": {"order": "$order", "text": "$text"}, "into": "p"},
    {"op": "value", "value": "$p"},
]


def missing(what: str) -> None:
    """Fails in CI where there is none, and says so elsewhere."""
    pytest.fail(what) if os.environ.get("CI") else pytest.skip(what)


@pytest.fixture
def shop(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A database of the test's own with the schema `durable`, as the examples have it."""
    with database(dsn) as own:
        migrate(own, "durable")
        with psycopg.connect(own, autocommit=True) as conn:
            conn.execute("create table labels (order_id text primary key, text text not null, printed_at timestamptz)")
            conn.execute("select durable.define('label', %s)", [Jsonb(LABELS)])
            yield conn


@pytest.fixture
def node(tmp_path: Path) -> str:
    """Node, with the example and what it needs in the test's folder."""
    found = shutil.which("node")
    if found is None or not (NODE / "node_modules" / "pg").is_dir():
        missing("there is no Node here, or its library is missing: make test sets it up (scripts/setup_node.sh)")
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    for name in ("worker.mjs", "package.json"):
        shutil.copy(EXAMPLES / "node" / name, tmp_path)
    assert found is not None
    return found


def environment(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """What libpq's clients, and Node's, read of it."""
    found = conninfo_to_dict(conn.info.dsn)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "password": "PGPASSWORD"}
    given = {names[key]: str(value) for key, value in found.items() if key in names}
    given["PGPASSWORD"] = conn.info.password or ""
    return {**os.environ, **given}


def start(conn: psycopg.Connection[Any], n: int) -> str:
    id = f"order/{n}"
    conn.execute("select durable.start('label', %s, id => %s)", [Jsonb({"order": id, "text": f"to {n}"}), id])
    conn.execute("call durable.work('1 s')")
    return id


def outputs(conn: psycopg.Connection[Any]) -> dict[str, Any]:
    conn.execute("call durable.work('1 s')")
    rows = conn.execute(
        "select k.id, i.output from durable.instances i join durable.instance_keys k on k.instance_id = i.id"
        " where i.status = 'completed'"
    )
    return dict(rows.fetchall())


def test_the_worker_in_psql(shop: psycopg.Connection[Any], eventually: Eventually) -> None:
    psql = shutil.which("psql")
    if psql is None:
        missing("there is no psql here")
        return
    ids = [start(shop, n) for n in range(3)]
    worker = subprocess.Popen(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(EXAMPLES / "worker.sql")],
        env=environment(shop), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        eventually(lambda: len(outputs(shop)) == 3, "three labels are printed")
        ids.append(start(shop, 3))
        eventually(lambda: len(outputs(shop)) == 4, "and one that came later")
    finally:
        worker.terminate()
        said, _ = worker.communicate(timeout=20)
    assert outputs(shop) == {id: {"label": id} for id in ids}, said
    assert shop.execute("select count(*) from labels").fetchone() == (4,)


def test_the_worker_in_node(shop: psycopg.Connection[Any], eventually: Eventually, tmp_path: Path, node: str) -> None:
    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [node, "worker.mjs", "labels"], cwd=tmp_path, env=environment(shop), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    ids = [start(shop, n) for n in range(20)]
    # What cannot be done fails, and is tried again by the workflow's policy: this label is there already.
    shop.execute("insert into labels (order_id, text) values ('order/99', 'before')")
    failing = start(shop, 99)
    worker = begin()
    try:
        eventually(lambda: len(outputs(shop)) == 20, "all labels are printed")
        assert outputs(shop) == {id: {"printed": id} for id in ids}
        text = "select h.error ->> 'message' from durable.history h where h.instance_id = durable.find_instance(%s)"
        eventually(lambda: shop.execute(text, [failing]).fetchone(), "the failure is recorded")
        assert "duplicate key" in str(shop.execute(text, [failing]).fetchone())
        worker.terminate()
        assert worker.wait(20) == 0  # in good order
    finally:
        worker.kill()
        said, _ = worker.communicate(timeout=20)
    assert shop.execute("select count(*) from labels").fetchone() == (21,), said


def test_a_worker_in_node_that_is_killed_leaves_its_step_to_another(
    shop: psycopg.Connection[Any], eventually: Eventually, tmp_path: Path, node: str
) -> None:
    pages = [{"op": "external", "name": "render", "queue": "labels", "input": {"pages": "$pages"}, "into": "r"},
             {"op": "value", "value": "$r"}]  # fmt: skip
    shop.execute("select durable.define('render', %s)", [Jsonb(pages)])
    shop.execute("select durable.start('render', '{\"pages\": 100000000}', id => 'book')")
    shop.execute("call durable.work('1 s')")
    worker = subprocess.Popen([node, "worker.mjs", "labels"], cwd=tmp_path, env=environment(shop))
    try:
        beats = "select (details ->> 'page')::int > 20 from durable.tasks"
        eventually(lambda: shop.execute(beats).fetchone() == (True,), "it has said how far it is")
    finally:
        worker.kill()
        worker.wait(20)
    (page,) = shop.execute("select (details ->> 'page')::int from durable.tasks").fetchone() or (0,)
    # As if its lease had run out: no need to wait for it.
    shop.execute("update durable.tasks set lease_until = now(), run_at = now()")
    rows = shop.execute("select attempt, details from durable.claim_external('labels')").fetchall()
    assert rows[0][0] == 2
    assert rows[0][1]["page"] >= page > 20
    shop.execute("select durable.complete_step('book', 'render', '1', attempt => 2)")
    assert outputs(shop) == {"book": 1}
