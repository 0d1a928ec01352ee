"""Logging from workflows and steps: silent in replay, and each record says of which instance it is."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from pgdurable._runtime.current import current_machine
from pgdurable.info import current_or_none

__all__ = ["Logger", "get_logger", "logger"]


class Logger(logging.LoggerAdapter[logging.Logger]):
    """A logger for workflow code and steps; `pgd.logger` is one, named `pgdurable.user`.

    In workflow code nothing is logged while history is replayed: what a line says was said when it happened. Records
    have `instance` (the user-chosen id, or the UUID as text), `workflow`, and in steps `step` and `attempt`; outside of
    workflows and steps they have none of these.
    """

    def isEnabledFor(self, level: int) -> bool:
        machine = current_machine()
        if machine is not None and (machine.replaying or machine.dropped):
            return False
        return super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        extra = about()
        if extra:
            kwargs["extra"] = {**extra, **(kwargs.get("extra") or {})}
        return msg, kwargs


def get_logger(name: str) -> Logger:
    """A logger of this name, for workflow code and steps: ``log = pgd.get_logger(__name__)``. See `logger`."""
    return Logger(logging.getLogger(name), {})


def about() -> dict[str, Any]:
    """What records say of where they come from."""
    found = current_or_none()
    if found is None:
        return {}
    extra: dict[str, Any] = {"instance": found.id, "workflow": found.workflow}
    if found.step is not None:
        extra |= {"step": found.step, "attempt": found.attempt}
    return extra


logger = get_logger("pgdurable.user")
"""A logger for workflow code and steps, named `pgdurable.user`. Silent in replay."""
