"""Schedules, as clients see them: made, looked at, paused, triggered, backfilled, changed, removed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from pgdurable._engine.database import Database
from pgdurable._engine.inputs import Input, check_name
from pgdurable._engine.schedules import place_of_input, takes_tick
from pgdurable._engine.ticks import OVERLAPS, Times, iso
from pgdurable.codec import decode_stored, encode
from pgdurable.errors import InvalidInput, PayloadSealed, ScheduleNotFound
from pgdurable.handle import Handle, from_json
from pgdurable.retry import seconds
from pgdurable.workflow import Workflow

if TYPE_CHECKING:
    from pgdurable.client import Client

__all__ = ["Overlap", "Schedule", "Schedules", "SchedulesMixin"]

Overlap: TypeAlias = Literal["skip", "buffer_one", "buffer_all", "cancel_other", "allow"]
Duration: TypeAlias = float | timedelta
_TRIGGER_S = 10.0


@dataclass(frozen=True)
class Schedule:
    """A schedule as it was when asked for.

    Attributes:
        state: `active`, `paused`, or `over` when it has no tick left.
        note: why it is paused.
        cron, tz, every, anchor, at: when it ticks; those that are not said are None.
        overlap, catch_up, jitter, pause_on_failure: as given.
        next_at: its next tick; None while it is paused or over.
        last_at, last_id: the tick started last, and the id of its instance.
        buffered: ticks that wait for the instance before them to end.
        started, skipped, missed: how many instances it started; ticks passed over since one ran; ticks nobody was there
            for (counted up to a thousand at a time).
    """

    name: str
    workflow: str
    state: str
    note: str | None
    cron: str | None
    tz: str | None
    every: timedelta | None
    anchor: datetime | None
    at: datetime | None
    overlap: str
    catch_up: timedelta | None
    jitter: timedelta | None
    pause_on_failure: bool
    next_at: datetime | None
    last_at: datetime | None
    last_id: str | None
    buffered: list[datetime]
    started: int
    skipped: int
    missed: int
    input: Any
    version: str | None
    queue: str
    priority: int
    labels: dict[str, Any] | None
    submitted_by: str
    created_at: datetime


class Schedules:
    """The schedules of a namespace: ``client.schedules``. Every call but `trigger` may be repeated without harm.

    All raise ScheduleNotFound for a name that no schedule has, and ConnectionFailed.
    """

    def __init__(self, client: Client, database: Database) -> None:
        self._client = client
        self._database = database

    async def list(self) -> list[Schedule]:
        """All schedules, by name."""
        return [self._schedule(row) for row in await self._database.rows("list_schedules", (None, None))]

    async def get(self, name: str) -> Schedule:
        """One schedule."""
        rows = await self._database.rows("list_schedules", (name, name))
        if not rows:
            raise ScheduleNotFound(
                f"there is no schedule {name!r}", hint="client.schedules.list() or `pgdurable schedules` shows them."
            )
        return self._schedule(rows[0])

    async def pause(self, name: str, note: str | None = None) -> bool:
        """It starts nothing until it is resumed; what runs goes on. Returns whether it was going.

        Ticks meanwhile are not made good later.

        Args:
            note: why, for people.
        """
        return bool(await self._database.one("pause_schedule", (name, note)))

    async def resume(self, name: str) -> bool:
        """It goes on with its ticks from now on. Returns whether it was paused."""
        return bool(await self._database.one("resume_schedule", (name,)))

    async def trigger(self, name: str, *, timeout: Duration = _TRIGGER_S) -> Handle[Any]:
        """Starts one instance now, whatever the schedule's overlap says, also while it is paused.

        Args:
            timeout: seconds (or timedelta) to wait for a worker that starts it.
        Raises:
            TimeoutError: no worker has the workflow just now. The instance is started when one comes.
        """
        now_us = self._database.clock.now_us()
        tick = datetime.fromtimestamp(now_us // 1_000_000, timezone.utc).replace(microsecond=now_us % 1_000_000)
        id = await self._database.one("trigger_schedule", (name, tick))
        limit = seconds(timeout) or 0.0
        give_up = time.monotonic() + limit
        pause = 0.002
        while True:
            found = await self._database.one("find_instance", (id,))
            if found is not None:
                return Handle(self._client, found, id)
            if time.monotonic() >= give_up:
                raise TimeoutError(f"schedule {name!r}: no worker has started {id!r} within {limit:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    async def backfill(
        self,
        name: str,
        since: datetime,
        until: datetime | None = None,
        *,
        overlap: Literal["buffer_all", "allow"] | None = None,
    ) -> None:
        """Asks for the ticks after `since` up to `until` that have no instance yet; workers start them.

        Args:
            since, until: aware times. Default of `until`: now.
            overlap: one after the other (`buffer_all`), or all at once (`allow`). Default: `allow` where the schedule
                says that, else `buffer_all`.
        """
        for moment in (since, until):
            if moment is not None and moment.tzinfo is None:
                raise InvalidInput(
                    f"schedule {name!r}: a backfill from {since} to {until} has no time zone", hint="Pass aware times."
                )
        await self._database.rows("backfill_schedule", (name, since, until, overlap))

    async def edit(self, name: str, **changes: Any) -> bool:
        """Changes some things and leaves the others. Returns whether anything changed.

        Args:
            **changes: arguments of `Client.schedule` by name; None for the default. One of `cron`, `every` and `at`
                takes the place of the others. `args` or `kwargs`: the workflow's arguments.
        """
        now = await self.get(name)
        input = None
        if "args" in changes or "kwargs" in changes:
            input = self._input(name, Input(now.workflow, self._client.payload_limit), tuple(changes.pop("args", ())),
                                changes.pop("kwargs", None))  # fmt: skip
        if unknown := [key for key in changes if key not in _WORDS]:
            raise InvalidInput(
                f"schedule {name!r}: nothing is called {', '.join(unknown)}", detail=f"There are {', '.join(_WORDS)}."
            )
        tz = changes.get("tz") or now.tz
        definition = _definition(name, **{"tz": tz, **changes}, partial=True)
        if "cron" not in changes and not ("tz" in changes and now.cron is not None):
            definition.pop("tz", None)
        return bool(await self._database.one("edit_schedule", (name, _json(definition), input)))

    async def delete(self, name: str) -> bool:
        """Removes it; the instances it started go on. Returns whether there was one."""
        return bool(await self._database.one("drop_schedule", (name,)))

    async def next(self, name: str, n: int = 5) -> _List[datetime]:
        """Its next n ticks, in its zone, as if it were not paused."""
        rows = await self._database.rows("list_schedules", (name, name))
        if not rows:
            await self.get(name)
        row = rows[0]
        times = Times(msgspec.json.decode(row[2]), name)
        found: list[datetime] = []
        first = row[6] or times.first(row[18])
        if times.at is not None and row[8] is not None and row[6] is None:
            first = None
        if first is not None:
            found = [first]
            for tick in times.after(first):
                if len(found) >= n:
                    break
                found.append(tick)
        return [tick.astimezone(times.zone) for tick in found[:n]]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _input(self, name: str, input: Input, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> str:
        """The arguments as stored; without the tick's time, which comes with the tick."""
        definition = input.definition
        if definition is not None and takes_tick(definition) and "scheduled_at" not in (kwargs or {}):
            names = [parameter.name for parameter in definition.signature.parameters]
            if len(args) <= names.index("scheduled_at"):
                data = input.encode(args, {**(kwargs or {}), "scheduled_at": datetime.now(timezone.utc)})
                value = decode_stored(data)
                del value["scheduled_at"]
                data = encode(value, what=f"input of schedule {name!r}")
            else:
                data = input.encode(args, kwargs)
        else:
            data = input.encode(args, kwargs)
        if (encryption := self._database.encryption) is not None:
            data = encryption.seal(place_of_input(name), "schedule", data)
        return data.decode()

    def _schedule(self, row: Any) -> Schedule:
        (
            name, workflow, text, input, paused, note, tick_at, next_at, last_at, last_id, buffered, started, skipped,
            missed, submitted_by, created_at, requests, since, _,
        ) = row  # fmt: skip
        said = msgspec.json.decode(text)
        if (encryption := self._database.encryption) is not None:
            input = encryption.open(place_of_input(name), "schedule", input)
        over = tick_at is None and next_at is None and not buffered and requests == "[]"
        if not paused and tick_at is None and not over:
            try:  # no worker has looked yet
                tick_at = Times(said, name).first(since)
            except InvalidInput:
                tick_at = None
        return Schedule(
            name=name, workflow=workflow, state="paused" if paused else "over" if over else "active", note=note,
            cron=said.get("cron"), tz=said.get("tz"), every=_span(said.get("every_s")),
            anchor=_moment(said.get("anchor")), at=_moment(said.get("at")), overlap=said.get("overlap", "skip"),
            catch_up=_span(said.get("catch_up_s")),
            jitter=_span(said.get("jitter_s")), pause_on_failure=bool(said.get("pause_on_failure")),
            next_at=None if paused or over else tick_at, last_at=last_at, last_id=last_id, buffered=buffered,
            started=started, skipped=skipped, missed=missed, input=_shown(input), version=said.get("version"),
            queue=said.get("queue", "default"), priority=said.get("priority", 0), labels=said.get("labels"),
            submitted_by=submitted_by, created_at=created_at,
        )  # fmt: skip


