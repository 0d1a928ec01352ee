"""Starts that wait for others: debounced ones, of which the last counts, and inputs that are gathered for a batch."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from pgdurable._engine.database import Database
from pgdurable._engine.inputs import Input, check_name, check_partition, check_priority
from pgdurable.codec import encode
from pgdurable.errors import InvalidInput
from pgdurable.retry import seconds

__all__ = ["Debounced", "batched_params", "element"]


class Debounced:
    """One debounced start: what SQL's `start_debounced` is asked, and where another instance holds the key, again.

    Encrypted input is bound to its instance, so it is made for the one that holds the key.

    Args: as `Client.start`. Raises InvalidInput.
    """

    def __init__(
        self,
        input: Input,
        args: tuple[Any, ...],
        database: Database,
        *,
        debounce: float | timedelta,
        key: str | None,
        debounce_limit: float | timedelta | None = None,
        kwargs: dict[str, Any] | None = None,
        version: str | None = None,
        queue: str = "default",
        priority: int = 0,
        partition: str | None = None,
        labels: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        _refuse(others, "debounce")
        wait, limit = seconds(debounce) or 0.0, seconds(debounce_limit)
        if not isinstance(key, str):
            raise InvalidInput(
                "a start with debounce needs key=...: what calls belong together", hint='For example key="user-7".'
            )
        if wait <= 0.0 or (limit is not None and limit < wait):
            raise InvalidInput(
                f"debounce is above 0 seconds and debounce_limit no less, found {debounce!r} and {debounce_limit!r}",
                hint="For example debounce=5, debounce_limit=60.",
            )
        self._data = input.encode(args, kwargs)
        self._encryption = database.encryption
        self._instance = database.ids.new_id()
        self._key = (
            input.name, check_name(key, "a key"), input.version(version), check_name(queue, "a queue's name"),
            check_partition(partition),
        )  # fmt: skip
        self._wait = (wait, limit)
        self._rest = (check_priority(priority), None if labels is None else encode(labels, what="labels").decode())

    @property
    def params(self) -> tuple[Any, ...]:
        """Of the query `start_debounced`, which gives null where the input has to be made for another instance."""
        name, key, version, queue, partition = self._key
        data = self._data
        if self._encryption is not None:
            data = self._encryption.seal(self._instance, "input", data)
        return (
            name, data.decode(), key, *self._wait, version, queue, *self._rest, uuid.UUID(bytes=self._instance),
            partition, self._encryption is not None,
        )  # fmt: skip

    @property
    def key(self) -> tuple[Any, ...]:
        """Parameters of the query `find_debounced`."""
        return self._key

    def aim(self, found: uuid.UUID | None) -> None:
        """Makes the input for this instance next; None: its holder has begun, the key is free."""
        if found is not None:
            self._instance = found.bytes


def element(input: Input, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bytes:
    """One input of a batch, as stored. Raises InvalidInput where it is not one, or does not fit the list."""
    assert input.definition is not None
    (parameter,) = input.definition.signature.parameters
    if kwargs or len(args) != 1:
        raise InvalidInput(
            f"workflow {input.name} takes a batch: a start gives it one input",
            detail=f"Found {len(args)} positional arguments"
            + (f" and {', '.join(sorted(kwargs))}." if kwargs else "."),
            hint=f"Pass one element of its list {parameter.name!r}.",
        )
    input.encode(([args[0]],), None)  # it fits the list's type
    return encode(args[0], what=f"an input of workflow {input.name}", limit=input.limit)


def batched_params(
    input: Input,
    inputs: list[bytes],
    database: Database,
    *,
    version: str | None = None,
    queue: str = "default",
    priority: int = 0,
    partition: str | None = None,
    **others: Any,
) -> tuple[Any, ...]:
    """The parameters of SQL's function `start_batched`. Each input has an id: a lost answer is asked for again."""
    definition = input.definition
    assert definition is not None
    assert definition.batch is not None
    _refuse(others, "a workflow that takes batches")
    if database.encryption is not None:
        raise InvalidInput(
            f"workflow {input.name} takes batches, which cannot be encrypted: the database puts their inputs together",
            hint="Gather them in a workflow of your own, or use an Engine and Client without encryption for it.",
        )
    ids = [uuid.UUID(bytes=database.ids.new_id()) for _ in inputs]
    return (
        input.name, definition.signature.parameters[0].name,
        ids, [data.decode() for data in inputs],
        definition.batch.max, seconds(definition.batch.wait) or 0.0, input.version(version),
        check_name(queue, "a queue's name"), check_priority(priority), check_partition(partition),
    )  # fmt: skip


def _refuse(others: dict[str, Any], what: str) -> None:
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InvalidInput(
            f"{what} does not go with {', '.join(given)}", hint=f"Leave out {', '.join(given)}, or start it without."
        )
