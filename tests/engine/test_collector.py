"""The garbage collector is eased while an engine is open, and given back."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

import pgdurable as pgd
from pgdurable._engine import collector
from pgdurable._store.migrations import migrate


@pgd.workflow(name="collector_nothing")
async def nothing() -> None:
    return None


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int, int]]:
    """As if no engine had been open before: other tests leave some behind, as a crash would."""
    monkeypatch.setattr(collector, "_open", 0)
    monkeypatch.setattr(collector, "_before", None)
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield (700, 10, 10)
    gc.set_threshold(*before)


async def test_it_is_eased_while_any_engine_is_open(dsn: str, schema: str, usual: tuple[int, int, int]) -> None:
    migrate(dsn, schema)
    async with pgd.Engine(dsn, schema=schema, workflows=[nothing]):
        assert gc.get_threshold() == collector.THRESHOLD
        async with pgd.Engine(dsn, schema=schema, workflows=[nothing]):
            assert gc.get_threshold() == collector.THRESHOLD
        assert gc.get_threshold() == collector.THRESHOLD
    assert gc.get_threshold() == usual


async def test_who_has_chosen_a_threshold_keeps_it(dsn: str, schema: str, usual: tuple[int, int, int]) -> None:
    migrate(dsn, schema)
    gc.set_threshold(1234, 5, 6)
    async with pgd.Engine(dsn, schema=schema, workflows=[nothing]):
        assert gc.get_threshold() == (1234, 5, 6)
    assert gc.get_threshold() == (1234, 5, 6)


async def test_who_chooses_one_meanwhile_keeps_it(dsn: str, schema: str, usual: tuple[int, int, int]) -> None:
    migrate(dsn, schema)
    async with pgd.Engine(dsn, schema=schema, workflows=[nothing]):
        gc.set_threshold(1234, 5, 6)
    assert gc.get_threshold() == (1234, 5, 6)


async def test_an_engine_that_cannot_open_leaves_it(dsn: str, schema: str, usual: tuple[int, int, int]) -> None:
    with pytest.raises(pgd.SchemaError):
        await pgd.Engine(dsn, schema=schema, workflows=[nothing]).open()
    assert gc.get_threshold() == usual
