"""`doctor`: is everything as it should be?"""

from __future__ import annotations

import typer
from rich.text import Text

from pgdurable.cli.checks import examine
from pgdurable.cli.options import Dsn, Schema, target
from pgdurable.cli.text import clean, screen

__all__ = ["doctor"]

_MARK = {"fine": ("✓", "green"), "warning": ("!", "bold yellow"), "broken": ("✗", "bold red")}


def doctor(ctx: typer.Context, dsn: Dsn = None, schema: Schema = None) -> None:
    """Check server, schema, workers and instances. Exit code 1 when something is broken."""
    where = target(ctx, dsn, schema, application="pgdurable doctor")
    out = screen()
    broken = 0
    for finding in examine(where):
        sign, style = _MARK[finding.level]
        broken += finding.level == "broken"
        out.print(Text.assemble((sign, style), " ", clean(finding.text)))
        if finding.hint and finding.level != "fine":
            out.print(Text(f"    {clean(finding.hint)}", style="dim"))
    if broken:
        raise typer.Exit(1)
