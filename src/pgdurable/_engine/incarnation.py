"""Losing one's place among the workers, and joining anew under another number.

A worker that was silent for too long is taken over, and one whose database has been set back (a failover that lost
commits) holds in memory what follows from nothing. Either way all that it held is dropped: others have it, or the
database knows better. What callers still wait for is sent again, in the form that does no harm twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

import psycopg

from pgdurable._engine.backlog import Gate
from pgdurable._engine.host import Host
from pgdurable._engine.journal import Journal
from pgdurable._engine.membership import Membership
from pgdurable._engine.poller import Poller
from pgdurable._engine.records import StartRecord
from pgdurable._engine.trials import Trials
from pgdurable.errors import PgDurableError

__all__ = ["Incarnation"]

logger = logging.getLogger("pgdurable.engine")


class Incarnation:
    """See the head of this file.

    Args:
        enter: joins the workers under a new number and opens the journal under it.

    Attributes:
        joined: whether there is a place to lose: from the first joining to the end of the stop.
        rejoining: the task that does it, while it is under way.
    """

    def __init__(
        self,
        host: Host,
        journal: Journal,
        membership: Membership,
        trials: Trials,
        gate: Gate,
        poller: Poller,
        *,
        enter: Callable[[], Awaitable[None]],
    ) -> None:
        self._host = host
        self._journal = journal
        self._membership = membership
        self._trials = trials
        self._gate = gate
        self._poller = poller
        self._enter = enter
        self.joined = False
        self.rejoining: asyncio.Task[None] | None = None

    def fenced(self) -> None:
        """Another worker has taken this one over."""
        self._leave_off("was taken over")

    def forgotten(self) -> None:
        """The database has lost something that what is in memory follows from."""
        self._leave_off("was forgotten in part", (self._host.worker, self._membership.joined))

    def _leave_off(self, why: str, retired: tuple[int, datetime | None] | None = None) -> None:
        host = self._host
        if not self.joined or host.fenced:
            return
        host.fenced = True
        if host.draining:
            logger.warning("worker %s %s while it was stopping; it drops what it held", host.worker, why)
            host.drop_everything()
            return
        logger.warning("worker %s %s; it drops what it held and joins anew", host.worker, why)
        self.rejoining = asyncio.get_running_loop().create_task(self._rejoin(retired))

    async def _rejoin(self, retired: tuple[int, datetime | None] | None) -> None:
        host, journal = self._host, self._journal
        host.drop_everything()
        self._trials.clear()
        tags = await journal.discard()
        wait = 0.05
        while True:
            try:
                await self._enter()
                if retired is not None:
                    await self._membership.retire(*retired)
                break
            except (PgDurableError, psycopg.Error) as error:
                logger.debug("cannot join yet: %s", error)
            await asyncio.sleep(wait)
            wait = min(wait * 2, 1.0)
        host.fenced = False
        for tag in tags:
            # A start nobody has been told of: it may have been committed, so it is sent in its idempotent form.
            if isinstance(tag, StartRecord):
                host.start_unowned_again(tag)
        journal.resend_all()
        self._gate.open_up()
        self.rejoining = None
        self._poller.doubt()
