"""Batch: how many inputs a workflow that takes many at once gathers, and for how long."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import timedelta

from pgdurable._arguments import Signature
from pgdurable.retry import seconds

__all__ = ["Batch", "check_batch"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Batch:
    """Lets a workflow begin with many inputs at once: ``@pgd.workflow(batch=Batch(max=100, wait=0.5))``.

    The workflow has one parameter, a list; each `start` gives one element of it and returns the handle of the instance
    that will have it. An input is in exactly one instance, whatever crashes. The instance begins when `max` inputs have
    come, or `wait` after the first. Inputs with another queue, partition or version are gathered by themselves.

    Args:
        max: inputs of one instance at the most, 1 to 100,000. Default 100.
        wait: seconds (or timedelta) after the first input. Default 1.
    """

    max: int = 100
    wait: float | timedelta = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.max, bool) or not isinstance(self.max, int) or not 1 <= self.max <= 100_000:
            raise ValueError(f"Batch(max=...) is from 1 to 100,000, found {self.max!r}")
        if not 0.0 <= (seconds(self.wait) or 0.0) <= 366 * 86400:
            raise ValueError(f"Batch(wait=...) is from 0 seconds to a year, found {self.wait!r}")


def check_batch(name: str, signature: Signature) -> None:
    """Raises ValueError where a workflow cannot take a batch: it needs one parameter for the list of inputs."""
    parameters = signature.parameters
    if len(parameters) != 1 or parameters[0].kind not in _POSITIONAL:
        raise ValueError(
            f"workflow {name}: with batch=... it has one parameter, the list of inputs, found {signature!r}; "
            "for example: async def send(messages: list[Message])"
        )
