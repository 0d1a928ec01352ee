"""The times of a schedule, and what a worker does about those that have come. No database, no clock: values in and out.

Times are computed on the wall clock of the schedule's zone by cronsim, as Debian's cron does around a change of the
clocks: what would fall into the hour that is skipped runs right after it, what falls into the doubled hour runs once;
what runs every hour or oftener goes by elapsed time. Intervals are elapsed time always.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pgdurable.errors import InvalidInput

__all__ = ["OVERLAPS", "Due", "Plan", "Times", "iso", "key_of", "plan", "tick_of"]

OVERLAPS = ("skip", "buffer_one", "buffer_all", "cancel_other", "allow")
ENDED = frozenset({"completed", "failed", "cancelled", "timed_out"})
# A tick counts as on time for so long: a takeover of its worker takes that.
ON_TIME = timedelta(seconds=15)
# Ticks that are started in one commit, and those that may wait for one another.
AT_ONCE = 100
MOST_BUFFERED = 1000
# Ticks that are walked over one by one; what lies before is jumped over and not counted.
_WALKED = 1000
# An instance that others wait for is looked at after a tenth of the time it has run, within these.
_LOOK = (timedelta(milliseconds=250), timedelta(seconds=10))
_NAMED = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip
_UTC = timezone.utc


def iso(at: datetime) -> str:
    """As text that says the same everywhere."""
    return at.astimezone(_UTC).isoformat()


def tick_of(text: str) -> datetime:
    """The time that `iso` wrote."""
    return datetime.fromisoformat(text)


def key_of(name: str, tick: datetime) -> str:
    """The id of the instance of a tick."""
    return f"{name}@{tick.astimezone(_UTC).replace(tzinfo=None).isoformat()}Z"


class Times:
    """When a schedule ticks, as its definition says.

    Args:
        definition: as in the table's column.
        name: for messages.
    Raises InvalidInput when cron or zone are none.
    """

    def __init__(self, definition: dict[str, Any], name: str) -> None:
        self.name = name
        self.cron: str | None = definition.get("cron")
        self.every = timedelta(seconds=definition["every_s"]) if "every_s" in definition else None
        self.anchor = tick_of(definition["anchor"]) if "anchor" in definition else None
        self.at = tick_of(definition["at"]) if "at" in definition else None
        self.jitter = timedelta(seconds=definition.get("jitter_s", 0))
        self.zone = _zone(definition.get("tz", "UTC"), name)
        if self.cron is not None:
            self.cron = _NAMED.get(self.cron.strip().lower(), self.cron)
            self._crons(datetime.now(_UTC))

    def _crons(self, after: datetime) -> Iterator[datetime]:
        try:
            return CronSim(self.cron or "", after.astimezone(self.zone))
        except CronSimError as error:
            raise InvalidInput(
                f"schedule {self.name!r}: {self.cron!r} is no cron expression: {error}",
                detail="Expected minute, hour, day of month, month and day of week; seconds before them if you like.",
                hint="For example '0 3 * * 1-5': at three o'clock on working days.",
            ) from None

    def after(self, moment: datetime) -> Iterator[datetime]:
        """All ticks after this moment, in order, each once."""
        if self.at is not None:
            if self.at > moment:
                yield self.at
        elif self.every is not None and self.anchor is not None:
            n = (moment - self.anchor) // self.every + 1
            while True:
                yield self.anchor + n * self.every
                n += 1
        else:
            last = moment.astimezone(_UTC)
            for local in self._crons(moment):
                # Two ticks of the skipped hour may become one; and in the second of the doubled hours the first tick
                # after now is, for what runs once in them, already past.
                tick = local.astimezone(_UTC)
                if tick > last:
                    last = tick
                    yield tick

    def next(self, moment: datetime) -> datetime | None:
        """The first tick after this moment; None: there is none."""
        return next(self.after(moment), None)

    def first(self, since: datetime) -> datetime | None:
        """The first tick of a schedule made then. One that comes once comes, also when it was for a time before."""
        return self.at if self.at is not None else self.next(since)

    def fires(self, tick: datetime) -> datetime:
        """When the tick is acted on: put off by its jitter, the same for all who ask, and never past the next tick."""
        if not self.jitter:
            return tick
        share = int.from_bytes(hashlib.sha256(f"{self.name} {iso(tick)}".encode()).digest()[:8], "big") / 2**64
        following = self.next(tick)
        span = self.jitter if following is None else min(self.jitter, following - tick)
        return tick + share * span

    def latest(self, until: datetime, floor: datetime) -> datetime:
        """The last tick up to `until`, or `floor`, which is one, when there is none between."""
        if self.every is not None and self.anchor is not None:
            return max(self.anchor + (until - self.anchor) // self.every * self.every, floor)
        for span in (timedelta(hours=1), timedelta(days=2), timedelta(days=40)):
            found = floor
            if until - span <= floor:
                break
            for tick in self.after(until - span):
                if tick > until:
                    break
                found = tick
            if found > floor:
                return found
        found = floor
        for tick in self.after(floor):
            if tick > until:
                break
            found = tick
        return found

    def due(
        self, tick: datetime, now: datetime, catch_up: timedelta | None
    ) -> tuple[list[datetime], datetime | None, int]:
        """Of the ticks from this one on: those to start now, the one to look at next, and how many were missed.

        Those within `catch_up` are made good, and the last one whatever it says if it is on time; without a window, the
        last one however old. At most AT_ONCE; then the next one is due too.
        """
        wanted: list[datetime] = []
        late: datetime | None = None
        missed = walked = 0
        place: datetime | None = tick
        ticks = self.after(tick)
        while place is not None and self.fires(place) <= now and len(wanted) < AT_ONCE:
            if catch_up is not None and now - place <= catch_up:
                wanted.append(place)
            else:
                missed += late is not None
                late = place
                walked += 1
                if walked == _WALKED:
                    there = self.latest(now if catch_up is None else now - catch_up, place)
                    if there > place:
                        missed += 1
                        late = there
                        ticks = self.after(there)
            place = next(ticks, None)
        if late is not None:
            if not wanted and (catch_up is None or now - late <= ON_TIME):
                wanted.append(late)
            else:
                missed += 1
        return wanted, place, missed


def _zone(name: str, of: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # no such file, a path that leads out, not found
        raise InvalidInput(
            f"schedule {of!r}: there is no time zone {name!r}", hint="Use a name like 'Europe/Berlin' or 'UTC'."
        ) from None


@dataclass
class Due:
    """A schedule that has to be looked at: its row, and the states of the instances that were seen running."""

    name: str
    workflow: str
    definition: dict[str, Any]
    input: str
    revision: int
    paused: bool
    since: datetime
    tick_at: datetime | None
    buffered: list[datetime]
    requests: list[dict[str, Any]]
    last_at: datetime | None
    running: dict[str, str]
    now: datetime


@dataclass
class Plan:
    """What is to be done, and the schedule's row afterwards."""

    starts: list[datetime] = field(default_factory=list)
    cancel: list[str] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
    tick_at: datetime | None = None
    next_at: datetime | None = None
    buffered: list[datetime] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    note: str | None = None
    skipped: int = 0
    missed: int = 0


