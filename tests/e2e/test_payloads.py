"""Large payloads are kept once, apart from the rows, read as if they were not; what cannot be read harms itself."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import timedelta
from typing import Any

import numpy
import psycopg
import pytest

import pgdurable as pgd
from pgdurable._engine.connections import close_pool, make_pool
from pgdurable._engine.sweeper import Sweeper
from pgdurable.errors import InstanceFailed, InstancePaused, PayloadBroken

from .namespace import Namespace, status_is, until

SIZE = 100 * 1024
RAN: list[str] = []


@pgd.step
async def large(letter: str) -> str:
    RAN.append(letter)
    return letter * SIZE


@pgd.transaction
async def large_in_a_transaction(tx: Any, letter: str) -> str:
    RAN.append(letter)
    await tx.execute("select 1")
    return letter * SIZE


@pgd.transaction
def large_in_a_thread(tx: Any, letter: str) -> str:
    RAN.append(letter)
    tx.execute("select 1")
    return letter * SIZE


@pgd.workflow(name="payload_all")
async def everything(text: str) -> dict[str, Any]:
    found = {"input": text, "step": await large("s"), "tx": await large_in_a_transaction("t")}
    found["thread"] = await large_in_a_thread("u")
    found["signal"] = await pgd.wait_signal("go", type=str)
    found["again"] = await large("s")
    return found


@pgd.workflow(name="payload_sum")
async def size_of(text: str) -> int:
    return len(text)


@pgd.workflow(name="payload_signal")
async def receives() -> Any:
    return await pgd.wait_signal("go")


def kept(ns: Namespace, handle: Any) -> int:
    return ns.one("select count(*) from @.payloads where instance_id = %s", handle.instance_id)


EXPECTED = {
    "input": "i" * SIZE, "step": "s" * SIZE, "tx": "t" * SIZE, "thread": "u" * SIZE, "signal": "g" * SIZE,
    "again": "s" * SIZE,
}  # fmt: skip


@pytest.mark.parametrize("codecs", ["none", "encrypted", "compressed"])
async def test_everything_large_is_kept_apart_and_reads_as_ever(ns: Namespace, codecs: str) -> None:
    """Also by another engine, which replays it; and nothing runs twice."""
    RAN.clear()
    options: dict[str, Any] = {"park_after": 0.0}
    if codecs == "encrypted":
        options["encryption"] = pgd.Encryption({"k": pgd.Encryption.new_key()})
    if codecs == "compressed":
        options["compression"] = pgd.Compression()
    async with ns.engine(everything, **options) as engine:
        handle = await engine.start(everything, "i" * SIZE, id="one")
        await until(lambda: len(RAN) == 3, "three steps")
        await until(lambda: len(ns.history(handle)) == 3, "three checkpoints")
    async with ns.engine(everything, **options) as engine:
        handle = await engine.get("one", type=dict[str, Any])
        await handle.signal("go", "g" * SIZE)
        assert await handle.result(30) == EXPECTED
        assert RAN == ["s", "t", "u", "s"]
        info = await handle.describe()
        assert (info.input, info.output) == ({"text": "i" * SIZE}, EXPECTED)
        values = [entry.value async for entry in handle.history()]
        assert values == [
            info.input,
            *(EXPECTED[word] for word in ("step", "tx", "thread", "signal", "again")),
            EXPECTED,
        ]
    rows = ns.sql("select payload::text from @.history") + ns.sql("select input::text from @.instances")
    rows += ns.sql("select output::text from @.instances")
    assert len(rows) == 7
    assert max(len(text) for (text,) in rows) < (1000 if codecs == "compressed" else 200)
    if codecs == "none":
        # Input, step (twice the same), transaction, thread, signal, output. The signal was written as SQL writes it.
        assert kept(ns, handle) in (6, 7)
        assert ns.one("select @.result('one')") == EXPECTED
        steps = ns.sql("select name, result from @.steps order by event_id")
        assert [result for _, result in steps] == [EXPECTED[word] for word in ("step", "tx", "thread", "again")]
    elif codecs == "encrypted":
        assert kept(ns, handle) == 7
        assert "s" * 16 not in str(ns.sql("select data from @.payloads"))
    else:
        assert kept(ns, handle) == 0  # they shrink below the threshold


async def test_a_payload_below_the_threshold_stays_in_its_row(ns: Namespace) -> None:
    ns.sql("update @.settings set value = '4096' where name = 'payload_aside'")
    async with ns.engine(size_of) as engine:
        for size in (4000, 5000):
            assert await (await engine.start(size_of, "x" * size, id=str(size))).result(10) == size
    for size in (4000, 5000):
        stored = ns.one("select input from @.instances where id = @.find_instance(%s)", str(size))
        assert (stored == {"text": "x" * size}) == (size == 4000)
    assert ns.one("select count(*) from @.payloads") == 1


async def test_however_it_is_started(ns: Namespace) -> None:
    many = 3
    async with ns.client() as client:
        handles = [
            await client.start(size_of, "x" * SIZE),
            await client.start(size_of, "x" * SIZE, id="mine"),
            *await client.start_many(size_of, ["x" * SIZE, "y", "z" * SIZE] * many),
            *await client.start_many(size_of, (text for text in ["x" * SIZE] * many)),
        ]
        id = ns.one("select @.start('payload_sum', jsonb_build_object('text', repeat('x', %s)))", SIZE)
        handles.append(await client.get(id))
        assert ns.one("select count(*) from @.payloads") == 2 + 2 * many + many + 1
        async with ns.engine(size_of) as engine:
            own = [await engine.start(size_of, "x" * SIZE), await engine.start(size_of, "x" * SIZE, id="own")]
            own += await engine.start_many(size_of, ["x" * SIZE] * many)
            sizes = [await handle.result(30) for handle in handles + own]
    assert sizes == [SIZE, SIZE, *[SIZE, 1, SIZE] * many, *[SIZE] * many, SIZE, *[SIZE] * (2 + many)]
    assert ns.one("select max(pg_column_size(input)) from @.instances") < 200


async def test_arrays_of_large_texts_run_as_well(ns: Namespace) -> None:
    async with ns.client() as client, ns.engine(size_of):
        column = numpy.array(["x" * 40_000, "y"])
        handles = await client.start_many(size_of, {"text": column})
        assert [await handle.result(30) for handle in handles] == [40_000, 1]


async def test_debounced_starts_and_starts_with_a_key_keep_them_apart_and_leave_none_behind(ns: Namespace) -> None:
    async with ns.client() as client:
        for letter in "abc":
            handle = await client.start(size_of, letter * SIZE, debounce=3600, key="page")
        for letter in "xy":
            keyed = await client.start(size_of, letter * (SIZE + 1), queue="keyed", dedup="one")
    assert ns.sql("select distinct length(input::text) < 200 from @.instances") == [(True,)]
    # None of the inputs that were replaced, and none of the start that started nothing.
    assert set(ns.sql("select instance_id, count(*) from @.payloads group by 1")) == {
        (keyed.instance_id, 1), (handle.instance_id, 1),
    }  # fmt: skip
    ns.sql("update @.instances set wake_at = now()")
    async with ns.engine(size_of) as engine:
        assert await (await engine.get(handle.id)).result(20) == SIZE
        assert await (await engine.get(keyed.id)).result(20) == SIZE + 1
        await (await engine.get(handle.id)).delete()
    assert ns.one("select count(*) from @.payloads") == 1


async def test_they_leave_with_their_instance(ns: Namespace) -> None:
    async with ns.engine(size_of, receives) as engine:
        for n in range(3):
            await (await engine.start(size_of, "x" * SIZE + str(n))).result(10)
        stays = await engine.start(receives)
        await engine.stop()
    ns.sql("select @.signal(%s, 'go', to_jsonb(repeat('x', %s)))", stays.id, SIZE)
    assert ns.one("select count(*) from @.payloads") == 4
    pool = await make_pool(ns.dsn, max_size=2)
    swept = await Sweeper(pool, ns.schema, hurry=True).sweep(timedelta(0))
    await close_pool(pool)
    assert swept.removed == 3
    assert ns.sql("select instance_id from @.payloads") == [(stays.instance_id,)]


async def test_a_fork_has_them_and_a_deleted_instance_leaves_none(ns: Namespace) -> None:
    async with ns.engine(everything) as engine:
        first = await engine.start(everything, "i" * SIZE, id="first")
        await until(lambda: len(ns.history(first)) == 3, "three checkpoints")
        copy = await engine.get(ns.one("select @.fork('first', 4, new_id => 'copy')"), type=dict[str, Any])
        for handle in (first, copy):
            await handle.signal("go", "g" * SIZE)
        assert await copy.result(30) == EXPECTED
        assert await first.result(30) == EXPECTED
        there = kept(ns, copy)
        assert there >= 6
        assert ns.one("select @.delete('first')") is True
    assert ns.one("select count(*) from @.payloads") == there
    assert ns.one("select @.result('copy')") == EXPECTED


def test_a_fork_has_published_state_whole(ns: Namespace) -> None:
    ((source, copy),) = ns.sql("select @.new_id(), @.new_id()")
    ns.sql("insert into @.payloads (instance_id, hash, data) values (%s, 'h', '\"large\"')", source)
    ns.sql(
        "insert into @.history (instance_id, event_id, seq, kind, name, payload) values (%s, 1, 0, 'state', 'k', %s)",
        source, json.dumps({"$pgdurable:aside": {"hash": "h", "size": 7}}),
    )  # fmt: skip
    ns.sql("select @.copy_history(%s, %s, 2)", source, copy)
    assert ns.sql("select key, value from @.states where instance_id = %s", copy) == [("k", "large")]


@pgd.workflow(name="payload_ever")
async def for_ever(n: int, text: str) -> Any:
    await large(chr(ord("a") + n))
    if n < 3:
        pgd.continue_as_new(n + 1, "n" * SIZE + str(n))
    return await pgd.wait_signal("go")


async def test_those_of_runs_that_have_left_go_with_them(ns: Namespace) -> None:
    async with ns.engine(for_ever, park_after=0.0) as engine:
        handle = await engine.start(for_ever, 0, "x" * SIZE)
        await until(lambda: ns.instance(handle, "first_event") > 0 and kept(ns, handle) == 1 + 3 + 4, "the last run")
        await status_is(handle, "waiting")
        ns.sql("update @.history set recorded_at = now() - interval '90 days'")
        ns.sql("update @.payloads set written_at = now() - interval '90 days'")
        # The first input, the last one, and the last step's result are still referred to.
        assert ns.one("select @.sweep_runs(1000)") > 0
        assert kept(ns, handle) == 3
        await handle.signal("go", 7)
        assert await handle.result(30) == 7
        assert (await handle.describe()).input["n"] in (0, 3)


async def test_a_payload_that_has_just_been_written_again_stays(ns: Namespace) -> None:
    id = ns.one("select @.start('nobody_has_it', jsonb_build_object('text', repeat('x', 100000)))")
    ns.sql("update @.payloads set written_at = now() - interval '90 days'")
    text = ns.one("select @.put_aside(%s, input) ? '$pgdurable:aside' from (select @.whole(id, input) as input"
                  " from @.instances where id::text = %s) i", id, id)  # fmt: skip
    assert text is True
    assert ns.one("select count(*) from @.payloads where written_at > now() - interval '1 hour'") == 1


# -- what cannot be read


def damage(ns: Namespace, how: str, handle: Any, column: str = "input") -> None:
    text = {
        "packed": json.dumps({"$pgdurable:packed": {"how": "zlib", "data": base64.b64encode(b"no zlib").decode()}}),
        "aside": json.dumps({"$pgdurable:aside": {"hash": "0" * 32, "size": 1}}),
        "deep": "[" * 3000 + "]" * 3000,
        "type": '{"text": 7}',
        "scalar": "7",
    }[how]
    ns.sql(f"update @.instances set {column} = %s where id = %s", text, handle.instance_id)


@pytest.mark.parametrize("how", ["packed", "aside", "deep", "type", "scalar"])
async def test_an_undecodable_input_fails_and_strands_nobody_claimed_with_it(ns: Namespace, how: str) -> None:
    async with ns.client() as client:
        handles = await client.start_many(size_of, ["x"] * 50)
        for bad in (handles[0], handles[20], handles[49]):
            damage(ns, how, bad)
        async with ns.engine(size_of):
            for n, handle in enumerate(handles):
                if n in (0, 20, 49):
                    with pytest.raises(InstanceFailed, match="ended failed") as failed:
                        await handle.result(30)
                    assert handle.id in str(failed.value)
                else:
                    assert await handle.result(30) == 1
    assert ns.sql("select status, count(*) from @.instances group by 1 order by 1") == [
        ("completed", 47),
        ("failed", 3),
    ]


async def test_an_undecodable_input_of_a_start_by_id_fails_too(ns: Namespace) -> None:
    id = ns.one("""select @.start('payload_sum', '{"$pgdurable:aside": {"hash": "x"}}', id => 'one')""")
    async with ns.engine(size_of) as engine:
        with pytest.raises(InstanceFailed, match="kept apart for its size, and not there"):
            await (await engine.get(id)).result(30)


async def test_a_marker_leads_to_nobody_elses_payload(ns: Namespace) -> None:
    """Whoever may start instances cannot read another's input by its hash."""
    async with ns.engine(size_of) as engine:
        await (await engine.start(size_of, "secret" * SIZE)).result(10)
        marker = json.dumps(ns.one("select input from @.instances"))
        with pytest.raises(InstanceFailed, match="not there"):
            await (await engine.get(ns.one("select @.start('payload_sum', %s::jsonb)", marker))).result(10)


