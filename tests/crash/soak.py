"""Kills workers at random moments: ``python -m tests.crash.soak --kills 50 --seed 1``.

Starts orders without end, kills one of the workers with SIGKILL at a random moment, starts another in its place,
and so on; then lets everything end and checks every promise. Exits with 1 when one does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pgdurable import EmbeddedServer

from . import ledger
from .driver import Scenario


async def soak(
    scenario: Scenario, *, kills: int, seed: int, workers: int = 2, say: Callable[[str], None] = lambda line: None
) -> ledger.Evidence:
    """Kills a random worker `kills` times at random moments. Raises AssertionError when a promise does not hold."""
    chance = random.Random(seed)
    feeder = asyncio.get_running_loop().create_task(_feed(scenario, chance))
    try:
        for _ in range(workers):
            await scenario.begin()
        for n in range(kills):
            alive = [worker for worker in scenario.workers if worker.alive]
            victim = chance.choice(alive)
            await scenario.until(lambda victim=victim: _working(victim), "the worker works")  # type: ignore[misc]
            # The moment itself: this is what is drawn. Seldom long enough for a lone worker to take over.
            moment = chance.choice([0.3, 1.0, 4.0 if workers == 1 else 1.5]) * chance.random()
            await asyncio.sleep(moment)
            await victim.kill()
            say(f"kill {n + 1}: worker process {victim.pid} after {moment:.2f} s of work")
            await scenario.begin()
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)
    return await scenario.finish()


async def _working(worker: object) -> bool:
    return bool(worker.ids)  # type: ignore[attr-defined]


async def _feed(scenario: Scenario, chance: random.Random) -> None:
    """Starts as many as two cores carry beside everything else; never lets the unanswered pile up."""
    while True:
        alive = [worker for worker in scenario.workers if worker.alive and worker.ids]
        if alive and len(scenario.unanswered) < 40:
            workflow = chance.choice(["shop", "shop", "shop", "postman", "sleeper", "unlucky", "typist"])
            way = chance.random()
            order = scenario.make(workflow, keyed=way < 0.6)
            if way < 0.2:
                scenario.start_by_sql(order)
            else:
                scenario.give(chance.choice(alive), order)
        await asyncio.sleep(0.03)


async def main(kills: int, seed: int, workers: int, dsn: str) -> int:
    with tempfile.TemporaryDirectory(prefix="pgdurable-soak-") as folder:
        began = time.monotonic()
        async with Scenario(dsn, Path(folder), seed) as scenario:
            print(f"seed {seed}, {kills} kills, {workers} workers at a time")
            try:
                evidence = await soak(scenario, kills=kills, seed=seed, workers=workers, say=print)
            except AssertionError as error:
                print(error, file=sys.stderr)
                return 1
            entries = len(evidence.ledger)
            statuses = Counter(instance.status for instance in evidence.instances)
            print(
                f"{time.monotonic() - began:.0f} s: {len(evidence.acknowledged)} acknowledged starts, "
                f"{len(evidence.instances)} instances ended ({', '.join(f'{n} {s}' for s, n in statuses.items())}), "
                f"{len(evidence.executions)} executions of steps, {entries} entries in the ledger: all sums match"
            )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, which is printed")
    parser.add_argument("--workers", type=int, default=2, help="processes at work at a time")
    parser.add_argument("--dsn", default=None, help="a server; default: an embedded one")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().getrandbits(32)
    if given.dsn is not None:
        sys.exit(asyncio.run(main(given.kills, seed, given.workers, given.dsn)))
    with EmbeddedServer(settings={"max_connections": "200"}) as server:
        sys.exit(asyncio.run(main(given.kills, seed, given.workers, server.dsn)))
