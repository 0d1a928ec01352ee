"""Exported histories: the format, redaction, and replaying them with code that fits and code that does not."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

import pgdurable as pgd
from pgdurable.testing import Simulation, replay
from pgdurable.testing._export import redacted
from pgdurable.workflow import Workflow


@dataclasses.dataclass
class Receipt:
    id: uuid.UUID
    at: dt.datetime
    cents: int
    note: str


@pgd.step
async def charge(card: str, cents: int) -> Receipt:
    return Receipt(uuid.UUID(int=7), dt.datetime(2031, 2, 3, tzinfo=dt.timezone.utc), cents, "paid by " + card)


@pgd.step
async def ship(receipt: Receipt) -> str:
    return "parcel"


@pgd.step(retry=pgd.Retry(max_attempts=2, initial=1))
async def refuse(why: str) -> None:
    raise ValueError(why)


async def _order(card: str) -> list[Any]:
    receipt = await charge(card, 4200)
    await asyncio.sleep(60)
    answer = await pgd.wait_signal("approval")
    try:
        await refuse("card 1234")
    except ValueError as error:
        return [await ship(receipt), answer, str(error)]
    return []


def _blocking(card: str) -> str:
    receipt = charge(card, 1)
    pgd.sleep(5)
    return ship(receipt)  # type: ignore[arg-type,return-value]


def order(**options: Any) -> Workflow[Any, Any]:
    return Workflow(_order, name="replay.order", **options)


blocking = Workflow(_blocking, name="replay.blocking")
broken = Workflow(_order, name="replay.broken")


async def recorded(redact: bool = False) -> str:
    async with Simulation(workflows=[order(), blocking]) as sim:
        done = await sim.start("replay.order", "4111-1111", id="o-1")
        await sim.settle()
        await done.signal("approval", {"by": "ann", "ok": True})
        await done.result()
        waiting = await sim.start("replay.order", "4222")
        blocked = await sim.start("replay.blocking", "4333")
        await blocked.result()
        await sim.run()
        return sim.export(done, waiting, blocked, redact=redact)


async def test_code_that_has_not_changed_follows() -> None:
    done, waiting, blocked = replay([order(), blocking], await recorded())
    assert (done.id, done.workflow, done.version, done.status) == ("o-1", "replay.order", "1", "completed")
    assert done.events == 6
    assert done.ended
    assert done.result == ["parcel", {"by": "ann", "ok": True}, "card 1234"]
    assert (waiting.status, waiting.ended, waiting.events, waiting.waits_for) == ("running", False, 2, ())
    assert (blocked.result, blocked.events) == ("parcel", 3)


async def test_one_workflow_takes_its_own_from_a_file_of_many(tmp_path: Path) -> None:
    file = tmp_path / "histories.jsonl"
    file.write_text(await recorded())
    assert [each.id for each in replay(blocking, file)] != []
    assert len(replay(order(version="7"), file)) == 2  # it is the caller's word that this version is to follow
    assert len(replay(order(), file.read_bytes())) == 2
    assert len(replay(order(), iter(file.read_text().splitlines()))) == 2


async def test_the_first_difference_is_told() -> None:
    async def reordered(card: str) -> list[Any]:
        await asyncio.sleep(60)
        return [await charge(card, 4200)]

    with pytest.raises(pgd.NonDeterminismError) as caught:
        replay(Workflow(reordered, name="replay.order"), await recorded())
    text = str(caught.value)
    assert "instance o-1 (workflow replay.order v1) does not replay its history" in text
    assert "first difference: event 1, command #0" in text
    assert "history:  step 'charge', arguments #" in text
    assert "code now: timer" in text
    assert "pgdurable resume" not in text  # nothing is paused here
    assert "version=" in text


async def test_an_end_that_differs_is_told() -> None:
    text = await recorded()

    async def goes_on(card: str) -> list[Any]:
        found = await _order(card)
        await charge(card, 1)
        return found

    expected = r"(?s)does not end.*history:  ended completed.*waits for #4 step 'charge'"
    with pytest.raises(pgd.NonDeterminismError, match=expected):
        replay(Workflow(goes_on, name="replay.order"), text)

    async def fails(card: str) -> None:
        await _order(card)
        raise RuntimeError("new")

    with pytest.raises(pgd.NonDeterminismError, match="code now: ended failed: RuntimeError: new"):
        replay(Workflow(fails, name="replay.order"), text)

    async def shorter(card: str) -> None:
        await charge(card, 4200)

    with pytest.raises(pgd.NonDeterminismError, match="nothing: the workflow has ended"):
        replay(Workflow(shorter, name="replay.order"), text)


async def test_arguments_that_differ_are_told_unless_redacted() -> None:
    async def dearer(card: str) -> list[Any]:
        await charge(card, 4300)
        await asyncio.sleep(60)
        return [await pgd.wait_signal("approval"), await refuse("x")]

    with pytest.raises(pgd.NonDeterminismError, match="event 1, command #0"):
        replay(Workflow(dearer, name="replay.order"), await recorded())
    text = await recorded(redact=True)
    done, *_ = replay([order(), blocking], text)
    assert done.ended
    assert done.result == ["xxxxxx", {"by": "xxx", "ok": True}, "xxxxxxxxx"]

    async def reordered(card: str) -> None:
        await asyncio.sleep(60)

    with pytest.raises(pgd.NonDeterminismError, match="code now: timer"):
        replay(Workflow(reordered, name="replay.order"), text)


async def test_redaction_leaves_no_value_but_its_shape() -> None:
    text = await recorded(redact=True)
    for secret in ("4111", "4200", "1234", "ann", "parcel", "paid by", "Traceback"):
        assert secret not in text
    first = [json.loads(line) for line in text.splitlines()][1]
    assert first["payload"] == {
        "id": "00000000-0000-0000-0000-000000000000", "at": "2000-01-01T00:00:00Z", "cents": 0,
        "note": "x" * len("paid by 4111-1111"),
    }  # fmt: skip
    assert redacted(["12.50", "2031-02-03", 1.5, None, True, {"k": "-3"}]) == [
        "00.00", "2000-01-01", 0.0, None, True, {"k": "-0"},
    ]  # fmt: skip


async def test_what_is_encrypted_needs_its_keys() -> None:
    keys = pgd.Encryption({"a": pgd.Encryption.new_key()})
    async with Simulation(workflows=[order()], encryption=keys) as sim:
        handle = await sim.start("replay.order", "4111")
        await handle.signal("approval", 1)
        await handle.result()
        text = sim.export(handle)
    assert "4111" not in text
    assert "approval" in text
    with pytest.raises(pgd.PgDurableError, match="encrypted"):
        replay(order(), text)
    assert replay(order(), text, encryption=keys)[0].result[0] == "parcel"


async def test_inputs_that_no_longer_fit_are_told() -> None:
    async def more(card: str, currency: str) -> None: ...

    with pytest.raises(pgd.InvalidInput, match="instance o-1: its input does not fit workflow"):
        replay(Workflow(more, name="replay.order"), await recorded())


async def test_files_that_are_none_are_refused_with_their_line(tmp_path: Path) -> None:
    text = await recorded()
    lines = text.splitlines()
    cases = [
        ("", "there is no instance in it"),
        ("nonsense", "line 1"),
        ("\n".join(lines[:3]), "the history of instance o-1 is cut off"),
        ("\n".join([*lines[:3], *lines[4:]]), "instance o-1 has 5 events here, 6 there"),
        ("\n".join(lines[1:]), "line 1: there is no instance that this event belongs to"),
        (text.replace('"version":1,"payloads"', '"version":9,"payloads"'), "version 9 of the format"),
        (text.replace('"kind":"step"', '"kind":5'), r"line 2: Expected `str`, got `int`"),
        ("\n".join([lines[0], *lines]), "another instance begins before the history of o-1 has ended"),
    ]
    for case, message in cases:
        with pytest.raises(pgd.InvalidInput, match=message):
            replay(order(), case)
    file = tmp_path / "h.jsonl"
    file.write_text("{}")
    with pytest.raises(pgd.InvalidInput, match=r"h\.jsonl, line 1"):
        replay(order(), file)
    with pytest.raises(pgd.InvalidInput, match=r"histories of replay\.blocking, replay\.order, and no such workflow"):
        replay(broken, text)


@pgd.workflow(name="replay.counts")
async def counts(left: int) -> int:
    await asyncio.sleep(60)
    if left:
        pgd.continue_as_new(left - 1)
    return int(await pgd.wait_signal("go"))


async def test_an_instance_that_continued_as_new_is_replayed_from_there() -> None:
    async with Simulation() as sim:
        handle = await sim.start(counts, 2)
        await sim.run()
        (waiting,) = replay(counts, sim.export(handle))
        assert (waiting.events, waiting.ended) == (1, False)
        await handle.signal("go", 5)
        assert await handle.result() == 5
        assert replay(counts, sim.export(handle))[0].result == 5
        copy = await handle.fork(from_event=1)
        await copy.signal("go", 6)
        assert await copy.result() == 6
        assert replay(counts, sim.export(copy))[0].result == 6
