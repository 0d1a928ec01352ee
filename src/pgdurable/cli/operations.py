"""`cancel`, `terminate`, `pause`, `resume`, `retry`, `fork`, `delete`: on instances by id, or on all that fit a filter.

By filter they first say how many that would be, and ask. Then they go on in small steps; interrupted, they can be
called again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pgdurable import sync
from pgdurable._client.operations import Done
from pgdurable.cli.instances import Status, warn_if_nobody
from pgdurable.cli.options import Dsn, Schema, Target, duration, json_argument, target
from pgdurable.cli.text import clean, count, screen
from pgdurable.errors import InvalidInput, PgDurableError

__all__ = ["cancel", "delete", "fork", "pause", "resume", "retry", "terminate"]

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="The instances' ids.", show_default=False)]
Workflow = Annotated[str | None, typer.Option("--workflow", help="All of this workflow.", show_default=False)]
State = Annotated[
    list[Status] | None, typer.Option("--status", help="All with this status; may be repeated.", show_default=False)
]
Version = Annotated[str | None, typer.Option("--version", help="All of this version.", show_default=False)]
Queue = Annotated[str | None, typer.Option("--queue", help="All of this queue.", show_default=False)]
Label = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="All with this label; may be repeated.", show_default=False),
]
Error = Annotated[
    str | None, typer.Option("--error", metavar="TYPE", help="All with an error of this type.", show_default=False)
]
Older = Annotated[
    timedelta | None,
    typer.Option(
        "--older", parser=duration, metavar="DURATION", help="All started longer ago (7d, 12h).", show_default=False
    ),
]
Newer = Annotated[
    timedelta | None,
    typer.Option(
        "--newer", parser=duration, metavar="DURATION", help="All started since (30m, 10s).", show_default=False
    ),
]
Everything = Annotated[bool, typer.Option("--everything", help="All instances.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Recorded with it.", show_default=False)]

_SHOWN = 5


@dataclass(frozen=True)
class _Words:
    """How a command speaks: what it does to one instance (infinitive), that it has done so, and why it has not."""

    verb: str
    done: str
    not_so: str


_WORDS = {
    "cancel": _Words("cancel", "asked to end", "it has ended"),
    "terminate": _Words("terminate", "terminated", "it has ended"),
    "pause": _Words("pause", "asked to pause", "it is paused or has ended"),
    "resume": _Words("resume", "resumed", "it is not paused"),
    "retry": _Words("retry", "retried", "it has not failed and is not paused"),
    "fork": _Words("fork", "forked", ""),
    "delete": _Words("delete", "deleted", "it has not ended"),
}


def _with_reason(operation: str, help: str) -> Callable[..., None]:
    """The command of an operation that takes a reason."""

    def command(
        ctx: typer.Context,
        ids: Ids = None,
        workflow: Workflow = None, status: State = None, version: Version = None, queue: Queue = None,
        label: Label = None, error: Error = None, older: Older = None, newer: Newer = None,
        everything: Everything = False,
        reason: Reason = None, yes: Yes = False, dry_run: DryRun = False, dsn: Dsn = None, schema: Schema = None,
    ) -> None:  # fmt: skip
        fits = _filter(workflow, status, version, queue, label, error, older, newer, everything)
        _operate(target(ctx, dsn, schema), operation, ids, fits, yes, dry_run, reason=reason)

    return _named(command, operation, help)


def _plain(operation: str, help: str) -> Callable[..., None]:
    """The command of an operation that takes nothing but what it is to act on."""

    def command(
        ctx: typer.Context,
        ids: Ids = None,
        workflow: Workflow = None, status: State = None, version: Version = None, queue: Queue = None,
        label: Label = None, error: Error = None, older: Older = None, newer: Newer = None,
        everything: Everything = False,
        yes: Yes = False, dry_run: DryRun = False, dsn: Dsn = None, schema: Schema = None,
    ) -> None:  # fmt: skip
        fits = _filter(workflow, status, version, queue, label, error, older, newer, everything)
        _operate(target(ctx, dsn, schema), operation, ids, fits, yes, dry_run)

    return _named(command, operation, help)


def _named(command: Callable[..., None], name: str, help: str) -> Callable[..., None]:
    command.__name__, command.__doc__ = name, help
    return command


cancel = _with_reason("cancel", "Ask instances to end: their code may clean up.")
terminate = _with_reason("terminate", "End instances where they stand, without clean-up.")
pause = _plain("pause", "Let instances stand still: steps that run are finished, nothing more begins.")
resume = _plain("resume", "Let paused instances go on.")
retry = _plain(
    "retry", "Let failed or timed-out instances go on from the failed step; paused and quarantined ones, too."
)


def fork(
    ctx: typer.Context,
    ids: Ids = None,
    from_event: Annotated[
        int | None,
        typer.Option(
            "--from-event", min=1, show_default=False,
            help="Copy the history before this event. Default: from the failed step, else from the start.",
        ),
    ] = None,
    input: Annotated[
        str | None, typer.Option("--input", metavar="INPUT_JSON", help="Another input.", show_default=False)
    ] = None,
    new_version: Annotated[
        str | None, typer.Option("--new-version", help="The version that runs the copies.", show_default=False)
    ] = None,
    new_id: Annotated[
        str | None, typer.Option("--new-id", help="The copy's id, where one is forked.", show_default=False)
    ] = None,
    suffix: Annotated[str, typer.Option("--suffix", help="By filter: behind the copies' ids.")] = "-fork",
    workflow: Workflow = None, status: State = None, version: Version = None, queue: Queue = None,
    label: Label = None, error: Error = None, older: Older = None, newer: Newer = None, everything: Everything = False,
    yes: Yes = False, dry_run: DryRun = False, dsn: Dsn = None, schema: Schema = None,
) -> None:  # fmt: skip
    """Start copies of instances that go on from a place in their history, and print the copy's id."""
    fits = _filter(workflow, status, version, queue, label, error, older, newer, everything)
    where = target(ctx, dsn, schema)
    if ids and len(ids) == 1 and not fits and not dry_run:
        value = None if input is None else json_argument(input, "INPUT_JSON")
        if input is not None and not isinstance(value, (dict, list)):
            raise InvalidInput("INPUT_JSON is an object (arguments by name) or an array (by position)")
        args, kwargs = (value, None) if isinstance(value, list) else ([], value)
        with where.client() as client:
            copy = client.get(ids[0]).fork(*args, kwargs=kwargs, from_event=from_event, version=new_version, id=new_id)
            info = copy.describe()
        typer.echo(copy.id)
        warn_if_nobody(where, info.workflow, info.version)
        return
    if input is not None or new_id is not None:
        raise typer.BadParameter("go with one ID alone", param_hint="--input, --new-id")
    _operate(
        where, "fork", ids, fits, yes, dry_run, from_event=from_event, new_version=new_version, suffix=suffix
    )  # fmt: skip


