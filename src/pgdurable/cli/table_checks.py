"""What `doctor` looks at in the tables themselves: retention, partitions, and whether vacuum comes by."""

from __future__ import annotations

from collections.abc import Iterator

from pgdurable.cli.finding import Finding
from pgdurable.cli.options import Session, Target
from pgdurable.cli.text import count, nbytes, span

__all__ = ["longest_history", "partitions", "retention", "settings", "vacuum"]

_DAY_S = 86_400.0
_MANY_ROWS = 10_000
# Below this many dead rows nobody notices; autovacuum begins at 2 % of `instances` and 2,000 of `events`.
_MANY_DEAD = 50_000
_VACUUMED_S = 600.0
# Partitions are made four weeks ahead; at less than this nobody has made any for long.
_LEAST_AHEAD_S = 7 * _DAY_S


def settings(session: Session, where: Target) -> Iterator[Finding]:
    """Whether every setting has a value that means something, and which are not the default."""
    rows = session.rows("settings")
    for row in rows:
        if row["problem"] is not None:
            yield Finding(
                "broken",
                f"setting pgdurable.{row['name']} is {row['value']!r}: {row['problem']}",
                f"It comes from: {row['source']}. Whoever needs it is refused. See the view {where.schema}.settings.",
            )
    changed = [f"{row['name']} {row['value']} ({row['source']})" for row in rows if row["problem"] is None]
    yield Finding("fine", f"settings: {', '.join(changed)}" if changed else "every setting has its default")


def retention(session: Session, where: Target) -> Iterator[Finding]:
    """Whether what ended long ago leaves."""
    row = session.row("retention")
    text = (
        "ended instances are kept for ever" if row["off"] else f"ended instances are kept for {span(row['retention'])}"
    )
    if row["own"]:
        text += f", those of {count(row['own'], 'workflow version')} as they say"
    if row["oldest"] is not None:
        text += f"; the oldest ended {span(row['oldest'])} ago"
    if row["overdue"] is not None and row["overdue"] > _DAY_S:
        yield Finding(
            "warning",
            f"{text}, so some should have left {span(row['overdue'])} ago",
            "Workers remove them; one that may not says so in its log (it needs delete on instances, instance_keys, "
            f"history and events). At once: {where.command('prune')}",
        )
    else:
        yield Finding("fine", text)


def longest_history(session: Session, where: Target) -> Iterator[Finding]:
    """Whether an instance has so much history that taking it over takes long."""
    for row in session.rows("longest_history"):
        text = f"the longest history of a living instance has {row['rows']:,} rows"
        if row["rows"] < _MANY_ROWS:
            yield Finding("fine", text)
        else:
            yield Finding(
                "warning",
                f"{text}: {row['id']} of workflow {row['workflow']}",
                "All of it is replayed whenever a worker takes the instance over. Split the work into child workflows, "
                "or let the workflow go on with a new history now and then (pgd.continue_as_new). "
                f"See: {where.command('show', str(row['id']))}",
            )


def partitions(session: Session, where: Target) -> Iterator[Finding]:
    """Whether history has partitions for what is to come, and none that nobody needs."""
    row = session.row("partitions")
    text = f"history has {count(row['partitions'], 'partition')}, {nbytes(row['bytes'])}"
    if row["ahead"] is None or row["ahead"] < 0:
        yield Finding(
            "broken",
            f"{text}, and none for instances that are started now",
            f"Workers make them when they join; or run: {where.command('migrate')}",
        )
    elif row["ahead"] < _LEAST_AHEAD_S:
        yield Finding(
            "warning",
            f"{text}, and none for instances that are started in {span(row['ahead'])} or later",
            "A worker that runs makes more every hour, and says in its log if it cannot; or run: "
            + where.command("migrate"),
        )
    else:
        yield Finding("fine", f"{text}, made {span(row['ahead'])} ahead")
    if row["spent"]:
        yield Finding(
            "warning",
            f"{count(row['spent'], 'partition')} of history can be dropped: none of its instances is there any more",
            f"A worker does so within the hour, unless an older transaction is open. At once: {where.command('prune')}",
        )


def vacuum(session: Session, where: Target) -> Iterator[Finding]:
    """Whether dead rows are removed, or who keeps them."""
    held = session.rows("held_back")
    for row in held:
        long = f" for {span(row['seconds'])}" if row["seconds"] is not None else ""
        yield Finding(
            "warning",
            f"{row['kind']} {row['name']} has kept vacuum from removing dead rows{long} ({row['xids']:,} transactions)",
            f"Tables and indexes grow meanwhile, and looks for work get slower. End it: {row['hint']};",
        )
    rows = session.rows("dead_rows")
    for row in rows:
        dead = f"table {row['name']} has {count(row['dead'], 'dead row')}"
        if not row["autovacuum"]:
            hint = f"alter table {where.schema}.{row['name']} reset (autovacuum_enabled); and set autovacuum = on."
            yield Finding("warning", f"{dead}, and autovacuum does not come to it", hint)
        elif row["dead"] >= max(_MANY_DEAD, row["live"]) and not (row["since"] or _DAY_S) < _VACUUMED_S:
            last = "never" if row["since"] is None else f"{span(row['since'])} ago"
            yield Finding(
                "warning",
                f"{dead}, {row['live']:,} live ones, and was last vacuumed {last}",
                "Autovacuum does not keep up: look at autovacuum_max_workers and autovacuum_vacuum_cost_limit. "
                f"At once: vacuum {where.schema}.{row['name']};",
            )
        elif row["dead"] >= max(_MANY_DEAD, row["live"]):
            yield Finding("warning", f"{dead} that vacuum could not remove, {row['live']:,} live ones", _HELD)
    if not held:
        yield Finding("fine", "nobody keeps dead rows from being removed")


_HELD = "Some session, prepared transaction or replication slot still sees them: select * from held_back."
