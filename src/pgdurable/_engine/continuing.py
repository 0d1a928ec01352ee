"""`continue_as_new`: an instance whose code begins anew, with another input and a history that starts here.

A row `continued` ends the old run: its payload is the input of the next. After it come the signals that nobody has
taken, and a request to cancel that came too late for it, recorded once more. `instances.first_event` points at the row,
so that replay reads from there on; the time of the row is when the new run started, and what seeds its chance follows
from its place.
"""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from pgdurable._engine import deadlines, updates
from pgdurable._engine.clock import micros
from pgdurable._engine.events import Note
from pgdurable._failure import encode_error
from pgdurable.codec import encode
from pgdurable.errors import PgDurableError

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._engine.replay import Row

__all__ = ["continue_anew", "run_of", "seed_of"]


def seed_of(id: bytes, event_id: int) -> bytes:
    """What seeds the run that begins after this row of history: the instance's id, for the first one."""
    return id if event_id == 0 else blake2b(id + event_id.to_bytes(8, "big"), digest_size=16).digest()


def run_of(id: bytes, input: str, started_us: int, history: list[Row]) -> tuple[bytes, str, int, list[Row]]:
    """(seed, input, start, rows to replay) of the run that a claimed instance is in."""
    if history and history[0][2] == "continued":
        _, event_id, *_, payload, _, recorded_at = history[0]
        return seed_of(id, event_id), payload, micros(recorded_at), history[1:]
    return id, input, started_us, history


def continue_anew(hosted: Hosted, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Records the end of this run and the beginning of the next, which begins once that is committed."""
    host = hosted.host
    try:
        input = hosted.definition.signature.bind_input(args, kwargs, limit=host.payload_limit)
    except PgDurableError as error:
        error.message = f"{hosted.label}: it cannot continue as new: {error.message}"
        host.release(hosted, "failed", error=encode_error(error))
        return
    hosted.releasing = True  # what comes meanwhile stays in the queue, for the next run
    host.parking.busy(hosted)
    for run in list(hosted.steps.values()):
        run.cancel()
    # What is recorded already, and not delivered, is the next run's too.
    if hosted.unacked or hosted.pending_deliveries or hosted.holder is not None:
        hosted.when_settled = lambda: _record(hosted, input)
    else:
        _record(hosted, input)


def _record(hosted: Hosted, input: bytes) -> None:
    host, machine = hosted.host, hosted.machine
    if hosted.closed:
        return
    kept: list[tuple[str, str | None, Any]] = [("signal", name, payload) for name, payload in machine.kept_signals()]
    if machine.desk is not None:
        kept += [("update", name, request) for name, request in machine.desk.kept]
    if machine.cancel_is_late:
        kept.append(("cancel", None, {"reason": machine.cancel_reason}))
    place = hosted.next_event

    def told(at_us: int) -> None:
        if not hosted.closed:
            _begin(hosted, place, input, at_us, kept)

    def refused(error: PgDurableError) -> None:
        hosted.releasing = False
        host.release(hosted, "failed", error=encode_error(error))

    notes = [Note(hosted, "continued", None, refused), *(Note(hosted, kind) for kind, *_ in kept)]
    notes[-1].told = told
    hosted.record("continued", notes[0], payload=input, writes=((hosted.id, "continue", place, None),))
    for note, (kind, name, payload) in zip(notes[1:], kept, strict=True):
        hosted.record(kind, note, name=name, payload=encode(payload))


def _begin(old: Hosted, place: int, input: bytes, at_us: int, kept: list[tuple[str, str | None, Any]]) -> None:
    host = old.host
    host.instances.pop(old.id, None)
    old.close()
    hosted = host.host_again(old, input, at_us, seed_of(old.id, place))
    if hosted is None:
        return
    hosted.deadline = old.deadline
    deadlines.watch(hosted)
    hosted.run = place
    hosted.unacked += 1  # the next run is not to end before all of these have come
    hosted.machine.start()
    hosted.after_burst()
    for kind, name, payload in kept:
        hosted.deliver(partial(_deliver, hosted, kind, name, payload, at_us))
    hosted.unacked -= 1
    hosted.advance_order()
    if old.missed:
        host.on_missed(old.id)


def _deliver(hosted: Hosted, kind: str, name: str | None, payload: Any, at_us: int) -> None:
    machine = hosted.machine
    if kind == "cancel":
        machine.request_cancel(payload["reason"], at_us)
    elif kind == "update":
        updates.deliver(hosted, name or "", payload, at_us)
    else:
        machine.signal(name or "", payload, at_us)
