"""An instance as people read it: a header, its history line by line, what waits for it. Knows Rich, no database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pgdurable.cli.reasons import ENDED, Facts
from pgdurable.cli.text import clean, clock, elapsed, one_line_json, print_block, shorten, span, styled_status
from pgdurable.client import Entry, InstanceInfo
from pgdurable.encryption import sealed_with
from pgdurable.handle import RunningStep, from_json

__all__ = ["header", "history_table", "print_section", "running_table", "waiting_events", "why"]

_KIND_STYLE = {"attempt": "red", "timer": "blue", "signal": "magenta", "void": "dim"}
_UNDONE = "undone "
_SHORT = 100


def header(info: InstanceInfo, facts: Facts, *, full: bool) -> RenderableType:
    """What `instances` says of it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")

    def line(title: str, value: str | Text | None) -> None:
        if value:
            grid.add_row(title, value if isinstance(value, Text) else clean(value))

    line("instance", info.id)
    if info.id != str(info.instance_id):
        line("uuid", str(info.instance_id))
    line("status", styled_status(info.status))
    line("workflow", info.workflow + (f" version {info.version}" if info.version else " (version not yet chosen)"))
    line("worker", _owner(info, facts))
    line("queue", f"{info.queue}, priority {info.priority}" if info.priority else info.queue)
    line("created", f"{clock(info.created_at)} by {info.submitted_by}")
    if info.started_at is not None:
        line("started", clock(info.started_at))
    if info.finished_at is not None:
        took = span(info.finished_at - (info.started_at or info.created_at))
        line("finished", f"{clock(info.finished_at)}, after {took}")
    line("deadline", clock(info.deadline))
    line("parent", str(info.parent) if info.parent else None)
    line("takeovers", str(info.takeovers) if info.takeovers else None)
    line("labels", one_line_json(info.labels) if info.labels else None)
    line("input", _value(info.input, full))
    if info.status == "completed":
        line("output", _value(info.output, full))
    if info.error is not None:
        line("error", Text(error_text(info.error, full=full, lines=True), style="red"))
    return grid


def _owner(info: InstanceInfo, facts: Facts) -> str | None:
    if info.owner is None:
        return None
    if facts.owner is None:
        return f"{info.owner} (gone)"
    state = "" if facts.owner["living"] else f" ({'stopped' if facts.owner['state'] == 'stopped' else 'dead'})"
    return f"{facts.owner['name']}, number {info.owner}{state}"


