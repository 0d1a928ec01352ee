"""The steps that this process has, by name: what workflows in SQL can ask of its worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from pgdurable.steps import Step

__all__ = ["StepNames", "step_names"]


class StepNames:
    """Steps by their names, and by module and qualified name, for as long as they live.

    A name that two different functions have means neither; they can be called by their full names. A function that is
    defined again, as when a module is reloaded, replaces the one of before.
    """

    def __init__(self) -> None:
        self._steps: WeakValueDictionary[tuple[str, str], Any] = WeakValueDictionary()

    def add(self, step: Step[Any, Any]) -> None:
        """Takes in a step that a decorator has made."""
        self._steps[full_name(step), step.name] = step

    def usable(self) -> dict[str, Step[Any, Any]]:
        """By every name that means one step."""
        found: dict[str, Step[Any, Any] | None] = {}
        steps = list(self._steps.values())
        for step in steps:
            found[step.name] = None if step.name in found else step
        for step in steps:
            found.setdefault(full_name(step), step)
        return {name: step for name, step in found.items() if step is not None}

    def doubtful(self) -> dict[str, list[str]]:
        """The full names behind each name that means several."""
        found: dict[str, list[str]] = {}
        for step in list(self._steps.values()):
            found.setdefault(step.name, []).append(full_name(step))
        return {name: sorted(full) for name, full in found.items() if len(full) > 1}


def full_name(step: Step[Any, Any]) -> str:
    return f"{step.__module__}.{step.__qualname__}"


step_names = StepNames()
"""What `@step` and `@transaction` have made in this process."""