async def test_an_instance_of_a_later_format_is_paused_and_never_run(ns: Namespace) -> None:
    """Whether it has begun or not; who was claimed with it goes on, and so does it once somebody knows its format."""
    RAN.clear()
    async with ns.engine(everything, size_of, park_after=0.0) as engine:
        begun = await engine.start(everything, "x")
        await until(lambda: len(ns.history(begun)) == 3, "three checkpoints")
    assert RAN == ["s", "t", "u"]
    async with ns.client() as client:
        fresh, beside = await client.start_many(size_of, ["later", "now"])
        ns.sql("update @.instances set format = 2 where id in (%s, %s)", begun.instance_id, fresh.instance_id)
        await (await client.get(begun.id)).signal("go", "g")
        async with ns.engine(everything, size_of, park_after=0.0) as engine:
            assert await beside.result(20) == 3
            for later in (await client.get(begun.id), fresh):
                for _ in range(2):  # resumed, it is refused again
                    with pytest.raises(InstancePaused, match=f"{later.id}.*written in format 2"):
                        await later.result(20)
                    assert await later.resume()
                await status_is(later, "paused")  # refused a third time
            assert RAN == ["s", "t", "u"]
            assert len(ns.history(begun)) == 3
            ns.sql("update @.instances set format = 1")
            for later in (await client.get(begun.id), fresh):
                await later.resume()
                await later.result(20)
            assert RAN[:3] == ["s", "t", "u"]


