"""Child workflows: started in the commit of their parent's history row, their ends told through the event queue.

Rows of history in the parent: `child` (started; its id), `child_end` (how it ended), `child_cancel` (the parent no
longer waits for it, so it was asked to cancel). The child's own row says who its parent is; the trigger
`instance_ended` puts an event into the parent's queue when it ends, however that comes.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from pgdurable._engine.clock import micros
from pgdurable._engine.events import Note, consume, refuse
from pgdurable._failure import decode_error, encode_error
from pgdurable.codec import decode_stored, encode
from pgdurable.errors import CodecError, InstanceFailed, InvalidId, PayloadSealed, PgDurableError

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._engine.kinds import Event
    from pgdurable._engine.replay import Replayed, Row
    from pgdurable._runtime.machine import Command
    from pgdurable.child import ChildCall

__all__ = ["Kind", "replay_cancel", "replay_end", "replay_start", "take_event"]

logger = logging.getLogger("pgdurable.engine")


class _End(msgspec.Struct):
    """What the event of a child's end holds."""

    id: str
    seq: int
    status: str
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class _Started(msgspec.Struct):
    """What history remembers of a child."""

    id: str
    cancelled: bool = False


class Kind:
    """Commands that start a child. See `CommandKind`."""

    def begin(self, hosted: Hosted, command: Command) -> None:
        host = hosted.host
        call: ChildCall = command.step
        try:
            id = host.new_id()
        except PgDurableError as error:
            _could_not_start(hosted, command, error)
            return
        call.child = id
        owned = call.plain and host.runs_here(call.definition) and host.room() > 0 and not host.draining
        input = call.input
        if host.encryption is not None:
            input = host.encryption.seal(id, "input", input)
        body = {
            "id": str(uuid.UUID(bytes=id)), "workflow": call.name, "version": call.version, "key": call.key,
            "parent_close": call.parent_close, "owner": host.worker if owned else None,
            "input": msgspec.Raw(input), **call.options,
        }  # fmt: skip
        if owned:
            host.starting += 1

        def told(at_us: int) -> None:
            if owned:
                host.starting -= 1
                assert call.definition is not None
                host.about[id] = (None, hosted.uuid, None)
                host.begin(id, call.key, call.definition, call.input, at_us)
            hosted.deliver(lambda: hosted.machine.tell(call.begun, id, at_us))

        def refused(error: PgDurableError) -> None:
            host.starting -= owned
            _could_not_start(hosted, command, error)

        hosted.record(
            "child", Note(hosted, "child", told, refused), seq=command.seq, name=call.name, mark=command.fingerprint,
            payload=encode({"id": body["id"]}), writes=((hosted.id, "child", command.seq, msgspec.json.encode(body)),),
        )  # fmt: skip

    def resume(self, hosted: Hosted, command: Command, replayed: Replayed) -> None:
        started: _Started | None = replayed.notes.get(command.seq)
        if started is None:
            self.begin(hosted, command)
        else:
            command.step.child = uuid.UUID(started.id).bytes

    def give_up(self, hosted: Hosted, command: Command, replayed: Replayed | None) -> None:
        call: ChildCall = command.step
        child = call.child
        if replayed is not None:
            started: _Started | None = replayed.notes.get(command.seq)
            if started is None or started.cancelled:
                return
            child = uuid.UUID(started.id).bytes
        if child is None or not call.awaited or hosted.machine.outcome is not None:
            return  # with the end of the parent goes what `parent_close` says
        body = msgspec.json.encode({"reason": f"{hosted.label} no longer waits for it"})
        hosted.record(
            "child_cancel", Note(hosted, "child_cancel"), seq=command.seq, name=call.name,
            writes=((child, "cancel", command.seq, body),),
        )  # fmt: skip


def _could_not_start(hosted: Hosted, command: Command, error: PgDurableError) -> None:
    """The database would not have it: that is recorded in its place, and raised where it was asked for."""
    call: ChildCall = command.step
    refusal: PgDurableError = error
    if call.key is not None and "PGD04" in str(error):
        refusal = InvalidId(
            f"{hosted.label}: child {call.name} cannot have the id {call.key!r}: another instance has it",
            hint="Choose an id that tells this parent apart, such as one that contains its own id.",
        )
    refuse(hosted, command, refusal, lambda failure, at_us: _fail(hosted, command, failure, at_us))


