"""`client.queues`: the limits of queues, set and read."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import EllipsisType
from typing import Any, TypeAlias

from pgdurable._engine.database import Database
from pgdurable._engine.inputs import check_name
from pgdurable.errors import InvalidInput
from pgdurable.retry import seconds

__all__ = ["PartitionInfo", "QueueInfo", "Queues", "QueuesMixin"]

Rate: TypeAlias = tuple[int, float | timedelta]
_WHAT = "a queue's name"


@dataclass(frozen=True)
class PartitionInfo:
    """What one partition of a queue has of its own; None: as the queue says of each."""

    partition: str
    weight: int
    paused: bool
    concurrency: int | None
    worker_concurrency: int | None
    rate: tuple[int, float] | None


@dataclass(frozen=True)
class QueueInfo:
    """A queue's limits, None where it has none, and what stands in it.

    Attributes:
        rate, partition_rate: how many may begin within how many seconds.
        due: instances that could run now; `later`: those with a time to come; `running`: held by workers.
        oldest_due: since when the one that waits longest could run.
        listeners: living workers that listen to the queue, and have a workflow of what is due.
        partitions: those that were set to something of their own.
    """

    name: str
    paused: bool
    concurrency: int | None
    worker_concurrency: int | None
    rate: tuple[int, float] | None
    partition_concurrency: int | None
    partition_worker_concurrency: int | None
    partition_rate: tuple[int, float] | None
    due: int
    later: int
    running: int
    oldest_due: datetime | None
    listeners: int
    partitions: tuple[PartitionInfo, ...] = ()


class Queues:
    """Sets and reads the limits of queues. From `client.queues`.

    Every worker keeps a limit from the moment it knows of it: within milliseconds of its commit, within a second
    behind a pooler. What runs already goes on.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set(
        self,
        name: str,
        *,
        concurrency: int | EllipsisType | None = ...,
        worker_concurrency: int | EllipsisType | None = ...,
        rate: Rate | EllipsisType | None = ...,
        partition_concurrency: int | EllipsisType | None = ...,
        partition_worker_concurrency: int | EllipsisType | None = ...,
        partition_rate: Rate | EllipsisType | None = ...,
        paused: bool | EllipsisType = ...,
    ) -> None:
        """Sets limits of a queue; what is not given stays as it is, None takes a limit away. Safe to do again.

        Args:
            name: any but `default`, which is the queue without limits.
            concurrency: how many of its instances all workers together may hold at once. One that only waits (for a
                timer, a signal) holds its slot until it leaves memory, `park_after` seconds later; to go on it needs
                one again, before any that has not begun.
            worker_concurrency: how many one worker may hold.
            rate: ``(count, seconds)``: no more than so many begin within any stretch of so many seconds (or timedelta).
                One that goes on after waiting or a crash does not count again.
            partition_concurrency, partition_worker_concurrency, partition_rate: the same of each partition.
            paused: none of it is let go meanwhile; those that run go on.
        Raises:
            InvalidInput: the queue `default`, or a limit that is none.
        """
        count, window = _rate(rate, "rate")
        of_each, window_of_each = _rate(partition_rate, "partition_rate")
        await self._database.one(
            "set_queue",
            (
                check_name(name, _WHAT), _limit(concurrency, "concurrency"),
                _limit(worker_concurrency, "worker_concurrency"), count, window,
                _limit(partition_concurrency, "partition_concurrency"),
                _limit(partition_worker_concurrency, "partition_worker_concurrency"), of_each, window_of_each,
                None if isinstance(paused, EllipsisType) else bool(paused),
            ),
        )  # fmt: skip
        self._database.on_queue(name)

    async def set_partition(
        self,
        name: str,
        partition: str,
        *,
        weight: int | EllipsisType = ...,
        concurrency: int | EllipsisType | None = ...,
        worker_concurrency: int | EllipsisType | None = ...,
        rate: Rate | EllipsisType | None = ...,
        paused: bool | EllipsisType = ...,
    ) -> None:
        """Sets what one partition has of its own; what is not given stays, None: as the queue says of each.

        Args:
            weight: 1 (the default) to 1000: its share beside the other partitions that wait.
            concurrency, worker_concurrency, rate, paused: as for `set`, of this partition.
        Raises:
            InvalidInput: the queue `default`, or a limit that is none.
        """
        count, window = _rate(rate, "rate")
        await self._database.one(
            "set_queue_partition",
            (
                check_name(name, _WHAT), check_name(partition, "a partition's name"), _limit(weight, "weight"),
                _limit(concurrency, "concurrency"), _limit(worker_concurrency, "worker_concurrency"), count, window,
                None if isinstance(paused, EllipsisType) else bool(paused),
            ),
        )  # fmt: skip
        self._database.on_queue(name)

    async def pause(self, name: str) -> None:
        """Lets none of the queue's instances go until `resume`; those that run go on. Safe to do again."""
        await self.set(name, paused=True)

    async def resume(self, name: str) -> None:
        """Lets the queue's instances go again. Safe to do again."""
        await self.set(name, paused=False)

    async def list(self) -> builtins.list[QueueInfo]:
        """Every queue that has settings, or in which something stands, by name.

        It counts what stands in all queues, so it takes longer the more that is.
        """
        own: dict[str, builtins.list[PartitionInfo]] = {}
        for name, partition, weight, paused, concurrency, here, count, window in await self._database.rows(
            "queue_partitions", ()
        ):
            info = PartitionInfo(partition, weight, paused, concurrency, here, _pair(count, window))
            own.setdefault(name, []).append(info)
        return [
            QueueInfo(
                name=row[0], paused=row[1], concurrency=row[2], worker_concurrency=row[3], rate=_pair(row[4], row[5]),
                partition_concurrency=row[6], partition_worker_concurrency=row[7], partition_rate=_pair(row[8], row[9]),
                due=row[10], later=row[11], running=row[12], oldest_due=row[13], listeners=row[14],
                partitions=tuple(own.get(row[0], ())),
            )
            for row in await self._database.rows("queues", ())
        ]  # fmt: skip


class QueuesMixin:
    """What `Client` has of queues."""

    _database: Database

    @property
    def queues(self) -> Queues:
        """The limits of queues: `set`, `set_partition`, `pause`, `resume`, `list`."""
        return Queues(self._database)


def _limit(value: Any, what: str) -> int | None:
    """As SQL's function takes it: null leaves what there is, 0 takes it away."""
    if isinstance(value, EllipsisType):
        return None
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 0x7FFFFFFF:
        raise InvalidInput(
            f"{what} is a whole number above 0, or None, found {value!r:.60}", hint="Take another limit."
        )
    return value


def _rate(value: Any, what: str) -> tuple[int | None, float | None]:
    if isinstance(value, EllipsisType):
        return None, None
    if value is None:
        return 0, 0.0
    try:
        count, window = value
        found = _limit(count, what), seconds(window)
    except (TypeError, ValueError, InvalidInput):
        found = None, None
    if found[0] is None or not 0.0 < (found[1] or 0.0) <= 31 * 86400:
        raise InvalidInput(
            f"{what} is a pair of a whole number and seconds, both above 0, found {value!r:.60}",
            detail="The seconds may be a timedelta, up to 31 days.",
            hint=f"For example {what}=(100, 60): a hundred in any minute. None: no limit.",
        )
    return found


def _pair(count: int | None, window: float | None) -> tuple[int, float] | None:
    return None if count is None or window is None else (count, window)
