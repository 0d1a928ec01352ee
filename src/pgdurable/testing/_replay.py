"""Replays recorded histories with the code of today: does it still do what was recorded?"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pgdurable._engine.clock import micros
from pgdurable._engine.continuing import run_of
from pgdurable._engine.forks import origin_of
from pgdurable._engine.host import Host
from pgdurable._engine.hosted import Hosted
from pgdurable._engine.replay import run_again
from pgdurable._runtime.loop import AsyncMachine
from pgdurable._runtime.machine import Machine
from pgdurable._runtime.thread import ThreadMachine
from pgdurable.client import PAYLOAD_LIMIT
from pgdurable.encryption import Encryption
from pgdurable.errors import InvalidInput, NonDeterminismError, PgDurableError
from pgdurable.testing._clock import VirtualClock
from pgdurable.testing._export import Recorded, read_histories
from pgdurable.testing._journal import MemoryJournal
from pgdurable.testing._store import Store
from pgdurable.testing._writes import apply_write
from pgdurable.workflow import Registry, Workflow, registry

__all__ = ["Replayed", "replay", "replay_recorded"]

T = TypeVar("T")
_HINT = (
    "Issue the recorded commands in their order for instances that run, or give the new code a version= of its own. "
    "Finished instances are not replayed any more: leave them out where only they differ."
)


@dataclass(frozen=True)
class Replayed:
    """One instance whose history the code of today follows.

    Attributes:
        id, workflow, version, status: as recorded.
        events: rows of history that were replayed.
        ended: whether the code has come to its end.
        result: what it returned, if it did.
        waits_for: what it waits for now, as texts.
    """

    id: str
    workflow: str
    version: str | None
    status: str
    events: int
    ended: bool
    result: Any
    waits_for: tuple[str, ...]


def replay(
    workflow: Workflow[Any, Any] | Iterable[Workflow[Any, Any]] | None,
    history: str | bytes | Path | Iterable[str],
    *,
    encryption: Encryption | None = None,
) -> list[Replayed]:
    """Checks code against histories that `pgdurable export` or `sim.export` wrote. No step runs; no database is needed.

    Args:
        workflow: the decorated function, or several: each history is replayed by the one of its name. None: by every
            workflow imported so far, in the recorded version.
        history: a Path to a file, its text, or its lines.
        encryption: the keys, where payloads are encrypted.
    Returns:
        What was replayed, in the file's order.
    Raises:
        NonDeterminismError: the code does not issue the recorded commands; tells the first difference. Or it ends where
            the recorded run went on, goes on where that had ended, or fails where that had completed.
        InvalidInput: this is no history, or none of these workflows.
        PgDurableError: a payload cannot be decoded.
    """
    recorded = read_histories(history)
    one = isinstance(workflow, Workflow)
    known = Registry([workflow] if isinstance(workflow, Workflow) else registry if workflow is None else workflow)
    chosen = [each for each in recorded if any(each.workflow == definition.name for definition in known)]
    missing = sorted({each.workflow for each in recorded} - {each.workflow for each in chosen})
    if missing and not (one and chosen):
        raise InvalidInput(
            f"there are histories of {', '.join(missing)}, and no such workflow was given",
            detail=f"Given: {', '.join(sorted({definition.name for definition in known})) or 'none'}.",
            hint="Give the workflow that these histories are of, or import the module that defines it.",
        )
    return [
        replay_recorded(each, known.get(each.workflow, each.version if workflow is None else None), encryption)
        for each in chosen
    ]


def replay_recorded(recorded: Recorded, definition: Workflow[Any, Any], encryption: Encryption | None) -> Replayed:
    """Replays one instance. Raises as `replay`."""
    return _apart(lambda: asyncio.run(_replay(recorded, definition, encryption)))


def _apart(work: Callable[[], T]) -> T:
    """What `work` gives, in a thread of its own: the caller may be on an event loop."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="pgdurable-replay")
    thread.start()
    thread.join()
    value, error = outcome[0]
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


