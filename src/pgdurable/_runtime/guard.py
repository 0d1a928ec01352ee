"""Notices real I/O and blocking sleeps in workflow code, through Python's audit events.

An audit hook cannot be taken out again, so it is put in once per process and does next to nothing outside
workflow code. `time.sleep` is audited from Python 3.13 on; before, it is replaced by a function that looks first,
which misses code that had done ``from time import sleep`` by then.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from pgdurable._runtime.current import current_machine
from pgdurable._runtime.loop import refuse

__all__ = ["install_guard"]

_REFUSED = frozenset(
    {
        "time.sleep",
        "socket.connect",
        "socket.bind",
        "socket.sendto",
        "socket.sendmsg",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "subprocess.Popen",
        "os.system",
        "os.posix_spawn",
        "os.exec",
        "os.fork",
        "sqlite3.connect",
        "urllib.Request",
    }
)
_installed = False

Hook = Callable[[str, tuple[Any, ...]], None]


def install_guard(add_hook: Callable[[frozenset[str], Hook], None] | None = None) -> None:
    """Refuses the above in workflow code from now on, in this process. Calling it again does nothing.

    Args:
        add_hook: puts in a hook that is called for these events only, cheaper than one of Python's that is called
            for all; default `sys.addaudithook`.
    """
    global _installed
    if not _installed:
        _installed = True
        if add_hook is None:
            sys.addaudithook(_hook)
        else:
            add_hook(_REFUSED, _hook)
        if sys.version_info < (3, 13):
            _guard_sleep(sys.modules["time"])


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event in _REFUSED:
        machine = current_machine()
        if machine is not None:
            refuse(event, machine.label)


def _guard_sleep(time: Any) -> None:
    plain = time.sleep

    @functools.wraps(plain)
    def sleep(seconds: Any, /) -> None:
        _hook("time.sleep", (seconds,))
        plain(seconds)

    time.sleep = sleep