def _fail(hosted: Hosted, command: Command, failure: BaseException, at_us: int) -> None:
    call: ChildCall = command.step
    if not (call.awaited or call.begun.done()):
        call.begun.set_exception(failure)
    hosted.machine.answer(command.seq, None, failure, at_us)


def take_event(hosted: Hosted, event: Event) -> None:
    """A child has ended."""
    try:
        end = msgspec.json.decode(event.payload or "", type=_End)
    except msgspec.MsgspecError as error:
        logger.error("%s: event %s of a child's end cannot be read: %s", hosted.label, event.seq, error)
        return
    encryption = hosted.host.encryption
    if encryption is not None:
        child = uuid.UUID(end.id)
        end.output = _opened(encryption.open(child, "output", bytes(end.output)))
        end.error = _opened(encryption.open(child, "error", bytes(end.error)))
        try:
            decode_stored(bytes(end.output if end.status == "completed" else end.error))
        except PayloadSealed as error:
            error.message = f"{hosted.label}: the end of child {end.id}: {error.message}"
            logger.error("%s", error)
            hosted.host.release(hosted, "paused", error=encode_error(error))
            return
    data = msgspec.json.encode(end)
    consume(
        hosted, event, "child_end", lambda at_us: _deliver_end(hosted, end.seq, data, at_us), seq=end.seq,
        name=event.name, payload=data,
    )  # fmt: skip


def _opened(data: bytes | str | None) -> msgspec.Raw:
    return msgspec.Raw(data.encode() if isinstance(data, str) else data or b"null")


def _deliver_end(hosted: Hosted, seq: int, data: bytes | str, at_us: int) -> None:
    command = hosted.machine.pending.get(seq)
    end = msgspec.json.decode(data, type=_End)
    value: Any = None
    failure: BaseException | None = None
    if command is not None:
        if command.kind != "child" or command.step.child != uuid.UUID(end.id).bytes:
            return  # a child of a run before this one, see continuing.py
        call: ChildCall = command.step
        if end.status == "completed":
            try:
                value = decode_stored(bytes(end.output), call.returns)
            except CodecError as error:
                error.message = f"{hosted.label}: the result of child {call.name} ({end.id}): {error.message}"
                failure = error
        else:
            failure = _unhappy(hosted, call, end)
    hosted.machine.answer(seq, value, failure, at_us)


def _unhappy(hosted: Hosted, call: ChildCall, end: _End) -> InstanceFailed:
    found = decode_stored(bytes(end.error))
    found = found if isinstance(found, dict) else {}
    kind = found.get("type")
    shown = f": {(kind or '').removeprefix('builtins.')}: {found.get('message')}" if found else ""
    return InstanceFailed(
        f"{hosted.label}: child {call.name} ({call.key or end.id}) ended {end.status}{shown}",
        id=call.key or end.id, status=end.status, type=kind, traceback=found.get("traceback"),
    )  # fmt: skip


# -- in replay -----------------------------------------------------------------------------------------------------


def replay_start(hosted: Hosted, row: Row, replayed: Replayed) -> None:
    _, event_id, _, seq, name, _, mark, payload, error, recorded_at = row
    machine = hosted.machine
    machine.expect(event_id, seq, "child", name, mark)
    command = machine.pending.get(seq)
    if error is not None:
        if command is not None:
            failure = decode_error(error.encode(), step=name, attempt=1)
            _fail(hosted, command, failure, micros(recorded_at))
        return
    id = str(decode_stored(payload)["id"])
    replayed.notes[seq] = _Started(id)
    if command is not None:
        command.step.child = uuid.UUID(id).bytes
        machine.tell(command.step.begun, uuid.UUID(id).bytes, micros(recorded_at))


def replay_end(hosted: Hosted, row: Row, replayed: Replayed) -> None:
    _deliver_end(hosted, row[3], row[7], micros(row[9]))


def replay_cancel(hosted: Hosted, row: Row, replayed: Replayed) -> None:
    if row[3] in replayed.notes:
        replayed.notes[row[3]].cancelled = True
