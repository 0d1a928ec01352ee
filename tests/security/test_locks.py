"""Advisory locks are every role's in PostgreSQL; docs/operations.md says how to close them. That is tried here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import errors, sql

import pgdurable as pgd
from pgdurable._store.migrations import migrate
from pgdurable.embedded import EmbeddedServer

from .conftest import House

PAGE = (Path(__file__).parent.parent.parent / "docs" / "operations.md").read_text()


@pgd.step
async def double(n: int) -> int:
    return 2 * n


@pgd.workflow(name="security_locks")
async def doubled(n: int) -> int:
    return await double(n)


@pytest.fixture
def closed(private_server: EmbeddedServer, private_schema: str) -> Iterator[House]:
    """A house on a server of its own, whose advisory locks are closed as the page says."""
    house = House(private_server.dsn, private_schema)
    try:
        house.login("owner", "nosuperuser createrole")
        house.root.execute(
            sql.SQL("grant create on database {} to {}").format(
                sql.Identifier(house.root.info.dbname), sql.Identifier(house.name("owner"))
            )
        )
        migrate(house.dsn_of("owner"), house.schema, roles=True)
        house.admit()
        block = next(b for b in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL) if "advisory" in b)
        block = block.replace("to durable_worker, durable_admin", "to @worker, @admin, @owner")
        house.root.execute(house.text(block))
        yield house
    finally:
        house.root.execute(
            "do $$ declare f regprocedure; begin for f in select p.oid from pg_proc p"
            " where p.proname ~ '^pg_(try_)?advisory_' loop"
            " execute format('grant execute on function %s to public', f); end loop; end $$"
        )
        house.tidy()


async def test_who_is_no_worker_takes_no_lock_and_workers_work(closed: House) -> None:
    for call in ("pg_advisory_lock(1)", "pg_try_advisory_lock_shared(1, 2)", "pg_advisory_xact_lock(1, 2)",
                 "pg_advisory_unlock_all()"):  # fmt: skip
        for who in ("ann", "eve", "rex"):
            with pytest.raises(errors.InsufficientPrivilege):
                closed.rows(who, f"select {call}")
    async with closed.engine("wes", doubled) as engine, closed.client("ann") as client:
        assert await (await client.start(doubled, 4)).result(timeout=30) == 8
        assert await (await engine.start(doubled, 5, id="five")).result(timeout=30) == 10
    assert not migrate(closed.dsn_of("owner"), closed.schema).changed
