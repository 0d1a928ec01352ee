from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgdurable._store.migrations import migrate

from .namespace import Namespace


@pytest.fixture
def ns(dsn: str, schema: str) -> Iterator[Namespace]:
    migrate(dsn, schema)
    with ThreadPoolExecutor(8) as threads:
        namespace = Namespace(dsn, schema, threads)
        namespace.session()
        try:
            yield namespace
        finally:
            for conn in namespace.open:
                conn.close()
