"""Published state: a row of history when a value changes, and the current value in `states`, in one commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgdurable._engine.events import Note
from pgdurable.codec import encode

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._engine.replay import Replayed, Row
    from pgdurable._runtime.machine import Command

__all__ = ["Kind", "NoteKind", "replay_note"]


class NoteKind:
    """Commands that nothing answers: their row of history is written at once, and settles them.

    Those of the last burst of an instance count too.
    """

    def begin(self, hosted: Hosted, command: Command) -> None:
        raise NotImplementedError

    def resume(self, hosted: Hosted, command: Command, replayed: Replayed) -> None:
        self.begin(hosted, command)

    def give_up(self, hosted: Hosted, command: Command, replayed: Replayed | None) -> None:
        pass


class Kind(NoteKind):
    """Commands that publish a value."""

    def begin(self, hosted: Hosted, command: Command) -> None:
        key, data = command.name or "", command.step
        if (encryption := hosted.host.encryption) is not None:
            value = encryption.seal(hosted.id, f"state {key}", data)
        else:
            value = data
        body = b'{"key":%s,"run":%d,"value":%s}' % (encode(key), hosted.run, value)
        hosted.record(
            "state", Note(hosted, "state", lambda at_us: settled(hosted, command)), seq=command.seq, name=key,
            mark=command.fingerprint, payload=data, writes=((hosted.id, "state", command.seq, body),),
        )  # fmt: skip


def settled(hosted: Hosted, command: Command) -> None:
    """The command's row is committed: nothing more is waited for."""
    hosted.machine.pending.pop(command.seq, None)


def replay_note(hosted: Hosted, row: Row, replayed: Replayed) -> None:
    """A row of a command that nothing answers."""
    _, event_id, kind, seq, name, _, mark, *_ = row
    hosted.machine.expect(event_id, seq, kind, name, mark)
    hosted.machine.pending.pop(seq, None)
