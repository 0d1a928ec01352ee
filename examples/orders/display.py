"""What the demo shows: a live line on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

INTRO = (
    "[bold]A shop takes {orders:,} orders. Each debits an account, may wait for a person's approval, takes goods off a"
    " shelf, talks to two unreliable services at once, is packed in the line of its depot, travels, and is thanked for."
    " Some are redirected or cancelled on the way, and then all that was done is undone. Each second the books are"
    " closed.[/]\n\n"
    "That is plain Python: [cyan]examples/orders/workflows.py[/], two hundred lines with no queue server, no scheduler,"
    " no state table and no recovery code. While it runs, this demo kills the process that runs it (SIGKILL,"
    " twice){crash}. Then it counts the money: every account, every shelf, every order.\n"
)
PLAIN_EVERY_S = 2.0


class Display:
    """Progress, events and the table at the end.

    Args:
        quiet: only the table, or what went wrong.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = 120
        self.quiet = quiet
        self.live = self.console.is_terminal and not quiet
        self._began = time.monotonic()
        self._printed = 0.0
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        if self.live:
            self._progress = Progress(
                TimeElapsedColumn(), TextColumn("[bold]orders"), BarColumn(bar_width=15),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TextColumn("[green]{task.fields[rate]:,.0f} steps/s"), TextColumn("{task.fields[doing]}"),
                console=self.console, transient=True,
            )  # fmt: skip

    def intro(self, orders: int, *, crash: bool) -> None:
        if not self.quiet:
            self.console.print(INTRO.format(orders=orders, crash=" and crashes the database (once)" if crash else ""))

    def begin(self, total: int) -> None:
        self._began = time.monotonic()
        if self._progress is not None:
            self._bar = self._progress.add_task("", total=total, rate=0.0, doing="")
            self._progress.start()

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def says(self, what: str, style: str = "") -> None:
        """Something happened."""
        if not self.quiet:
            line = Text(f"{time.monotonic() - self._began:6.1f} s  ")
            line.append(what, style)
            self.console.print(line)

    def shows(self, done: int, total: int, rate: float, doing: str) -> None:
        """How far the orders are."""
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=done, total=total, rate=rate, doing=doing)
        elif not self.quiet and time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self.says(f"orders {done:,}/{total:,}, {rate:,.0f} steps/s" + (f", {doing}" if doing else ""), "dim")

    def table(self, rows: list[tuple[str, str]], proof: dict[str, list[str]]) -> None:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, value in rows:
            table.add_row(name, Text(value, "bold"))
        table.add_row("", "")
        for name, wrong in proof.items():
            table.add_row(name, Text(f"NO: {len(wrong)} wrong", "bold red") if wrong else Text("yes", "bold green"))
        self.console.print()
        self.console.print(table)
        for name, wrong in proof.items():
            if wrong:
                self.console.print(Text(f"\nNot so: {name}", "bold red"))
                for line in wrong[:10]:
                    self.console.print(Text(f"  {line}"))
                if len(wrong) > 10:
                    self.console.print(f"  ... and {len(wrong) - 10:,} more")
        self.console.print()

    def fails(self, why: str) -> None:
        self.end()
        self.console.print(Text(f"\nThe demo did not come to its end: {why}", "bold red"))
