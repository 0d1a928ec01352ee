"""Operations on instances: cancel, terminate, pause, resume, retry, fork, delete. On one by its handle, on many here.

What each does is in SQL (sql/functions); here it is asked for, singly or in small steps.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from pgdurable._engine.inputs import check_name
from pgdurable.codec import encode
from pgdurable.errors import InvalidInput
from pgdurable.retry import seconds
from pgdurable.workflow import Workflow

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pgdurable._engine.database import Database

__all__ = ["Done", "Filter", "Operations", "Progress", "operate"]

_STATUSES = ("pending", "running", "waiting", "paused", "completed", "failed", "cancelled", "timed_out")
_MOST_A_STEP = 200
# Between two steps, for whoever else wants the server.
_PAUSE_S = 0.002
_FIRST = uuid.UUID(int=0)
_LAST = uuid.UUID(int=2**128 - 1)


class Filter(TypedDict, total=False):
    """Which instances an operation on many is for: those that fit all that is given.

    Attributes:
        status: one, or several.
        workflow: the function, or its name.
        version, queue: as recorded with the instance.
        labels: those whose labels contain these.
        error: those with an error of this type (the last part of its name, such as ``OutOfStock``).
        parent: children of this instance, by its UUID.
        older_than, newer_than: seconds (or timedelta) since they were started.
        finished_before: those that ended before this time.
        everything: needs to be True where nothing else is given.
        dry_run: only count.
        on_step: is told of each small step.
    """

    status: str | Sequence[str]
    workflow: str | Workflow[Any, Any]
    version: str
    queue: str
    labels: Mapping[str, Any]
    error: str
    parent: uuid.UUID
    older_than: float | timedelta
    newer_than: float | timedelta
    finished_before: datetime
    everything: bool
    dry_run: bool
    on_step: Callable[[Progress], None]


@dataclass
class Progress:
    """How far an operation on many instances has got: what its caller is told after each step.

    Attributes:
        looked: instances looked at.
        done: on how many it was carried out; with `dry_run`, on how many it would be.
        idle: how many fitted and had nothing to be done: they had ended, or were as wanted.
        busy: how many somebody held all the time; calling again reaches them.
        since, before, place: ids, which are time: where it began, where it ends, and how far it is.
    """

    looked: int = 0
    done: int = 0
    idle: int = 0
    busy: int = 0
    since: uuid.UUID = field(default=_FIRST, repr=False)
    before: uuid.UUID = field(default=_FIRST, repr=False)
    place: uuid.UUID = field(default=_FIRST, repr=False)


Done = Progress


class Operations:
    """What `Client` can do to many instances at once.

    Each call takes ids, or a filter (see `Filter`), or both. It goes in small steps of at most 200 instances, each
    committed by itself, that hold up neither workers nor starts; instances started after the call are not touched.
    Interrupted (cancelled, killed, the connection lost for good), what was done stays done and calling again goes on.
    """

    _database: Database

    async def cancel(self, *ids: str, reason: str | None = None, **fits: Unpack[Filter]) -> Done:
        """Asks instances to end, as `Handle.cancel`, and says of how many."""
        return await operate(self._database, "cancel", ids, fits, {"reason": reason})

    async def terminate(self, *ids: str, reason: str | None = None, **fits: Unpack[Filter]) -> Done:
        """Ends instances without clean-up, as `Handle.terminate`, and says how many."""
        return await operate(self._database, "terminate", ids, fits, {"reason": reason})

    async def pause(self, *ids: str, **fits: Unpack[Filter]) -> Done:
        """Lets instances stand still, as `Handle.pause`, and says how many."""
        return await operate(self._database, "pause", ids, fits, {})

    async def resume(self, *ids: str, **fits: Unpack[Filter]) -> Done:
        """Lets paused instances go on, as `Handle.resume`, and says how many."""
        return await operate(self._database, "resume", ids, fits, {})

    async def retry(self, *ids: str, **fits: Unpack[Filter]) -> Done:
        """Lets failed instances go on from the failed step, as `Handle.retry`, and says how many."""
        return await operate(self._database, "retry", ids, fits, {})

    async def fork(
        self,
        *ids: str,
        from_event: int | None = None,
        new_version: str | None = None,
        suffix: str = "-fork",
        **fits: Unpack[Filter],
    ) -> Done:
        """Starts copies of instances, as `Handle.fork`, and says how many.

        Args:
            new_version: of the copies. Default: the originals'.
            suffix: a copy's id is the original's with this behind it, so a call that is made again makes none anew.
        """
        if not suffix:
            raise InvalidInput("the copies' ids need a suffix", hint='For example suffix="-v2".')
        options = {"from_event": from_event, "version": new_version, "suffix": suffix}
        return await operate(self._database, "fork", ids, fits, options)

    async def delete(self, *ids: str, **fits: Unpack[Filter]) -> Done:
        """Removes ended instances, as `Handle.delete`, and says how many. Those that have not ended stay."""
        return await operate(self._database, "delete", ids, fits, {})


async def operate(
    database: Database, operation: str, ids: Sequence[str], fits: Mapping[str, Any], options: Mapping[str, Any]
) -> Done:
    """An operation on all instances that fit, step by step. Raises InvalidInput for a filter that is none."""
    wanted = _stored(ids, fits)
    given = json.dumps({name: value for name, value in options.items() if value is not None})
    progress = Progress()
    older, newer = seconds(fits.get("older_than")), seconds(fits.get("newer_than"))
    progress.since, progress.before = (await database.rows("bulk_bounds", (newer, newer, older)))[0]
    progress.place = progress.since
    tell = fits.get("on_step") or (lambda progress: None)
    text = json.dumps(wanted)
    busy: list[uuid.UUID] = []
    while progress.place < progress.before:
        place = (progress.place, progress.before)
        params = (operation, *place, text, given, _MOST_A_STEP, bool(fits.get("dry_run")))
        last, looked, done, idle, held = (await database.rows("bulk_step", params))[0]
        if last is None:
            break
        progress.place = uuid.UUID(int=min(last.int + 1, _LAST.int))
        progress.looked += looked
        progress.done += done
        progress.idle += idle
        progress.busy += len(held)
        busy += held
        tell(progress)
        await asyncio.sleep(_PAUSE_S)
    for first in range(0, len(busy), _MOST_A_STEP):  # held by a claim, most likely: once more
        again = json.dumps({**wanted, "ids": [str(id) for id in busy[first : first + _MOST_A_STEP]]})
        params = (operation, _FIRST, _LAST, again, given, _MOST_A_STEP, False)
        _, _, done, idle, held = (await database.rows("bulk_step", params))[0]
        progress.done += done
        progress.idle += idle
        progress.busy -= done + idle
        tell(progress)
    return progress


def _stored(ids: Sequence[str], fits: Mapping[str, Any]) -> dict[str, Any]:
    """The filter as SQL takes it."""
    unknown = sorted(set(fits) - set(Filter.__annotations__))
    if unknown:
        raise TypeError(f"there is no filter {unknown[0]!r}; there are {', '.join(Filter.__annotations__)}")
    given = {name: value for name, value in fits.items() if value is not None and name not in ("dry_run", "on_step")}
    if not ids and not given:
        raise InvalidInput(
            "neither ids nor a filter were given",
            hint="Give at least one (workflow=, status=, older_than=, ...), or everything=True to mean all instances.",
        )
    wanted: dict[str, Any] = {"ids": [str(id) for id in ids]} if ids else {}
    if "status" in given:
        status = given["status"]
        wanted["status"] = [status] if isinstance(status, str) else list(status)
        for one in wanted["status"]:
            if one not in _STATUSES:
                raise InvalidInput(f"there is no status {one!r}", hint=f"There are {', '.join(_STATUSES)}.")
    if "workflow" in given:
        workflow = given["workflow"]
        wanted["workflow"] = check_name(
            workflow.name if isinstance(workflow, Workflow) else workflow, "a workflow's name"
        )
    for name in ("version", "queue", "error"):
        if name in given:
            wanted[name] = check_name(given[name], f"a filter's {name}")
    if "labels" in given:
        wanted["labels"] = json.loads(encode(dict(given["labels"]), what="labels"))
    if "parent" in given:
        wanted["parent"] = str(given["parent"])
    if "finished_before" in given:
        wanted["finished_before"] = given["finished_before"].isoformat()
    return wanted