@pytest.mark.parametrize("how", ["packed", "aside"])
async def test_a_history_that_cannot_be_read_pauses_its_instance_alone(ns: Namespace, how: str) -> None:
    RAN.clear()
    async with ns.engine(everything, size_of, park_after=0.0) as engine:
        handle = await engine.start(everything, "x")
        await until(lambda: len(ns.history(handle)) == 3, "three checkpoints")
    text = json.dumps({"$pgdurable:aside": {"hash": "0", "size": 1}} if how == "aside" else {"$pgdurable:packed": {}})
    ns.sql("update @.history set payload = %s where event_id = 1", text)
    async with ns.engine(everything, size_of, park_after=0.0) as engine:
        handle = await engine.get(handle.id)
        await handle.signal("go", "g")
        other = await engine.start(size_of, "xyz")
        with pytest.raises(InstancePaused, match=r"checkpoint of step .*large is"):
            await handle.result(30)
        assert await other.result(10) == 3
        assert RAN == ["s", "t", "u"]


@pytest.mark.parametrize("how", ["packed", "deep", "aside"])
async def test_a_signal_that_cannot_be_read_pauses_its_instance_alone(ns: Namespace, how: str) -> None:
    payload = {
        "packed": '{"$pgdurable:packed": {"how": "zlib", "data": "!"}}', "deep": "[" * 3000 + "]" * 3000,
        "aside": '{"$pgdurable:aside": {}}',
    }[how]  # fmt: skip
    async with ns.engine(receives) as engine:
        bad, good = await engine.start(receives), await engine.start(receives)
        ns.sql("select @.signal(%s, 'go', %s::jsonb)", bad.id, payload)
        await good.signal("go", 7)
        assert await good.result(30) == 7
        await status_is(bad, "paused")
        later = await engine.start(receives)
        await later.signal("go", 8)
        assert await later.result(30) == 8


