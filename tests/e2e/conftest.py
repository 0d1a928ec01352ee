"""What the end-to-end tests share: a migrated schema to run engines on, and proof that no error went unseen."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from pgdurable.embedded import EmbeddedServer

from .namespace import Namespace


@pytest.fixture
def ns(dsn: str, schema: str) -> Iterator[Namespace]:
    with Namespace(dsn, schema) as namespace:
        yield namespace


@pytest.fixture
def private_ns(private_server: EmbeddedServer, private_schema: str) -> Iterator[Namespace]:
    """A schema on the server that the test may stop and restart."""
    with Namespace(private_server.dsn, private_schema) as namespace:
        yield namespace


@pytest.fixture(autouse=True)
def _no_unseen_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test in which the engine met an error of its own, or asyncio one that nobody looked at."""
    caplog.set_level(logging.INFO, "pgdurable")
    yield
    unseen = [
        record.getMessage() + ("" if record.exc_info is None else f": {record.exc_info[1]!r}")
        for phase in ("setup", "call")
        for record in caplog.get_records(phase)
        if record.levelno >= logging.ERROR
        and (record.name == "asyncio" or record.getMessage().startswith("error while"))
    ]
    assert not unseen
