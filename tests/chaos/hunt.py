"""Runs with the library spoilt on purpose (`mutations.py`), under the faults that show it: each must be found."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .nemesis import PumpTakenForDead, WokenInTakeover, WorkerKilled, WorkerStopped
from .outages import KINDS, AnswersLost, NetworkDead
from .run import Planned, Result, play
from .world import Settings

__all__ = ["TARGETS", "Hunt", "hunt"]

TARGETS = {
    "no fence": (WorkerStopped.kind, NetworkDead.kind),
    "no idempotent resend": (AnswersLost.kind,),
    "look before the lock": (WokenInTakeover.kind,),
    "no lock of a queue": (WorkerKilled.kind,),
    "no fence of pumps": (PumpTakenForDead.kind,),
}
"""By mutation: the kinds of fault under which it shows."""

SECONDS, ROUNDS = 15.0, 4


@dataclass
class Hunt:
    """What came of hunting a mutation.

    Attributes:
        found: violations by promise, of the first run that had any.
        example: one of them.
        runs: how many runs it took.
    """

    mutation: str | None
    found: Counter[str] = field(default_factory=Counter)
    example: str = ""
    runs: int = 0
    seconds: float = 0.0


async def hunt(
    mutation: str | None, target: str, folder: Path, seed: int, *, rounds: int = ROUNDS,
    say: Callable[[str], None] = lambda line: None,
) -> Hunt:  # fmt: skip
    """Runs of a few seconds under the faults meant for `target`, until one is found wrong, `rounds` at most.

    With mutation None, the same runs of the library as it is: nothing must be found.
    """
    hunted = Hunt(mutation)
    began = time.monotonic()
    for number in range(rounds):
        chance = random.Random(f"{seed} {number}")
        planned = [
            Planned(1.0 + 2.0 * n, chance.choice(TARGETS[target]), chance.getrandbits(32))
            for n in range(int(SECONDS / 2))
        ]
        # Few slots, so that the line at the counter never ends: else nothing shows who gives them out.
        settings = Settings(seed + number, workers=3, customers=16, own_customers=4, slots=2, mutation=mutation)
        result: Result = await play(
            settings, folder / f"{number}", planned, SECONDS, say=say, patience=20.0, again=False
        )
        hunted.runs = number + 1
        hunted.found = Counter(violation.promise for violation in result.violations)
        if hunted.found:
            hunted.example = str(result.violations[0]).splitlines()[0][:200]  # without tracebacks, which name places
            break
    hunted.seconds = time.monotonic() - began
    return hunted


assert set(KINDS) >= {kind for kinds in TARGETS.values() for kind in kinds}
