"""Whatever a dropped machine leaves behind for the collector is collected within its own test."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest

from tests.runtime import harness


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that logs errors it does not expect: `@pytest.mark.usefixtures("noisy")` says it does."""
    yield
    for owner in list(harness.ALIVE):
        owner.drop()
    gc.collect()
    if "noisy" in request.fixturenames:
        return
    for phase in ("setup", "call", "teardown"):
        errors = [record for record in caplog.get_records(phase) if record.levelno >= logging.ERROR]
        assert not errors, [record.getMessage() for record in errors]


@pytest.fixture
def noisy() -> None:
    """This test expects errors in the log."""
