"""Signals and requests to cancel that workflow code sends to other instances: in the commit of their own record.

A row `send` answers the command; its write puts the event into the other's queue. The key that makes it one event,
however often the batch is sent, follows from this instance and the command's number. A target that is not there, or has
ended, has the write refused: the row is then recorded with that error.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from pgdurable._engine.clock import micros
from pgdurable._engine.events import Note, refuse
from pgdurable._failure import decode_error
from pgdurable.errors import PgDurableError

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._engine.replay import Replayed, Row
    from pgdurable._runtime.machine import Command
    from pgdurable.sending import Sending

__all__ = ["Kind", "replay_row"]


class Kind:
    """Commands that send. See `CommandKind`."""

    def begin(self, hosted: Hosted, command: Command) -> None:
        sending: Sending = command.step
        encryption = hosted.host.encryption
        payload = sending.payload
        if encryption is not None and sending.what == "signal":
            try:
                target = uuid.UUID(sending.target)
            except ValueError:
                _refuse(hosted, command, PgDurableError(
                    f"{hosted.label}: a signal to {sending.target!r} cannot be encrypted for it by that id",
                    hint="With encryption=, send it to the instance's UUID.",
                ))  # fmt: skip
                return
            payload = encryption.seal(target.bytes, f"signal {sending.name}", payload)
        body = {
            "id": sending.target, "name": sending.name, "payload": msgspec.Raw(payload),
            "key": str(uuid.uuid5(uuid.UUID(bytes=hosted.machine.seed), f"send {command.seq}")),
        }  # fmt: skip

        def told(at_us: int) -> None:
            hosted.deliver(lambda: hosted.machine.answer(command.seq, None, None, at_us))

        hosted.record(
            "send", Note(hosted, "send", told, lambda error: _refuse(hosted, command, error)), seq=command.seq,
            name=command.name, mark=command.fingerprint,
            writes=((hosted.id, f"send_{sending.what}", command.seq, msgspec.json.encode(body)),),
        )  # fmt: skip

    def resume(self, hosted: Hosted, command: Command, replayed: Replayed) -> None:
        self.begin(hosted, command)

    def give_up(self, hosted: Hosted, command: Command, replayed: Replayed | None) -> None:
        pass  # it is on its way, and nobody waits for its answer


def _refuse(hosted: Hosted, command: Command, error: PgDurableError) -> None:
    sending: Sending = command.step
    refuse(
        hosted, command,
        PgDurableError(f"{hosted.label}: {sending.what} to {sending.target!r}: {error.message}"),
        lambda failure, at_us: hosted.machine.answer(command.seq, None, failure, at_us),
    )  # fmt: skip


def replay_row(hosted: Hosted, row: Row, replayed: Replayed) -> None:
    _, event_id, _, seq, name, _, mark, _, error, recorded_at = row
    machine = hosted.machine
    machine.expect(event_id, seq, "send", name, mark)
    failure: Any = None if error is None else decode_error(error.encode(), step=name, attempt=1)
    machine.answer(seq, None, failure, micros(recorded_at))
