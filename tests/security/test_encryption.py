"""Encrypted payloads: nothing readable in the tables, nothing lost when a key is, nothing taken that was moved."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
from e2e.namespace import Namespace, status_is, until
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import pgdurable as pgd
from pgdurable import Encryption
from pgdurable.cli.app import app
from pgdurable.codec import decode_stored, encode
from pgdurable.encryption import place_of, sealed_with
from pgdurable.errors import PayloadSealed

MARK = "Zwiebelfisch"
OLD, NEW = Encryption.new_key(), Encryption.new_key()
ONE = bytes(range(16))


@pytest.fixture
def ns(dsn: str, schema: str) -> Iterator[Namespace]:
    with Namespace(dsn, schema) as namespace:
        yield namespace


@pgd.step(retry=pgd.Retry(initial=0.01))
async def echo(text: str, fail: bool = False) -> str:
    if fail and text not in failed:
        failed.append(text)
        raise LookupError(text)
    return text


failed: list[str] = []


@pgd.transaction
async def note(tx: Any, text: str) -> str:
    return text


@pgd.transaction
def note_in_thread(tx: Any, text: str) -> str:
    return text


@pgd.workflow(name="security_sealed")
async def sealed(text: str, fail: bool = False) -> list[str]:
    said = [await echo(text, fail), await note(text), await note_in_thread(text)]
    said.append(await pgd.wait_signal("more", type=str))
    said.append(await pgd.wait_signal("last", type=str))
    return said


@pgd.workflow(name="security_sealed_failure")
async def fails(text: str) -> None:
    raise LookupError(text)


def stored(ns: Namespace) -> str:
    """Everything in the tables of values, as text."""
    tables = ("instances", "history", "events")
    return "".join(str(ns.sql(f"select to_jsonb(t)::text from @.{table} t")) for table in tables)


# -- as values


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v), max_leaves=8))
def test_what_is_sealed_opens_again_and_never_twice_the_same(value: Any) -> None:
    keys = Encryption({"a": OLD, "b": NEW})
    data = encode(value) if "\\u0000" not in json.dumps(value) and not _odd(value) else b"[1]"
    box = keys.seal(ONE, "step 1", data)
    assert keys.open(ONE, "step 1", box) == data
    assert box != keys.seal(ONE, "step 1", data)
    as_jsonb = json.dumps(json.loads(box))  # with jsonb's spaces
    assert keys.open(uuid.UUID(bytes=ONE), "step 1", as_jsonb) == data


def _odd(value: Any) -> bool:
    try:
        encode(value)
    except pgd.CodecError:
        return True
    return False


@pytest.mark.parametrize("change", ["instance", "place", "key of that name", "bit", "cut", "not base64", "no envelope"])
def test_what_was_changed_or_moved_is_refused(change: str) -> None:
    keys = Encryption({"a": OLD})
    box: Any = keys.seal(ONE, "step 1", b'"x"')
    instance, place = ONE, "step 1"
    if change == "instance":
        instance = bytes(16)
    elif change == "place":
        place = "step 2"
    elif change == "key of that name":
        keys = Encryption({"a": NEW})
    elif change == "no envelope":
        box = b'{"$pgdurable:sealed":[]}'
    else:
        found = json.loads(box)
        raw = bytearray(base64.b64decode(found["$pgdurable:sealed"]["data"]))
        raw[-1] ^= change == "bit"
        raw = raw[:5] if change == "cut" else raw
        text = "!" if change == "not base64" else base64.b64encode(raw).decode()
        found["$pgdurable:sealed"]["data"] = text
        box = json.dumps(found)
    opened = keys.open(instance, place, box)
    with pytest.raises(PayloadSealed, match=r"does not open it|damaged") as refused:
        decode_stored(opened or b"")
    assert "resume" in str(refused.value)


def test_places_differ() -> None:
    rows = [("step", 1, "a", 1), ("step", 2, "a", 1), ("attempt", 1, "a", 1), ("attempt", 1, "a", 2),
            ("signal", None, "a", None), ("signal", None, "b", None)]  # fmt: skip
    assert len({place_of(*row) for row in rows} | {"input", "output", "error"}) == len(rows) + 3


@pytest.mark.parametrize("key", ["", "short", b"x" * 31, b"x" * 33, 7, None, "ä" * 44, "!" * 44])
def test_keys_that_are_none(key: Any) -> None:
    with pytest.raises(ValueError, match="new_key"):
        Encryption({"a": key})


def test_arguments_that_do_not_fit() -> None:
    for keys, options in (({}, {}), ({"": OLD}, {}), ({"a": OLD}, {"write": "b"}), ({"a": OLD}, {"plain": "maybe"})):
        with pytest.raises(ValueError, match=r"key|plain"):
            Encryption(keys, **options)  # type: ignore[arg-type]
    assert OLD not in repr(Encryption({"a": OLD})) + str(vars(Encryption({"a": OLD}))["_head"])


# -- in the tables


async def test_nothing_readable_is_stored(ns: Namespace) -> None:
    keys = Encryption({"2025": OLD})
    failed.clear()
    engine, client = ns.engine(sealed, fails, encryption=keys, park_after=0.0), ns.client(encryption=keys)
    async with engine, client:
        handles = [
            await engine.start(sealed, MARK, True), await engine.start(sealed, MARK, id="keyed"),
            await engine.start(sealed, MARK, priority=3), await client.start(sealed, MARK, id="from outside"),
            await client.start("security_sealed", MARK), *await engine.start_many(sealed, [MARK]),
            *await client.start_many(sealed, [MARK]), *await client.start_many(sealed, {"text": numpy.array([MARK])}),
        ]  # fmt: skip
        for handle in handles:
            await handle.signal("more", MARK)
            await handle.signal("last", MARK)
        for handle in handles:
            assert await handle.result(timeout=60) == [MARK] * 5
            assert (await handle.describe()).input["text"] == MARK if "text" in str(await handle.describe()) else True
        broken = await engine.start(fails, MARK)
        with pytest.raises(pgd.InstanceFailed, match=MARK):
            await broken.result(timeout=30)
        # Those with the keys read all of it.
        entries = [entry async for entry in handles[0].history()]
        assert [e.value for e in entries if e.kind in ("step", "signal")] == [MARK] * 5
        assert [e.error["message"] for e in entries if e.kind == "attempt" and e.error] == [MARK]
        assert (await broken.describe()).error["message"] == MARK  # type: ignore[index]
        assert await client.start(sealed, "other", id="keyed")  # the same id again starts nothing
    assert MARK not in stored(ns)
    assert ns.one("select count(*) from @.instances where not input ? '$pgdurable:sealed'") == 0
    assert ns.one("select count(*) from @.history where payload is not null and kind <> 'attempt'"
                  " and not payload ? '$pgdurable:sealed'") == 0  # fmt: skip


async def test_keys_are_changed_while_instances_run(ns: Namespace) -> None:
    """First every process gets the new key to read with, then to write with; the old one goes when nothing has it."""
    old = Encryption({"old": OLD})
    both_old = Encryption({"old": OLD, "new": NEW}, write="old")
    both_new = Encryption({"old": OLD, "new": NEW})
    only_new = Encryption({"new": NEW})
    async with ns.engine(sealed, encryption=old) as engine:
        handle = await engine.start(sealed, MARK, id="long")
        await until(lambda: ns.one("select count(*) from @.history") == 3, "its steps are recorded")
    async with ns.engine(sealed, encryption=both_old) as engine:
        handle = await engine.get("long")
        await handle.signal("more", "a")
        await until(lambda: ns.one("select count(*) from @.history") == 4, "the signal is recorded")
    async with ns.engine(sealed, encryption=both_new) as engine:
        handle = await engine.get("long", type=list[str])
        await handle.signal("last", "b")
        assert await handle.result(timeout=30) == [MARK, MARK, MARK, "a", "b"]
    used = "select payload -> '$pgdurable:sealed' ->> 'key' from @.history order by event_id"
    assert [key for (key,) in ns.sql(used)] == ["old"] * 4 + ["new"]
    async with ns.client(encryption=only_new) as client:
        assert await (await client.get("long")).result(timeout=30) == [MARK, MARK, MARK, "a", "b"]


@pytest.mark.parametrize("lost", ["input", "checkpoint", "signal", "all keys"])
async def test_without_the_key_an_instance_is_paused_and_goes_on_with_it(ns: Namespace, lost: str) -> None:
    key = {"input": "a", "checkpoint": "b", "signal": "c", "all keys": ""}[lost]
    everything = {"a": OLD, "b": NEW, "c": Encryption.new_key()}
    async with ns.client(encryption=Encryption(everything, write="a")) as client:
        await client.start(sealed, MARK, id="it")
    async with ns.engine(sealed, encryption=Encryption(everything, write="b")):
        await until(lambda: ns.one("select count(*) from @.history") == 3, "its steps are recorded")
    async with ns.client(encryption=Encryption(everything, write="c")) as client:
        await client.signal("it", "more", MARK)
    left = None if lost == "all keys" else Encryption({n: k for n, k in everything.items() if n != key})
    async with ns.engine(sealed, encryption=left) as engine:
        handle = await engine.get("it")
        await status_is(handle, "paused")
        with pytest.raises(pgd.InstancePaused, match="encrypted with key") as paused:
            await handle.result(timeout=30)
        if key:
            assert f"encrypted with key '{key}'" in str(paused.value)
    assert ns.one("select error ->> 'type' from @.instances") == "pgdurable.errors.PayloadSealed"
    assert ns.one("select count(*) from @.history") == 3  # nothing was done meanwhile
    assert ns.one("select count(*) from @.events") == 1
    async with ns.engine(sealed, encryption=Encryption(everything)) as engine:
        handle = await engine.get("it", type=list[str])
        assert await handle.resume()
        await handle.signal("last", "b")
        assert await handle.result(timeout=30) == [MARK, MARK, MARK, MARK, "b"]


async def test_a_result_without_the_key_says_what_is_missing(ns: Namespace) -> None:
    async with ns.engine(fails, encryption=Encryption({"a": OLD})) as engine:
        await engine.start(fails, MARK, id="it")
        await until(lambda: ns.one("select count(*) from @.instances where status = 'failed'") == 1, "it has failed")
    for encryption in (None, Encryption({"b": NEW})):
        async with ns.client(encryption=encryption) as client:
            handle = await client.get("it")
            with pytest.raises(PayloadSealed, match="key 'a'") as refused:
                await handle.result(timeout=30)
            assert refused.value.key == "a"
            info = await handle.describe()  # for looking at it, what is encrypted stays so
            assert sealed_with(info.input) is not None
            assert sealed_with(info.error) is not None


async def test_a_ciphertext_in_another_place_pauses_the_instance(ns: Namespace) -> None:
    """Somebody with access to the tables gives one instance what was meant for another."""
    keys = Encryption({"a": OLD})
    async with ns.engine(sealed, encryption=keys) as engine:
        for id, text in (("rich", "1000000"), ("poor", "1")):
            await engine.start(sealed, text, id=id)
        await until(lambda: ns.one("select count(*) from @.history") == 6, "their steps are recorded")
    ns.sql("update @.history h set payload = o.payload from @.history o where h.event_id = o.event_id"
           " and h.instance_id = @.find_instance('poor') and o.instance_id = @.find_instance('rich')")  # fmt: skip
    async with ns.engine(sealed, encryption=keys) as engine:
        handle = await engine.get("poor")
        await handle.signal("more", "x")
        await status_is(handle, "paused")
        with pytest.raises(pgd.InstancePaused, match="changed or moved"):
            await handle.result(timeout=30)


async def test_plain_payloads_are_taken_or_refused(ns: Namespace) -> None:
    for plain, status in (("accept", "waiting"), ("refuse", "paused")):
        ns.sql("select @.start('security_sealed', %s, %s)", json.dumps({"text": MARK}), plain)
        async with ns.engine(sealed, encryption=Encryption({"a": OLD}, plain=plain)) as engine:  # type: ignore[arg-type]
            handle = await engine.get(plain)
            if plain == "accept":
                for name in ("more", "last"):
                    ns.sql("select @.signal(%s, %s, '\"from SQL\"')", plain, name)
                assert await handle.result(timeout=30) == [MARK, MARK, MARK, "from SQL", "from SQL"]
                # What was plain on its way is not so in history.
                assert "from SQL" not in str(ns.sql("select payload from @.history"))
            else:
                await status_is(handle, status)
                with pytest.raises(pgd.InstancePaused, match="it is not encrypted"):
                    await handle.result(timeout=30)


async def test_show_says_what_is_encrypted(ns: Namespace) -> None:
    keys = Encryption({"2025-11": OLD})
    async with ns.engine(sealed, encryption=keys) as engine:
        await engine.start(sealed, MARK, id="it")
        await until(lambda: ns.one("select count(*) from @.history") == 3, "its steps are recorded")
    async with ns.client(encryption=keys) as client:
        await client.signal("it", "more", MARK)

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["--dsn", ns.dsn, "--schema", ns.schema, *words], prog_name="pgdurable")
        assert result.exit_code == 0, result.output
        return result.output

    told = run("show", "it")
    assert told.count("encrypted with key '2025-11'") == 6  # input twice, three checkpoints, the signal on its way
    assert MARK not in told
    async with ns.engine(sealed):
        await until(lambda: ns.one("select count(*) from @.instances where status = 'paused'") == 1, "it is paused")
    told = run("show", "it")
    assert "Give its workers the key" in told
    assert "encrypted with key '2025-11'" in run("list", "--json") + told