def delete(
    ctx: typer.Context,
    ids: Ids = None,
    workflow: Workflow = None, status: State = None, version: Version = None, queue: Queue = None,
    label: Label = None, error: Error = None, older: Older = None, newer: Newer = None, everything: Everything = False,
    yes: Yes = False, dry_run: DryRun = False, dsn: Dsn = None, schema: Schema = None,
) -> None:  # fmt: skip
    """Remove ended instances with their history."""
    fits = _filter(workflow, status, version, queue, label, error, older, newer, everything)
    _operate(target(ctx, dsn, schema), "delete", ids, fits, yes, dry_run)


def _filter(
    workflow: str | None, status: list[Status] | None, version: str | None, queue: str | None, label: list[str] | None,
    error: str | None, older: timedelta | None, newer: timedelta | None, everything: bool,
) -> dict[str, Any]:  # fmt: skip
    given: dict[str, Any] = {
        "workflow": workflow, "status": [one.value for one in status or ()] or None, "version": version,
        "queue": queue, "labels": dict(map(_label, label or ())) or None, "error": error, "older_than": older,
        "newer_than": newer, "everything": everything or None,
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None}


def _label(text: str) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--label")
    try:
        return key, json_argument(value, "a label")
    except InvalidInput:
        return key, value


def _operate(
    where: Target, operation: str, ids: list[str] | None, fits: dict[str, Any], yes: bool, dry_run: bool,
    **options: Any,
) -> None:  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    if ids and not fits and not dry_run:
        _each(where, operation, ids, options)
        return
    if not ids and not fits:
        raise InvalidInput(
            "neither ids nor a filter were given",
            hint="Give ids, or at least one of --workflow, --status, --version, --queue, --label, --error, --older, "
            "--newer; or --everything.",
        )
    words = _WORDS[operation]
    with where.client() as client:
        if dry_run or not yes:
            found = _run(client, operation, ids, {**fits, "dry_run": True}, options, "looking")
            screen(stderr=not dry_run).print(f"{count(found.done, 'instance')} would be {words.done}")
            if dry_run or not found.done:
                return
            _show_some(client, fits)
            if not typer.confirm(f"{words.verb} {count(found.done, 'instance')}?", err=True):
                raise typer.Exit(1)
        done = _run(client, operation, ids, fits, options, words.done)
    told = f"{count(done.done, 'instance')} {words.done}"
    if done.idle:
        told += f"; {done.idle:,} needed nothing"
    screen().print(told)
    if done.busy:
        raise PgDurableError(
            f"{count(done.busy, 'instance')} were held by somebody all the time", hint="Run the same command again."
        )


