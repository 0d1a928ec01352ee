"""What the tests of SQL workflows share: a migrated schema with sessions on it."""

from store.conftest import ns

__all__ = ["ns"]
