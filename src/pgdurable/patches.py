"""Changing the code of instances that are under way: `patched` and `deprecate_patch`."""

from __future__ import annotations

from pgdurable._runtime.current import current_machine
from pgdurable.errors import PgDurableError

__all__ = ["deprecate_patch", "patched"]

_MOST_BYTES = 512


def patched(id: str) -> bool:
    """Whether this instance runs the code behind a patch: True where it gets here for the first time, now.

    Call it in workflow code and branch on it: the new code where it is True, the code as it was before where it is
    False. The answer is the same whenever the instance asks for this id again, also in replay and after a crash, so
    one that came by before the patch was deployed goes on along the old branch to its end.

    The first True is recorded in history as a row of the kind `patch`, and what the code asks for after it begins only
    when that is committed: one round trip, once per instance and id.

    Args:
        id: the patch's name, 1 to 512 bytes; do not use one a second time for another change.
    """
    machine = current_machine()
    if machine is None:
        raise PgDurableError(
            "patched was called outside workflow code",
            hint="Call it in a function decorated with @pgdurable.workflow, not in a step or elsewhere.",
        )
    if not isinstance(id, str) or "\0" in id or not 1 <= len(id.encode(errors="surrogatepass")) <= _MOST_BYTES:
        raise ValueError(f"a patch's id is a text of 1 to {_MOST_BYTES} bytes without NUL, found {id!r:.60}")
    return machine.patched(id)


def deprecate_patch(id: str) -> None:
    """Says that no instance of the time before the patch is left, so its old branch has been removed from the code.

    Put it where `patched` was, and keep the new code alone. The instance is still recorded as patched, so the version
    of the code that asks `patched` can be brought back. Once no such version can come back, remove this call too: rows
    of history that record the patch do no harm.

    Args:
        id: as for `patched`.
    """
    patched(id)