_List = list


class SchedulesMixin:
    """The part of `Client` that has to do with schedules."""

    _database: Database
    payload_limit: int

    @property
    def schedules(self) -> Schedules:
        """The namespace's schedules: list, pause, resume, trigger, backfill, edit, delete, next."""
        return Schedules(self, self._database)  # type: ignore[arg-type]

    async def schedule(
        self,
        name: str,
        workflow: str | Workflow[Any, Any],
        *args: Any,
        cron: str | None = None,
        tz: str = "UTC",
        every: Duration | None = None,
        anchor: datetime | None = None,
        at: datetime | None = None,
        overlap: Overlap = "skip",
        catch_up: Duration | None = None,
        jitter: Duration | None = None,
        pause_on_failure: bool = False,
        kwargs: dict[str, Any] | None = None,
        version: str | None = None,
        queue: str = "default",
        priority: int = 0,
        labels: dict[str, Any] | None = None,
    ) -> Schedule:
        """Makes a schedule, or changes the one of this name into this; it is durable when this returns.

        From then on some worker that has the workflow starts one instance per tick, exactly one, whatever dies. The
        same call again changes nothing, so a service may make it at every start. The instance's id is ``name@time``.
        A workflow with a parameter `scheduled_at` is given the tick's time there, in the schedule's zone.

        Args:
            name: 1 to 200 bytes.
            workflow: its name, or the decorated function.
            *args: the workflow's positional arguments; `kwargs`: its keyword arguments.
            cron: five fields (minute, hour, day of month, month, day of week), six with seconds first, or `@daily` and
                the like; on the clock of `tz`. What would fall into an hour that is skipped for daylight saving runs
                right after it; in a doubled hour it runs once.
            every: seconds (or timedelta), at least 0.1, counted from `anchor`. Default of that: now.
            at: once, at this time; without a zone of its own it is one of `tz`.
            tz: a name such as `Europe/Berlin`.
            overlap: what becomes of a tick while an instance of before still runs. `skip`: nothing. `buffer_one`,
                `buffer_all`: it waits for its end, one tick at most, or a thousand. `cancel_other`: that is cancelled,
                and the tick's begins when it has ended. `allow`: they run side by side.
            catch_up: how old a tick may be that no worker was there to start; those that are younger are all made good.
                None: only the last one is, however old. `timedelta(0)`: none (15 s late is on time).
            jitter: each tick is put off by something up to this, the same for each worker that computes it.
            pause_on_failure: it pauses when an instance of its ends failed or timed out.
            version, queue, priority, labels: as for `start`. Labels get `schedule` and `scheduled_at` besides.
        Raises:
            InvalidInput: cron, zone or arguments are none, or not exactly one of cron, every and at was given.
            InvalidId: somebody else's schedule has the name.
            ConnectionFailed: the server was away for `patience` seconds. The call can be made again.
        """
        input = Input(workflow, self.payload_limit)
        check_name(queue, "a queue's name")
        definition = _definition(
            name, cron=cron, tz=tz, every=every, anchor=anchor, at=at, overlap=overlap, catch_up=catch_up,
            jitter=jitter, pause_on_failure=pause_on_failure, queue=queue, priority=priority, labels=labels,
            version=check_name(version, "a version") if version else None,
        )  # fmt: skip
        text = self.schedules._input(name, input, args, kwargs)
        if self._database.encryption is not None:
            text = await self._same(name, text) or text
        await self._database.rows("put_schedule", (name, input.name, text, _json(definition)))
        return await self.schedules.get(name)

    async def _same(self, name: str, text: str) -> str | None:
        """The ciphertext that is there, if it holds the same: a fresh one differs, and would count as a change."""
        rows = await self._database.rows("list_schedules", (name, name))
        encryption = self._database.encryption
        if not rows or encryption is None:
            return None
        place = place_of_input(name)
        there: str = rows[0][3]
        same = encryption.open(place, "schedule", there) == encryption.open(place, "schedule", text)
        return there if same else None


