"""A step costs no more than it did, and nothing is left of an instance that has ended: see `ceilings`."""

from __future__ import annotations

import pytest

from .ceilings import CEILINGS
from .measure import measure, measures


@pytest.mark.parametrize("name", measures())
def test_costs_no_more_than_its_ceiling(name: str, dsn: str, schema: str) -> None:
    found = measure(name, dsn, schema)
    assert found
    over = {what: value for what, value in found.items() if not value <= CEILINGS[what]}
    assert over == {}, {what: CEILINGS[what] for what in over}


def test_a_leak_is_seen(dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measure of what is kept notices a process that keeps one small object per instance."""
    monkeypatch.setenv("PGDURABLE_GUARD_LEAK", "1")
    found = measure("kept", dsn, schema)
    assert found["blocks kept per ended instance"] > 0.9
    assert found["bytes kept per ended instance"] > CEILINGS["bytes kept per ended instance"]
