"""`update`, `query`, `state` and `stream`: asking instances, from a shell."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer

from pgdurable.cli.instances import arguments_of
from pgdurable.cli.options import Dsn, Schema, target
from pgdurable.cli.text import one_line_json
from pgdurable.errors import InvalidInput, PgDurableError

__all__ = ["query", "state", "stream", "update"]

_Id = Annotated[str, typer.Argument(help="The instance's id.", show_default=False)]
_Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[INPUT_JSON | ARG...]",
        help="As for start: one JSON object or array, or the arguments one by one.",
        show_default=False,
    ),
]


def update(
    ctx: typer.Context,
    id: _Id,
    name: Annotated[str, typer.Argument(help="The name of the workflow's handler.", show_default=False)],
    arguments: _Arguments = None,
    key: Annotated[
        str | None, typer.Option("--key", help="A UUID: the same key again is the same request.", show_default=False)
    ] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds. Default: for ever.")] = None,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Ask an instance for an update and print the reply as JSON."""
    args, kwargs = arguments_of(arguments or [])
    try:
        uuid = None if key is None else UUID(key)
    except ValueError:
        raise InvalidInput(f"--key is a UUID, found {key!r}", hint="Leave it out, or make one: uuidgen.") from None
    _print(ctx, dsn, schema, id, lambda handle: handle.update(name, *args, kwargs=kwargs, key=uuid, timeout=timeout))


def query(
    ctx: typer.Context,
    id: _Id,
    name: Annotated[str, typer.Argument(help="The name of the workflow's handler.", show_default=False)],
    arguments: _Arguments = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds.")] = 10.0,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Ask an instance a query and print the answer as JSON."""
    args, kwargs = arguments_of(arguments or [])
    _print(ctx, dsn, schema, id, lambda handle: handle.query(name, *args, kwargs=kwargs, timeout=timeout))


def state(
    ctx: typer.Context,
    id: _Id,
    key: Annotated[str | None, typer.Argument(help="Default: all keys, as one object.", show_default=False)] = None,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Print what an instance publishes, as JSON."""

    def look(handle: Any) -> Any:
        states = handle.states()
        if key is None:
            return states
        if key not in states:
            raise PgDurableError(
                f"instance {id} publishes nothing under {key!r}",
                hint=f"It publishes {', '.join(map(repr, states))}." if states else "It publishes nothing at all.",
            )
        return states[key]

    _print(ctx, dsn, schema, id, look)


def stream(
    ctx: typer.Context,
    id: _Id,
    name: Annotated[str, typer.Argument(help="The stream's name.", show_default=False)],
    offset: Annotated[int, typer.Option("--offset", min=0, help="Where to begin.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until the stream ends.")] = False,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Print a stream of an instance, one item per line as JSON."""
    with target(ctx, dsn, schema).client() as client:
        for item in client.get(id).stream(name, offset, follow=follow):
            typer.echo(one_line_json(item))


def _print(ctx: typer.Context, dsn: str | None, schema: str | None, id: str, ask: Any) -> None:
    with target(ctx, dsn, schema).client() as client:
        try:
            value = ask(client.get(id))
        except TimeoutError as error:
            raise PgDurableError(str(error)) from None
    typer.echo(one_line_json(value))