def _each(where: Target, operation: str, ids: list[str], options: dict[str, Any]) -> None:
    """The instances named, one by one, and each said of."""
    words = _WORDS[operation]
    refused = 0
    with where.client() as client:
        for id in ids:
            handle = client.get(id)
            if operation == "fork":
                version, suffix = options.get("new_version"), options["suffix"]
                copy = handle.fork(from_event=options.get("from_event"), version=version, id=id + suffix)
                typer.echo(copy.id)
                continue
            answer = getattr(handle, operation)(**options)
            if operation == "delete" or answer:
                screen().print(f"instance {clean(id)}: {words.done}")
            else:
                refused += 1
                _say_not(where, id, handle.status(), words)
        if operation in ("resume", "retry") and not refused:
            info = client.get(ids[-1]).describe()
            warn_if_nobody(where, info.workflow, info.version)
    if refused:
        raise typer.Exit(1)


def _say_not(where: Target, id: str, status: str, words: _Words) -> None:
    screen(stderr=True).print(
        f"instance {clean(id)} is not {words.done}: {words.not_so} ({status}). See: {where.command('show', id)}"
    )


def _show_some(client: sync.Client, fits: dict[str, Any]) -> None:
    """A few of those meant, so that a slip in the filter shows."""
    states = fits.get("status") or [None]
    shown = 0
    for status in states:
        for info in client.list(workflow=fits.get("workflow"), status=status, limit=_SHOWN - shown):
            screen(stderr=True).print(f"  {clean(info.id)}  {clean(info.workflow)}  {info.status}")
            shown += 1
        if shown >= _SHOWN:
            break
    screen(stderr=True).print("  ...")


def _run(
    client: sync.Client,
    operation: str,
    ids: list[str] | None,
    fits: dict[str, Any],
    options: dict[str, Any],
    title: str,
) -> Done:
    call: Callable[..., Done] = getattr(client, operation)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
        console=screen(stderr=True), disable=not sys.stderr.isatty(), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task(title, total=None)
        first: list[int] = []

        def tell(progress: Done) -> None:
            # Ids are time: how far along the ids is how far along the time.
            if not first:
                first.append(progress.place.int >> 80)
            total = max((progress.before.int >> 80) - first[0], 1)
            gone = (progress.place.int >> 80) - first[0]
            bar.update(task, description=f"{progress.done:,} {title}", completed=gone, total=total)

        return call(*(ids or ()), **fits, **options, on_step=tell)
