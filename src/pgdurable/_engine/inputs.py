"""What a start is given, checked and encoded: the workflow's name and arguments, and the parameters of SQL's start."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from pgdurable._engine.database import Database
from pgdurable._engine.ids import check_key
from pgdurable.codec import encode
from pgdurable.errors import InvalidInput
from pgdurable.retry import seconds
from pgdurable.workflow import Workflow

__all__ = [
    "Input",
    "check_name",
    "check_partition",
    "check_priority",
    "line_params",
    "split_argument",
    "start_params",
    "timed_start",
]

_MAX_NAME_BYTES = 512


class Input:
    """How the arguments of one workflow are stored, and what its results are decoded to.

    Args:
        workflow: its name, or the decorated function. With the name alone nothing is known of its parameters.
        limit: largest stored input, in bytes.
    Attributes:
        definition: None when only the name is known.
        returns: what results are decoded to.
    """

    __slots__ = ("definition", "limit", "name", "returns")

    def __init__(self, workflow: str | Workflow[Any, Any], limit: int) -> None:
        self.definition = workflow if isinstance(workflow, Workflow) else None
        self.name = workflow.name if isinstance(workflow, Workflow) else _name(workflow)
        self.returns = self.definition.signature.returns if self.definition is not None else Any
        self.limit = limit

    def version(self, asked: str | None) -> str | None:
        """The version to start when `asked` is what the caller said."""
        if asked:
            return check_name(asked, "a version")
        return self.definition.version if self.definition is not None else None

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bytes:
        """The arguments as stored. Raises InvalidInput when they do not fit, CodecError when they are not JSON."""
        definition = self.definition
        if definition is not None:
            data = definition.signature.bind_input(args, kwargs or {}, limit=self.limit)
            definition.signature.load_input(data)  # their types fit as well
            return data
        if args and kwargs:
            raise InvalidInput(
                f"workflow {self.name!r} is started by name: its parameters' names are not known here",
                detail="Expected positional arguments alone, or kwargs={...} alone.",
                hint="Pass all of them by name in kwargs={...}.",
            )
        return encode(dict(kwargs) if kwargs else list(args), what=f"input of workflow {self.name}", limit=self.limit)


def split_argument(argument: Any) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
    """One element of start_many's iterable as positional and keyword arguments."""
    if isinstance(argument, tuple):
        return argument, None
    if isinstance(argument, dict):
        return (), argument
    return (argument,), None


def start_params(
    input: Input,
    args: tuple[Any, ...],
    *,
    id: str | None = None,
    kwargs: dict[str, Any] | None = None,
    version: str | None = None,
    queue: str = "default",
    priority: int = 0,
    delay: float | timedelta | None = None,
    labels: dict[str, Any] | None = None,
    database: Database,
) -> tuple[Any, ...]:
    """The first parameters of the query `start`, before `line_params`. What they mean and raise: see `Client.start`.

    The instance's uuid is the last of them: a start whose answer was lost is sent again with it.
    """
    data = input.encode(args, kwargs)
    instance = database.ids.new_id()
    if database.encryption is not None:  # it binds the input to the instance
        data = database.encryption.seal(instance, "input", data)
    if id is not None:
        check_key(id)
    return (
        input.name, data.decode(), id, input.version(version), check_name(queue, "a queue's name"),
        check_priority(priority), seconds(delay) or 0.0,
        None if labels is None else encode(labels, what="labels").decode(), uuid.UUID(bytes=instance),
    )  # fmt: skip


def line_params(dedup: str | None = None, partition: str | None = None) -> tuple[str | None, str | None]:
    """The last parameters of the query `start`. Raises InvalidInput."""
    return None if dedup is None else check_name(dedup, "dedup"), check_partition(partition)


def timed_start(params: tuple[Any, ...], timeout: float | timedelta | None) -> tuple[str, tuple[Any, ...]]:
    """The statement of a start, and its parameters. Raises ValueError when the timeout is not positive."""
    if timeout is None:
        return "start", params
    length = seconds(timeout) or 0.0
    if not length > 0:
        raise ValueError(f"start(timeout=...) is positive, found {timeout!r}")
    return "start_with_timeout", (*params, length)


def _name(workflow: Any) -> str:
    if not isinstance(workflow, str) or not workflow or "\0" in workflow:
        raise InvalidInput(
            f"start needs a workflow: its name or the decorated function, found {workflow!r}",
            hint="Decorate the function with @pgdurable.workflow.",
        )
    return check_name(workflow, "a workflow's name")


def check_priority(priority: Any) -> int:
    """The priority, or InvalidInput."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not -32768 <= priority <= 32767:
        raise InvalidInput(
            f"a priority is a whole number from -32768 to 32767, found {priority!r:.60}",
            hint="The lower goes first; 0 is the usual one.",
        )
    return priority


def check_partition(partition: Any) -> str | None:
    """The partition, or InvalidInput."""
    return None if partition is None else check_name(partition, "a partition's name")


def check_name(name: Any, what: str) -> str:
    """The name, or InvalidInput when PostgreSQL could not hold it."""
    found = f"{type(name).__name__} {name!r:.60}"
    if isinstance(name, str):
        try:
            nbytes = len(name.encode())
        except UnicodeEncodeError:
            found = f"text that is not valid Unicode, {name!r:.60}"
        else:
            if 1 <= nbytes <= _MAX_NAME_BYTES and "\0" not in name:
                return name
            found = f"{nbytes} bytes: {name!r:.60}"
    raise InvalidInput(
        f"{what} is a text of 1 to {_MAX_NAME_BYTES} bytes without NUL, found {found}", hint="Choose another name."
    )
