"""How values, times and errors look on a terminal and in a pipe. Knows Rich, not workflows."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from pgdurable.errors import PgDurableError

__all__ = [
    "STATUS_STYLE",
    "clean",
    "clock",
    "count",
    "elapsed",
    "nbytes",
    "one_line_json",
    "print_block",
    "print_error",
    "screen",
    "short_clock",
    "shorten",
    "span",
    "styled_status",
]

# Where nobody looks, nothing is cut to a width: whatever reads the pipe wants whole ids.
_PIPE_WIDTH = 10_000

STATUS_STYLE = {
    "pending": "yellow",
    "running": "cyan",
    "waiting": "blue",
    "paused": "magenta",
    "completed": "green",
    "failed": "red",
    "cancelled": "red",
    "timed_out": "red",
}

# Control characters, and those that turn text round or cannot be seen (joiners, which scripts and emoji need, aside).
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f]"
)


def screen(*, stderr: bool = False, wide: bool = False) -> Console:
    """Where a command prints. Text is printed as it is: no markup, no emoji, no guessed colours.

    `wide` leaves it to the terminal to break lines: what people copy from them stays whole.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() and not wide else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)


def print_block(console: Console, block: RenderableType) -> None:
    """Prints a table or the like; in a pipe without the spaces that fill its last column."""
    if console.is_terminal:
        console.print(block)
        return
    with console.capture() as capture:
        console.print(block)
    for line in capture.get().splitlines():
        console.out(line.rstrip(), highlight=False)


def print_error(error: PgDurableError) -> None:
    """Message, detail and hint on stderr."""
    console = screen(stderr=True)
    message = Text("error: ", style="bold red")
    message.append(clean(error.message), style="default not bold")
    console.print(message)
    if error.detail:
        console.print(Text(clean(error.detail)))
    if error.hint:
        console.print(Text.assemble(("hint: ", "bold"), clean(error.hint)))


def clean(text: str) -> str:
    """The text with control characters made visible: stored data must not steer the terminal it is shown on."""
    return _CONTROL.sub(_visible, text)


def _visible(found: re.Match[str]) -> str:
    point = ord(found[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def shorten(text: str, width: int) -> str:
    """The text on one line, at most `width` characters."""
    line = " ".join(clean(text).split("\n"))
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"


def one_line_json(value: Any) -> str:
    """A value as JSON on one line, readable: no escapes where none is needed."""
    return _CONTROL.sub(_escaped, json.dumps(value, ensure_ascii=False, default=_plain))


def _escaped(found: re.Match[str]) -> str:
    """As JSON writes it. What JSON has outside of texts is none of these."""
    return json.dumps(found[0])[1:-1] if found[0] > "\x7f" else f"\\u{ord(found[0]):04x}"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def clock(at: datetime | None) -> str:
    """A time as people here read it, with its zone."""
    return "" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def short_clock(at: datetime | None, now: datetime) -> str:
    """The same as short as can be: the time of day for today, else date and time."""
    if at is None:
        return ""
    local, today = at.astimezone(), now.astimezone()
    return local.strftime("%H:%M:%S" if local.date() == today.date() else "%Y-%m-%d %H:%M:%S")


def span(length: timedelta | float) -> str:
    """A duration in two figures people grasp: 120 ms, 3.2 s, 4 min 5 s, 2 h 3 min, 5 d 1 h."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def count(number: int, noun: str) -> str:
    """`1 instance`, `2 instances`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def nbytes(number: float) -> str:
    """`40 KB`, `1.2 GB`: powers of 1024."""
    for unit in ("B", "KB", "MB"):
        if number < 1023.5:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GB" if number < 1023.5 else f"{number / 1024:.1f} TB"


def elapsed(milliseconds: float | None) -> str:
    """How long an attempt ran."""
    if milliseconds is None:
        return ""
    return f"{milliseconds:.1f} ms" if milliseconds < 100 else span(milliseconds / 1000)


def styled_status(status: str) -> Text:
    return Text(status, style=STATUS_STYLE.get(status, ""))
