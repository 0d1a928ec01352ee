"""A worker that is stopped past its lease, taken over, and continued: it commits nothing more, and joins anew."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from .driver import PATIENCE_S, Order, Scenario

LEASE_S = 2.0


async def everything(scenario: Scenario) -> dict[str, list[Any]]:
    """All rows that a worker could write, and by which transaction each was."""
    return {
        table: await scenario.rows(f"select xmin::text, ctid::text, t.* from {table} t order by t.ctid")
        for table in ("@.history", "@.instances", "@.instance_keys", "@.events", "#.ledger", "#.accounts")
    }


async def open_steps(scenario: Scenario) -> list[Any]:
    """Sessions in which a transaction step has run its statements and takes its time."""
    return await scenario.rows(
        "select pid from pg_stat_activity where state = 'idle in transaction' and query like %s", f"%{scenario.shop}%"
    )


async def holding(scenario: Scenario, steps: int) -> None:
    """Waits until the worker is in the middle of a transaction step, with other work around it."""

    async def inside() -> bool:
        return len(await open_steps(scenario)) == steps

    await scenario.until(inside, f"{steps} transaction steps are under way")


async def stop_and_continue(scenario: Scenario, steps: list[Order], patience_s: float) -> None:
    """Stops a worker in the middle of these, has another take over and end everything, continues the first."""
    zombie = await scenario.begin(lease=LEASE_S)
    scenario.wave(zombie)
    await scenario.all_ended()
    for workflow in ("sleeper", "unlucky"):
        scenario.give(zombie, scenario.make(workflow, keyed=False))
    for order in steps:
        scenario.give(zombie, order)
    await holding(scenario, len(steps))
    zombie.signal(signal.SIGSTOP)
    scenario.zombies.add(zombie.pid)
    heir = await scenario.begin(lease=LEASE_S)
    await scenario.taken_over(zombie.ids[0])
    scenario.wave(heir)
    await scenario.all_ended(patience_s)
    before = await everything(scenario)

    zombie.signal(signal.SIGCONT)

    async def rejoined() -> bool:
        return len(zombie.ids) == 2

    await scenario.until(rejoined, "the zombie joins under another id")
    assert zombie.ids[1] > zombie.ids[0]
    # The transaction steps it was in the middle of are rolled back before it starts anything else.
    await scenario.until(lambda: nothing_open(scenario), "the zombie's transactions have ended")
    assert await everything(scenario) == before
    await heir.stop()
    scenario.wave(zombie)
    await scenario.finish()
    rows = await scenario.rows("select state, successor from @.workers where id = %s", zombie.ids[0])
    assert rows == [("dead", heir.ids[0])]


async def nothing_open(scenario: Scenario) -> bool:
    return not await open_steps(scenario)


async def test_stopped_worker_writes_nothing_after_its_takeover(dsn: str, tmp_path: Path, seed: int) -> None:
    async with Scenario(dsn, tmp_path, seed) as scenario:
        await stop_and_continue(scenario, [scenario.make("slow_payer", keyed=False) for _ in range(3)], PATIENCE_S)


async def test_stopped_workers_locks_do_not_hold_up_its_successor(dsn: str, tmp_path: Path, seed: int) -> None:
    async with Scenario(dsn, tmp_path, seed) as scenario:
        await stop_and_continue(scenario, [scenario.make("locker", keyed=False)], 6.0)