def plan(due: Due, taken: frozenset[str] = frozenset()) -> Plan:
    """What a worker does about this schedule now.

    Args:
        taken: ids of instances that are known to exist, of ticks that are asked for by a backfill.
    Raises InvalidInput where its definition is none.
    """
    done = Plan(buffered=list(due.buffered))
    done.keep = [id for id, status in due.running.items() if status not in ENDED]
    failed = [id for id, status in due.running.items() if status in ("failed", "timed_out")]
    for request in due.requests:
        if "trigger" in request:
            done.starts.append(tick_of(request["trigger"]))
        else:
            done.requests.append(request)
    times = Times(due.definition, due.name)
    watches = bool(due.definition.get("pause_on_failure"))
    if watches and failed and not due.paused:
        done.note = f"instance {failed[-1]} ended {due.running[failed[-1]]}"
    if due.paused or done.note is not None:
        return done
    more = _backfill(done, times, taken, due)
    _advance(done, times, due)
    soonest = [] if done.tick_at is None else [times.fires(done.tick_at)]
    if done.buffered or (watches and (done.keep or done.starts)):
        shortest, longest = _LOOK
        ran = timedelta(0) if done.starts or due.last_at is None else due.now - due.last_at
        soonest.append(due.now + min(max(ran / 10, shortest), longest))
    if more:
        soonest.append(due.now)
    done.next_at = min(soonest, default=None)
    return done


def _backfill(done: Plan, times: Times, taken: frozenset[str], due: Due) -> bool:
    """Moves what was asked for of the past to where it is started from. Returns whether there is more."""
    asked, done.requests = done.requests, []
    more = False
    for request in asked:
        at_once = request.get("overlap", "allow" if due.definition.get("overlap") == "allow" else "") == "allow"
        since, until = tick_of(request["since"]), tick_of(request["until"])
        room = AT_ONCE - len(done.starts) if at_once else MOST_BUFFERED - len(done.buffered)
        for tick in ticks_of(times, since, until):
            if room <= 0:
                done.requests.append({**request, "since": iso(since)})
                more = more or at_once
                break
            if key_of(due.name, tick) not in taken and tick not in done.buffered:
                (done.starts if at_once else done.buffered).append(tick)
            room -= 1
            since = tick
    done.buffered.sort()
    return more


def ticks_of(times: Times, since: datetime, until: datetime) -> Iterator[datetime]:
    """The ticks after one moment up to another."""
    if times.at is not None:
        if since < times.at <= until:
            yield times.at
        return
    for tick in times.after(since):
        if tick > until:
            return
        yield tick


def _advance(done: Plan, times: Times, due: Due) -> None:
    """The ticks that have come, by what the schedule says of overlaps."""
    overlap = due.definition.get("overlap", "skip")
    if done.buffered and not done.keep and not done.starts:
        done.starts.append(done.buffered.pop(0))
    over = due.tick_at is None and times.at is not None and due.last_at == times.at
    tick = None if over else due.tick_at or times.first(due.since)
    if tick is None:
        return
    seconds = due.definition.get("catch_up_s")
    come, done.tick_at, done.missed = times.due(tick, due.now, None if seconds is None else timedelta(seconds=seconds))
    for tick in come:
        if overlap == "allow" or not (done.keep or done.starts):
            done.starts.append(tick)
        elif len(done.buffered) < {"buffer_one": 1, "buffer_all": MOST_BUFFERED}.get(overlap, 0):
            done.buffered.append(tick)
        elif overlap == "cancel_other":
            done.skipped += len(done.buffered)
            done.buffered = [tick]
            done.cancel = list(done.keep)
        else:
            done.skipped += 1
