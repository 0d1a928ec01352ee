"""What the tests across a network share: a migrated schema, and certificates."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.namespace import Namespace

from .gate import Certificates


@pytest.fixture
def ns(dsn: str, schema: str) -> Iterator[Namespace]:
    with Namespace(dsn, schema) as namespace:
        yield namespace


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))