def history_table(history: Sequence[Entry], *, full: bool, width: int) -> RenderableType:
    """One line per transition: time since the first, kind, name, attempt, elapsed, value or error."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    for _ in ("kind", "name", "attempt"):
        table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    # The end's traceback is in the header already.
    rows = [_cells(entry, history[0].at, full, full and entry.kind not in ENDED) for entry in history]
    # What the other columns leave of the line, so that a value is cut rather than folded.
    taken = sum(
        max((cell.cell_len for cell in column), default=0) + 2 for column in zip(*(r[:5] for r in rows), strict=True)
    )
    room = max(min(width - taken, _SHORT), 20)
    for *cells, value in rows:
        if not full and value.cell_len > room:
            value.truncate(room, overflow="ellipsis")
        table.add_row(*cells, value)
    return table


def _cells(entry: Entry, start: datetime, full: bool, traceback: bool) -> list[Text]:
    failed = entry.error is not None
    style = "dim" if entry.kind.startswith(_UNDONE) else "red" if failed else _KIND_STYLE.get(entry.kind, "")
    return [
        Text(offset((entry.at - start).total_seconds()), style="dim"),
        Text(
            clean(entry.kind) + (" failed" if failed and entry.kind.removeprefix(_UNDONE) == "step" else ""),
            style=style,
        ),
        Text(clean(entry.name or "")),
        Text("" if entry.attempt is None else f"#{entry.attempt}"),
        Text(elapsed(entry.elapsed_ms), style="dim"),
        _outcome(entry, full, traceback),
    ]


def _outcome(entry: Entry, full: bool, traceback: bool) -> Text:
    if entry.error is not None:
        text = Text(error_text(entry.error, full=traceback, lines=traceback), style="red")
        if entry.kind.removeprefix(_UNDONE) == "attempt":
            wait = float((entry.value or {}).get("retry_in", 0.0))
            text = Text.assemble(f"again after {span(wait)}: ", text)
        return text
    if entry.kind == "retry":
        return Text("from the failed step; what followed it is undone")
    if entry.kind == "forked":
        return Text(f"a copy up to event {max(int(root['before']) for root in entry.value['roots']) - 1}")
    if entry.kind == "patch":
        return Text("the code behind it is run")
    if entry.kind.removeprefix(_UNDONE) == "timer":
        return Text("fired")
    if entry.kind == "pending":
        return Text("about to begin", style="dim")
    if entry.kind == "deadline":
        return Text("its time is over", style="red")
    if entry.kind == "void":
        return Text("a transaction that did not commit, and never will", style="dim")
    return Text(_value(entry.value, full))


def offset(seconds: float) -> str:
    """Time since the first transition, to the millisecond while that means something."""
    return f"+{seconds:.3f} s" if seconds < 100 else f"+{span(seconds)}"


def error_text(error: dict[str, Any], *, full: bool, lines: bool) -> str:
    """Type and message of a recorded error; its traceback too when all of it is wanted."""
    if (told := _encrypted(error)) is not None:
        return clean(told)
    kind = str(error.get("type") or "error")
    kind = kind.removeprefix("builtins.")
    text = f"{kind}: {error.get('message') or ''}".rstrip(": ")
    if full and error.get("traceback"):
        text += "\n" + str(error["traceback"]).rstrip()
    return clean(text) if lines else shorten(text, 1000)


def _encrypted(value: Any) -> str | None:
    """Of a value that is encrypted, that it is."""
    found = sealed_with(value)
    return None if found is None else f"(encrypted with key {found[0]!r}, {found[1]} bytes)"


def _value(value: Any, full: bool) -> str:
    if (told := _encrypted(value)) is not None:
        return clean(told)
    text = one_line_json(value)
    return clean(text) if full else shorten(text, _SHORT)


def running_table(steps: Iterable[RunningStep], now: datetime) -> RenderableType:
    """One line per step that runs for long: since when, and how far it has come."""
    table = Table.grid(padding=(0, 2))
    for step in steps:
        done = ""
        if step.done is not None:
            done = f"{step.done:g}" + (f" of {step.total:g}" if step.total is not None else "")
            if step.total:
                done += f" ({step.done / step.total:.0%})"
        beat = "" if step.beat_at <= step.started_at else f"last sign {span(max(now - step.beat_at, timedelta()))} ago"
        table.add_row(
            Text(clean(step.name), style="cyan"), Text(f"#{step.attempt}"),
            Text(f"for {span(max(now - step.started_at, timedelta()))}", style="dim"), Text(done),
            Text(beat, style="dim"),
        )  # fmt: skip
    return table


def waiting_events(events: Iterable[dict[str, Any]], now: datetime, *, full: bool) -> RenderableType:
    """One line per event that is not yet in the history."""
    table = Table.grid(padding=(0, 2))
    for event in events:
        payload = event["payload"] or ""
        payload = _encrypted(from_json(payload)) or payload if payload else payload
        table.add_row(
            Text(clean(event["kind"]), style="magenta"),
            Text(clean(event["name"] or "")),
            Text(f"sent {span(now - event['created_at'])} ago", style="dim"),
            Text(clean(payload) if full else shorten(payload, _SHORT)),
        )
    return table


def why(said: Sequence[str]) -> RenderableType:
    return Group(*(Text(clean(line), style="yellow") for line in said))


def print_section(console: Console, title: str, body: RenderableType) -> None:
    """A titled block, set off by an empty line."""
    console.print()
    console.print(Text(title, style="bold"))
    print_block(console, body)
