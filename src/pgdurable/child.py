"""Child workflows: what workflow code calls to start one, and what it holds of it."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from pgdurable._arguments import fingerprint
from pgdurable._runtime.current import current_machine
from pgdurable._runtime.loop import AsyncMachine
from pgdurable._runtime.machine import Command, Machine
from pgdurable._runtime.thread import ThreadMachine
from pgdurable.codec import encode
from pgdurable.errors import PgDurableError
from pgdurable.retry import seconds
from pgdurable.sending import Sending, send, signal

if TYPE_CHECKING:
    from pgdurable.workflow import Workflow

__all__ = ["ChildCall", "ChildHandle", "call_child", "start_child"]

R = TypeVar("R")
Close = Literal["cancel", "abandon"]


class ChildCall:
    """What a command that starts a child is about.

    Attributes:
        begun: gets the child's 16 bytes once it is started.
        child: those, or None before.
        awaited: whether the code waits for the child's end itself, so that giving up the wait cancels the child.
        options: what goes into the child's row beside workflow, version and input.
    """

    __slots__ = (
        "awaited", "begun", "child", "definition", "input", "key", "name", "options", "parent_close", "returns",
        "version",
    )  # fmt: skip

    def __init__(
        self,
        machine: Machine,
        workflow: str | Workflow[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        version: str | None = None,
        key: str | None = None,
        parent_close: Close = "cancel",
        awaited: bool,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.begun = machine.new_future()
        self.child: bytes | None = None
        self.awaited = awaited
        self.key = key
        self.parent_close = parent_close
        self.options = options or {}
        if isinstance(workflow, str):
            self.definition: Workflow[Any, Any] | None = None
            self.name, self.version, self.returns = workflow, version, Any
            self.input = encode(kwargs if kwargs or not args else list(args), what=f"input of {workflow!r}")
        else:
            self.definition = workflow
            self.name, self.version = workflow.name, version or workflow.version
            self.returns = workflow.signature.returns
            self.input = workflow.signature.bind_input(args, kwargs)

    @property
    def plain(self) -> bool:
        """Whether the parent's engine may run it from its first row."""
        return self.definition is not None and not self.options and self.version == self.definition.version


def call_child(machine: Machine, workflow: Workflow[Any, Any], args: Any, kwargs: Any) -> Any:
    """A workflow called in workflow code: a child whose result is awaited."""
    if isinstance(machine, ThreadMachine):
        return machine.answer_of(_issue(machine, ChildCall(machine, workflow, args, kwargs, awaited=True)))
    return _call(cast(AsyncMachine, machine), workflow, args, kwargs)


async def _call(machine: AsyncMachine, workflow: Workflow[Any, Any], args: Any, kwargs: Any) -> Any:
    return await machine.answer_of(_issue(machine, ChildCall(machine, workflow, args, kwargs, awaited=True)))


def _issue(machine: Machine, call: ChildCall) -> Command:
    command = machine.issue("child", call.name, fingerprint((call.input.decode(), call.key), {}), call)
    if not call.awaited and isinstance(command.future, asyncio.Future):
        command.future.add_done_callback(_heard)  # nobody has to ask for the result
    return command


def _heard(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


class ChildHandle(Generic[R]):
    """A child that was started by `start_child`, held by its parent's code.

    Attributes:
        instance_id: the child's UUID.
        id: its user-chosen id, or the UUID as text.
    """

    def __init__(self, machine: Machine, command: Command, id: bytes) -> None:
        self._machine = machine
        self._command = command
        self.instance_id = uuid.UUID(bytes=id)
        self.id: str = command.step.key or str(self.instance_id)

    def done(self) -> bool:
        """Whether its end has been delivered to the parent."""
        return bool(self._command.future.done())

    def result(self) -> Any:
        """The child's result, once it has ended; await it in an async workflow, in a `def` workflow it blocks.

        Giving up the wait leaves the child alone.

        Raises InstanceFailed when it ended failed, cancelled or timed_out.
        """
        if isinstance(self._machine, ThreadMachine):
            return self._machine.wait(self._command.future)
        return self._result()

    async def _result(self) -> R:
        return cast(R, await asyncio.shield(self._command.future))

    def signal(self, name: str, payload: Any = None) -> Any:
        """Sends the child a signal, as `pgdurable.signal` does. Raises PgDurableError when it has ended."""
        return signal(self.instance_id, name, payload)

    def cancel(self, reason: str | None = None) -> Any:
        """Asks the child to cancel: its code meets a CancelledError. One that has ended already stays as it is."""
        return send(self._machine, Sending("cancel", str(self.instance_id), None, encode(reason)))

    def __repr__(self) -> str:
        return f"<ChildHandle {self._command.name} {self.id}>"


def start_child(
    workflow: str | Workflow[Any, Any],
    *args: Any,
    id: str | None = None,
    kwargs: dict[str, Any] | None = None,
    version: str | None = None,
    queue: str = "default",
    partition: str | None = None,
    priority: int = 0,
    delay: float | timedelta | None = None,
    labels: dict[str, Any] | None = None,
    parent_close: Close = "cancel",
) -> Any:
    """Starts a child workflow and gives its `ChildHandle`: durable, and running wherever there is room.

    The start and the parent's record of it are one commit. Await it in an async workflow; in a `def` workflow it
    blocks. To start a child and wait for its result at once, call the workflow: ``await ship(order)``.

    Args:
        workflow: the decorated function, or a workflow's name.
        id: the child's user-chosen id. Default: none, and the child is told apart by its UUID.
        kwargs, version, queue, partition, priority, delay, labels: as for `Client.start`.
        parent_close: what becomes of the child if it still runs when its parent ends, however that ends: `cancel` it,
            or leave it to itself (`abandon`).
    Raises:
        InvalidId: another instance has this id.
        InvalidInput: the arguments do not fit the workflow's parameters.
    """
    machine = current_machine()
    if machine is None:
        raise PgDurableError(
            "start_child was called outside workflow code",
            hint="Use engine.start there; in workflow code, start_child.",
        )
    if parent_close not in ("cancel", "abandon"):
        raise ValueError(f"parent_close is 'cancel' or 'abandon', found {parent_close!r}")
    options: dict[str, Any] = {}
    if queue != "default":
        options["queue"] = _name(queue, "queue")
    if partition is not None:
        options["partition"] = _name(partition, "partition")
    if priority:
        options["priority"] = priority
    if delay is not None:
        options["delay"] = seconds(delay)
    if labels is not None:
        options["labels"] = labels
    call = ChildCall(
        machine, workflow, args, kwargs or {}, version=version, key=id, parent_close=parent_close, awaited=False,
        options=options,
    )  # fmt: skip
    if isinstance(machine, ThreadMachine):
        command = _issue(machine, call)
        return ChildHandle(machine, command, machine.wait(call.begun))
    return _start(machine, call)


def _name(name: str, what: str) -> str:
    if not isinstance(name, str) or not name or "\0" in name or len(name.encode()) > 512:
        raise ValueError(f"start_child({what}=...) is a text of 1 to 512 bytes without NUL, found {name!r:.80}")
    return name


async def _start(machine: Machine, call: ChildCall) -> ChildHandle[Any]:
    command = _issue(machine, call)
    id = await asyncio.shield(call.begun)
    return ChildHandle(machine, command, id)