async def test_a_broken_result_is_said_to_whoever_asks_for_it(ns: Namespace) -> None:
    async with ns.engine(size_of) as engine:
        handle = await engine.start(size_of, "x")
        await handle.result(10)
    damage(ns, "packed", handle, "output")
    async with ns.client() as client:
        with pytest.raises(PayloadBroken, match=f"instance {handle.id}: result is compressed, .* damaged"):
            await (await client.get(handle.id)).result(10)
        assert (await (await client.get(handle.id)).describe()).status == "completed"


# -- compression


async def test_compressed_and_plain_side_by_side(ns: Namespace) -> None:
    text = "abc" * 2000
    async with ns.engine(size_of, compression=pgd.Compression()) as engine:
        packed = await engine.start(size_of, text)
        assert await packed.result(10) == 6000
    assert list(ns.instance(packed, "input")) == ["$pgdurable:packed"]
    async with ns.engine(receives) as engine, ns.client(compression=pgd.Compression("zstd")) as client:
        plain = await engine.start(receives)
        await (await client.get(plain.id)).signal("go", text)
        assert await plain.result(10) == text
        info = await (await engine.get(packed.id)).describe()
        assert info.input == {"text": text}


async def test_a_client_without_rights_to_the_tables_starts_large_ones(ns: Namespace) -> None:
    """By the functions, which put them apart themselves."""
    async with ns.engine(size_of) as engine, ns.client() as client:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "pgdurable._engine.bulk.BulkSender._copy",
                lambda *args: _refuse(),
            )
            handles = await client.start_many(size_of, ["x" * SIZE, "y"])
        assert [await handle.result(30) for handle in handles] == [SIZE, 1]
        assert engine.metrics()["ended"] == 2
    assert ns.one("select count(*) from @.payloads") == 1


async def _refuse() -> None:
    await asyncio.sleep(0)
    raise psycopg.errors.InsufficientPrivilege("permission denied for table instances")
