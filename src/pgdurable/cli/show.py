"""`show`: one instance with its history, and why it does not go on."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from pgdurable.cli import story
from pgdurable.cli.options import Dsn, Schema, target
from pgdurable.cli.reasons import gather_facts, reasons
from pgdurable.cli.text import one_line_json, print_block, screen
from pgdurable.codec import decode_stored

__all__ = ["show"]


def show(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="The instance's id.", show_default=False)],
    full: Annotated[bool, typer.Option("--full", help="Values and tracebacks in full.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object: the state, history, events, reasons.")] = False,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Show an instance: its state, its history, and what it waits for."""
    where = target(ctx, dsn, schema)
    with where.client() as client:
        handle = client.get(id)
        info = handle.describe()
        history = list(handle.history())
    with where.session() as session:
        facts = gather_facts(session, info)
    said = reasons(where, info, history, facts)
    if json:
        events = [
            {**event, "payload": None if event["payload"] is None else decode_stored(event["payload"])}
            for event in facts.events
        ]
        state = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
        state["running_steps"] = [dataclasses.asdict(step) for step in info.running_steps]
        entries = [dataclasses.asdict(entry) for entry in history]
        typer.echo(one_line_json({**state, "history": entries, "events": events, "reasons": said}))
        return
    out = screen()
    print_block(out, story.header(info, facts, full=full))
    story.print_section(out, "history", story.history_table(history, full=full, width=out.width))
    if info.running_steps:
        story.print_section(out, "running", story.running_table(info.running_steps, facts.now))
    if facts.events:
        story.print_section(out, "not yet delivered", story.waiting_events(facts.events, facts.now, full=full))
    if said:
        runs = facts.owner is not None and facts.owner["living"]
        story.print_section(out, "now" if runs else "why it waits", story.why(said))
