"""Transaction steps: isolation of their own, conflicts that the server ends one side of, SQLAlchemy sessions."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest
from sqlalchemy import Integer, String, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import pgdurable as pgd

from .namespace import Namespace, until

ONCE = pgd.Retry(max_attempts=1)


# --- isolation and conflicts --------------------------------------------------------------------------------------


def _doctors(ns: Namespace, blocking: bool) -> Any:
    """Write skew: each looks whether another is on call before it leaves. Serializable lets one of two go."""
    ns.sql("create table @.doctors (name text primary key, on_call bool not null)")
    ns.sql("insert into @.doctors values ('ann', true), ('bob', true)")
    both = threading.Barrier(2)
    ran: list[str] = []
    schema = ns.schema
    left, gone = f"select count(*) from {schema}.doctors where on_call", f"update {schema}.doctors set on_call = false"

    @pgd.transaction(name="leave", isolation="serializable", retry=ONCE)
    async def leave(tx: psycopg.AsyncConnection[Any], name: str) -> bool:
        ran.append(name)
        row = await (await tx.execute(left)).fetchone()
        if ran.count(name) == 1:
            await asyncio.to_thread(both.wait, 20)
        if row is None or row[0] < 2:
            return False
        await tx.execute(f"{gone} where name = %s", (name,))
        return True

    @pgd.transaction(name="leave", isolation="serializable", retry=ONCE)
    def leave_blocking(tx: psycopg.Connection[Any], name: str) -> bool:
        ran.append(name)
        row = tx.execute(left).fetchone()
        if ran.count(name) == 1:
            both.wait(20)
        if row is None or row[0] < 2:
            return False
        tx.execute(f"{gone} where name = %s", (name,))
        return True

    step = leave_blocking if blocking else leave

    @pgd.workflow
    async def shift(name: str) -> bool:
        return await step(name)

    return shift, ran


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_serialization_failure_is_tried_again_and_is_no_failed_attempt(ns: Namespace, blocking: bool) -> None:
    shift, ran = _doctors(ns, blocking)
    async with ns.engine(shift) as engine:
        handles = [await engine.start(shift, name) for name in ("ann", "bob")]
        left = [await h.result(timeout=30) for h in handles]
    assert sorted(left) == [False, True]
    assert len(ran) == 3
    assert ns.one("select count(*) from @.doctors where on_call") == 1
    assert ns.sql("select kind, attempt from @.history") == [("step", 1)] * 2


async def test_each_isolation_is_what_it_says_and_the_next_step_has_its_own(ns: Namespace) -> None:
    async def level(tx: psycopg.AsyncConnection[Any]) -> str:
        return (await (await tx.execute("show transaction_isolation")).fetchone())[0]  # type: ignore[index]

    def level_blocking(tx: psycopg.Connection[Any]) -> str:
        return tx.execute("show transaction_isolation").fetchone()[0]  # type: ignore[index]

    levels: list[Any] = ["serializable", "repeatable read", None, "read committed", "serializable"]
    steps = [pgd.transaction(isolation=one)(fn) for fn in (level, level_blocking) for one in levels]

    @pgd.workflow
    async def asks() -> list[str]:
        return [await step() for step in steps]

    async with ns.engine(asks, max_connections=1) as engine:
        found = await (await engine.start(asks)).result(timeout=20)
    assert found == [one or "read committed" for one in levels] * 2


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_deadlock_is_tried_again_and_takes_effect_once(ns: Namespace, blocking: bool) -> None:
    ns.sql("create table @.accounts (id int primary key, balance int not null)")
    ns.sql("insert into @.accounts values (1, 0), (2, 0)")
    both = threading.Barrier(2)
    ran: list[int] = []
    update = f"update {ns.schema}.accounts set balance = balance + 1 where id = %s"

    @pgd.transaction(name="both", retry=ONCE)
    async def cross(tx: psycopg.AsyncConnection[Any], first: int) -> None:
        ran.append(first)
        await tx.execute(update, (first,))
        if ran.count(first) == 1:
            await asyncio.to_thread(both.wait, 20)
        await tx.execute(update, (3 - first,))

    @pgd.transaction(name="both", retry=ONCE)
    def cross_blocking(tx: psycopg.Connection[Any], first: int) -> None:
        ran.append(first)
        tx.execute(update, (first,))
        if ran.count(first) == 1:
            both.wait(20)
        tx.execute(update, (3 - first,))

    step = cross_blocking if blocking else cross

    @pgd.workflow
    async def pair(first: int) -> None:
        await step(first)

    async with ns.engine(pair) as engine:
        for h in [await engine.start(pair, n) for n in (1, 2)]:
            await h.result(timeout=30)
    assert ns.sql("select balance from @.accounts") == [(2,), (2,)]
    assert len(ran) == 3


async def test_conflicts_without_end_are_a_failed_attempt_at_last(ns: Namespace) -> None:
    ran: list[int] = []

    @pgd.transaction(retry=pgd.Retry(max_attempts=2, initial=0.0))
    async def unlucky(tx: psycopg.AsyncConnection[Any]) -> None:
        ran.append(1)
        await tx.execute("do $$ begin raise exception using errcode = '40001'; end $$")

    @pgd.workflow
    async def one() -> str:
        try:
            await unlucky()
        except psycopg.Error as error:
            return str(error.__cause__.type)  # type: ignore[union-attr]
        except pgd.StepFailed as error:
            return error.type
        return ""

    async with ns.engine(one) as engine:
        h = await engine.start(one)
        assert "SerializationFailure" in await h.result(timeout=60)
    assert len(ran) == 42
    assert ns.history(h) == [("attempt", "unlucky", 1), ("step", "unlucky", 2)]


# --- SQLAlchemy ---------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Booking(Base):
    __tablename__ = "bookings"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    guest: Mapped[str] = mapped_column(String, unique=True)


@pytest.fixture
def booked(ns: Namespace) -> Any:
    ns.sql("create table @.bookings (id serial primary key, guest text not null unique)")
    Booking.__table__.schema = ns.schema
    yield ns
    Booking.__table__.schema = None


def _book(kind: str, ran: list[str], **options: Any) -> Any:
    makers: dict[str, Any] = {
        "AsyncSession": AsyncSession, "async_sessionmaker": async_sessionmaker(expire_on_commit=False),
        "Session": Session, "sessionmaker": sessionmaker(expire_on_commit=False),
    }  # fmt: skip

    @pgd.transaction(name="book", session=makers[kind], **options)
    async def book(session: AsyncSession, guest: str, then: str) -> int:
        ran.append(guest)
        booking = Booking(guest=guest)
        session.add(booking)
        if then == "commit":
            await session.commit()
            await session.refresh(booking)
        elif then == "rollback":
            await session.flush()
            await session.rollback()
        elif then == "raise":
            await session.flush()
            raise ValueError("changed my mind")
        elif then == "savepoint":
            async with session.begin_nested():
                await session.flush()
            try:
                async with session.begin_nested():
                    session.add(Booking(guest=guest))
                    await session.flush()
            except IntegrityError:
                pass
        await session.flush()
        return int((await session.execute(select(Booking.id).where(Booking.guest == guest))).scalar_one())

    @pgd.transaction(name="book", session=makers[kind], **options)
    def book_blocking(session: Session, guest: str, then: str) -> int:
        ran.append(guest)
        booking = Booking(guest=guest)
        session.add(booking)
        if then == "commit":
            session.commit()
            session.refresh(booking)
        elif then == "rollback":
            session.flush()
            session.rollback()
        elif then == "raise":
            session.flush()
            raise ValueError("changed my mind")
        elif then == "savepoint":
            with session.begin_nested():
                session.flush()
            try:
                with session.begin_nested():
                    session.add(Booking(guest=guest))
                    session.flush()
            except IntegrityError:
                pass
        session.flush()
        return int(session.execute(select(Booking.id).where(Booking.guest == guest)).scalar_one())

    return book if "sync" in kind else book_blocking


@pytest.mark.parametrize("kind", ["AsyncSession", "async_sessionmaker", "Session", "sessionmaker"])
async def test_a_session_is_the_step_s_own_transaction(booked: Namespace, kind: str) -> None:
    ran: list[str] = []
    book = _book(kind, ran, retry=ONCE)

    @pgd.workflow
    async def books() -> list[Any]:
        done = [await book("ann", ""), await book("bob", "commit"), await book("cid", "savepoint")]
        for guest, then in (("dan", "rollback"), ("eve", "raise"), ("ann", "")):
            try:
                await book(guest, then)
            except Exception as error:
                done.append(f"{type(error).__name__} {error}")
        return done

    async with booked.engine(books, max_connections=1) as engine:
        h = await engine.start(books)
        *ids, rolled_back, raised, twice = await h.result(timeout=30)
    assert all(isinstance(one, int) for one in ids)
    assert "rollback() was called on the session" in rolled_back
    assert "changed my mind" in raised
    assert "duplicate key" in twice
    assert [row for (row,) in booked.sql("select guest from @.bookings order by 1")] == ["ann", "bob", "cid"]
    assert len(ran) == 6


@pytest.mark.parametrize("kind", ["AsyncSession", "Session"])
async def test_a_session_s_work_and_its_checkpoint_are_one_commit(booked: Namespace, kind: str) -> None:
    """The connection is ended before the commit: nothing of the step has happened, and it is no failed attempt."""
    ran: list[str] = []
    schema = booked.schema

    @pgd.transaction(name="book", session=AsyncSession, retry=ONCE)
    async def book(session: AsyncSession, guest: str) -> None:
        ran.append(guest)
        session.add(Booking(guest=guest))
        await session.flush()
        if len(ran) == 1:
            await session.execute(text("select pg_terminate_backend(pg_backend_pid())"))

    @pgd.transaction(name="book", session=Session, retry=ONCE)
    def book_blocking(session: Session, guest: str) -> None:
        ran.append(guest)
        session.add(Booking(guest=guest))
        session.flush()
        if len(ran) == 1:
            session.execute(text("select pg_terminate_backend(pg_backend_pid())"))

    step = book if kind == "AsyncSession" else book_blocking

    @pgd.workflow
    async def books() -> None:
        await step("ann")

    async with booked.engine(books) as engine:
        h = await engine.start(books)
        await h.result(timeout=30)
        assert booked.history(h) == [("step", "book", 1)]
    assert len(ran) == 2
    assert booked.sql(f"select guest from {schema}.bookings") == [("ann",)]


async def test_a_session_s_serialization_failure_is_tried_again(booked: Namespace) -> None:
    ran: list[int] = []

    @pgd.transaction(session=AsyncSession, isolation="repeatable read", retry=ONCE)
    async def once_more(session: AsyncSession) -> str:
        ran.append(1)
        if len(ran) == 1:
            await session.execute(text("do $$ begin raise exception using errcode = '40001'; end $$"))
        return str((await session.execute(text("show transaction_isolation"))).scalar_one())

    @pgd.workflow
    async def one() -> str:
        return await once_more()

    async with booked.engine(one) as engine:
        h = await engine.start(one)
        assert await h.result(timeout=30) == "repeatable read"
        assert booked.history(h) == [("step", "once_more", 1)]
    assert len(ran) == 2


async def test_a_session_step_survives_the_engine(booked: Namespace) -> None:
    ran: list[str] = []
    hang = [True]

    @pgd.transaction(session=AsyncSession)
    async def book(session: AsyncSession, guest: str) -> None:
        ran.append(guest)
        session.add(Booking(guest=guest))
        await session.flush()
        if guest == "bob" and hang[0]:
            await asyncio.sleep(60)

    @pgd.workflow
    async def books() -> None:
        await book("ann")
        await book("bob")

    engine = booked.engine(books)
    await engine.open()
    h = await engine.start(books)
    await until(lambda: "bob" in ran, "the second runs")
    await engine.stop(drain=0)
    await engine.close()
    hang[0] = False
    async with booked.engine(books) as engine:
        await (await engine.get(h.id)).result(timeout=30)
    assert ran == ["ann", "bob", "bob"]
    assert booked.sql("select guest from @.bookings order by 1") == [("ann",), ("bob",)]
