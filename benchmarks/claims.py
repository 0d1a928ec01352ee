"""What the README claims, as ratios to a floor or ceiling measured in the same run.

Ratios, not absolute times: a slow or busy machine slows both sides. `pytest benchmarks --target` fails where a claim
does not hold, and where a benchmark ran without giving the figure that its claim is about.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

__all__ = ["CLAIMS", "Claim", "violations"]


@dataclass(frozen=True)
class Claim:
    """Attributes:
    figure: the figure's name.
    file: the benchmark that gives it.
    meaning: what it says, for people.
    at_most, at_least: the bounds of the ratio.
    """

    figure: str
    file: str
    meaning: str
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"{self.figure}: a claim has one bound, at_most or at_least")

    def complaint(self, ratio: float | None) -> str | None:
        """What is wrong with this ratio, or None."""
        if ratio is None:
            return f"{self.figure}: nothing was measured beside it, so the claim cannot be judged: {self.meaning}"
        if self.at_most is not None and not ratio <= self.at_most:
            return f"{self.figure}: ratio {ratio:.2f}, claimed at most {self.at_most:.3g}: {self.meaning}"
        if self.at_least is not None and not ratio >= self.at_least:
            return f"{self.figure}: ratio {ratio:.2f}, claimed at least {self.at_least:.3g}: {self.meaning}"
        return None


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "transition.idle",
        "bench_transition.py",
        "an idle transition takes at most twice a bare single-row insert of the same bytes through libpq",
        at_most=2.0,
    ),
    Claim(
        "transition.idle_busy_wait",
        "bench_transition.py",
        "an engine that waits busily takes at most one and a half times a bare single-row insert",
        at_most=1.5,
    ),
    Claim(
        "throughput.100",
        "bench_throughput.py",
        "a hundred instances at once reach a third of what COPY of the same rows reaches in commits of the same size",
        at_least=0.33,
    ),
    Claim(
        "throughput.500",
        "bench_throughput.py",
        "five hundred instances at once reach a fifth of what COPY of the same rows reaches",
        at_least=0.2,
    ),
    Claim(
        "offered.10k",
        "bench_offered_load.py",
        "at 10,000 steps/s offered the p99 is at most three times that of committing alone",
        at_most=3.0,
    ),
    Claim(
        "transaction_step.10",
        "bench_transaction_step.py",
        "a transaction step costs at most eight bare UPDATEs",
        at_least=1 / 8,
    ),
    Claim(
        "start.many.array",
        "bench_start.py",
        "start_many from an array reaches two fifths of what COPY of the same rows reaches",
        at_least=0.4,
    ),
)


def violations(
    ratios: Mapping[str, float | None], ran: Collection[str], claims: Collection[Claim] | None = None
) -> list[str]:
    """What does not hold, one line each.

    Args:
        ratios: of the figures of this run, by name.
        ran: the benchmark files that ran; a claim of another file is not judged.
        claims: default `CLAIMS`.
    """
    found = []
    for claim in CLAIMS if claims is None else claims:
        if claim.file not in ran:
            continue
        if claim.figure not in ratios:
            found.append(f"{claim.figure}: {claim.file} ran, but gave no such figure: {claim.meaning}")
        elif complaint := claim.complaint(ratios[claim.figure]):
            found.append(complaint)
    return found