async def _replay(recorded: Recorded, definition: Workflow[Any, Any], encryption: Encryption | None) -> Replayed:
    id, started_us = recorded.instance_id.bytes, micros(recorded.started_at)
    rows: Sequence[tuple[Any, ...]] = recorded.rows
    input: Any = recorded.input
    if encryption is not None:
        origin = origin_of(recorded.rows)
        whose = id if origin is None or origin.input_of is None else origin.input_of
        input = encryption.open(whose, "input", input)
        opened = encryption.open_history
        rows = [opened(row) if origin is None else origin.open(encryption, row) for row in rows]
    begun = [place for place, row in enumerate(rows) if row[2] == "continued"]
    seed, input, started_us, rows = run_of(id, input, started_us, list(rows[begun[-1] if begun else 0 :]))
    hosted = _hosted(recorded, definition, input, started_us, seed)
    machine = hosted.machine
    try:
        machine.replaying = True
        await run_again(hosted, list(rows))
        _check_end(recorded, hosted)
        status, value = machine.outcome or (None, None)
        return Replayed(
            recorded.id, recorded.workflow, recorded.version, recorded.status, len(rows), machine.outcome is not None,
            value if status == "completed" else None, _waits_for(machine),
        )  # fmt: skip
    except NonDeterminismError as error:
        raise NonDeterminismError(error.message, detail=error.detail, hint=_HINT) from None
    except PgDurableError as error:
        if not recorded.redacted:
            raise
        error.hint = "The payloads of this history were redacted, and its code may need them: export it without."
        raise
    finally:
        hosted.close()
        hosted.host.threads.shutdown(wait=False)


def _hosted(recorded: Recorded, definition: Workflow[Any, Any], input: Any, started_us: int, seed: bytes) -> Hosted:
    store = Store(VirtualClock(started_us), apply_write)
    journal = MemoryJournal(store, 1, lambda point: False, lambda: None)
    host = Host(journal, Registry([definition]), payload_limit=PAYLOAD_LIMIT, threads=1)
    host.draining = True  # nothing begins
    if recorded.redacted:
        host.async_machine, host.thread_machine = _BlindAsync, _BlindThread
    try:
        definition.signature.load_input(input)
    except PgDurableError as error:
        error.message = f"instance {recorded.id}: its input does not fit {definition.title}: {error.message}"
        raise
    key = None if recorded.id == str(recorded.instance_id) else recorded.id
    hosted = host._host(recorded.instance_id.bytes, key, definition, input, started_us, None, seed)
    assert hosted is not None
    return hosted


def _waits_for(machine: Machine) -> tuple[str, ...]:
    if machine.outcome is not None:
        return ()
    return tuple(f"#{command.seq} {command}" for command in machine.pending.values())


def _check_end(recorded: Recorded, hosted: Hosted) -> None:
    """Raises NonDeterminismError when the code is not where the recorded run was at the end of its history."""
    machine = hosted.machine
    last = recorded.rows[-1][1] if recorded.rows else 0
    if recorded.status not in ("completed", "failed"):
        return
    if machine.outcome is None:
        now = f"waits for {', '.join(_waits_for(machine)) or 'an event'}"
    elif machine.outcome[0] != recorded.status:
        now = f"ended {machine.outcome[0]}"
        if isinstance(machine.outcome[1], BaseException):
            now += f": {type(machine.outcome[1]).__name__}: {machine.outcome[1]}"
    else:
        return
    raise NonDeterminismError(
        f"{hosted.label} ({machine.workflow}) does not end as its history does",
        detail=f"  after event {last}\n    history:  ended {recorded.status}\n    code now: {now}",
        hint=_HINT,
    )


def _blind(machine: Machine, seq: int, mark: int | None) -> int | None:
    """The fingerprint to expect where arguments follow from redacted payloads: whatever it is."""
    command = machine.pending.get(seq) or machine._given_up.get(seq)
    return mark if command is None else command.fingerprint


class _BlindAsync(AsyncMachine):
    def expect(self, event_id: int, seq: int, kind: str, name: str | None, fingerprint: int | None) -> None:
        super().expect(event_id, seq, kind, name, _blind(self, seq, fingerprint))


class _BlindThread(ThreadMachine):
    def expect(self, event_id: int, seq: int, kind: str, name: str | None, fingerprint: int | None) -> None:
        super().expect(event_id, seq, kind, name, _blind(self, seq, fingerprint))
