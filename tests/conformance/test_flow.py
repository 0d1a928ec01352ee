"""Sagas, sending between instances, continuing as new: the same on both stores."""

from __future__ import annotations

from typing import Any

import pytest

import pgdurable as pgd

from .worlds import World, scenario


@pgd.step
async def put(name: str) -> str:
    return name


@pgd.step
async def take_back(name: str) -> None:
    pass


@pgd.step(retry=pgd.Retry(max_attempts=1))
async def refuse() -> None:
    raise ValueError("no")


@pgd.workflow(name="conformance.saga")
async def makes_and_unmakes() -> None:
    async with pgd.saga() as s:
        await s.do(put, "a", undo=take_back)
        await s.do(put, "b", undo=take_back)
        await s.do(refuse)


@scenario
async def test_a_saga_undoes_what_it_did_last_one_first(world: World) -> None:
    handle = await world.start(makes_and_unmakes)
    with pytest.raises(pgd.InstanceFailed, match="no"):
        await handle.result(timeout=20)
    assert [entry.name for entry in await world.entries(handle)] == ["put", "put", "refuse", "take_back", "take_back"]


@pgd.workflow(name="conformance.letters")
async def letters(seen: list[str], ids: list[str]) -> list[Any]:
    seen.append(await pgd.wait_signal("letter"))
    ids.append(str(pgd.uuid4()))
    if seen[-1] != "stop":
        pgd.continue_as_new(seen, ids)
    return [seen, len(set(ids))]


@pgd.workflow(name="conformance.postman")
async def postman(id: str) -> str:
    for letter in ("a", "b", "c", "stop"):
        await pgd.signal(id, "letter", letter)
    try:
        await pgd.signal("nobody", "letter")
    except pgd.PgDurableError:
        return "done"
    return "?"


@scenario
async def test_one_that_continues_as_new_misses_no_signal_of_another(world: World) -> None:
    handle = await world.start(letters, [], [], id="box")
    sender = await world.start(postman, "box")
    assert await sender.result(timeout=20) == "done"
    assert await handle.result(timeout=20) == [["a", "b", "c", "stop"], 4]