_WORDS = (
    "cron", "tz", "every", "anchor", "at", "overlap", "catch_up", "jitter", "pause_on_failure", "version", "queue",
    "priority", "labels",
)  # fmt: skip


def _definition(name: str, *, partial: bool = False, tz: str | None = None, **said: Any) -> dict[str, Any]:
    """What the table's column holds, checked as far as it can be here. Raises InvalidInput."""
    given = [word for word in ("cron", "every", "at") if said.get(word) is not None]
    if len(given) != 1 and not (partial and not given):
        raise InvalidInput(
            f"schedule {name!r} needs one of cron, every and at, found {' and '.join(given) or 'none'}",
            hint="For example cron='0 3 * * 1-5', or every=timedelta(minutes=15).",
        )
    if said.get("overlap", "skip") not in (*OVERLAPS, None):
        raise InvalidInput(
            f"schedule {name!r}: there is no overlap {said['overlap']!r}", detail=f"There are {', '.join(OVERLAPS)}."
        )
    definition: dict[str, Any] = {}
    for word, value in said.items():
        if word in ("every", "catch_up", "jitter"):
            definition[f"{word}_s"] = None if value is None or (word == "jitter" and not value) else seconds(value)
        elif word in ("anchor", "at") and isinstance(value, datetime):
            zone = Times({"tz": tz or "UTC"}, name).zone
            definition[word] = iso(value if value.tzinfo is not None else value.replace(tzinfo=zone))
        elif (word, value) in (("queue", "default"), ("priority", 0), ("pause_on_failure", False)):
            definition[word] = None
        else:
            definition[word] = value
    if said.get("cron") is not None or (partial and not given):
        definition["tz"] = tz or "UTC"
    if given:
        times = {key: value for key, value in definition.items() if value is not None}
        Times({"anchor": iso(datetime.now(timezone.utc)), **times}, name)
    return definition


def _json(definition: dict[str, Any]) -> str:
    return encode(definition, what="labels of a schedule").decode()


def _span(value: float | None) -> timedelta | None:
    return None if value is None else timedelta(seconds=value)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _shown(input: Any) -> Any:
    try:
        return from_json(input)
    except PayloadSealed:
        return None
