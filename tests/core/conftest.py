"""Proof that the core's tests leave none of the core's objects behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pgdurable import _core


@pytest.fixture(scope="package", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    gc.collect()
    before = _core.live_objects()
    yield
    gc.collect()
    assert _core.live_objects() == before
