"""`migrate` and `uninstall`: the schema comes and goes."""

from __future__ import annotations

from typing import Annotated

import typer

from pgdurable._engine.connections import server_of
from pgdurable._store import migrations, roles
from pgdurable.cli.options import Dsn, Schema, Target, target
from pgdurable.cli.text import clean, count, screen

__all__ = ["migrate", "uninstall"]


def migrate(
    ctx: typer.Context,
    make_roles: Annotated[
        bool, typer.Option("--roles", help="Make the group roles of the namespace and grant them their rights.")
    ] = False,
    role_prefix: Annotated[
        str | None,
        typer.Option("--role-prefix", metavar="PREFIX", help="Begins the roles' names. Default: the schema's name."),
    ] = None,
    rls: Annotated[
        bool | None,
        typer.Option(
            "--rls/--no-rls",
            help="Row-level security: members of the client role see only what they submitted.",
            show_default=False,
        ),
    ] = None,
    df: Annotated[bool, typer.Option("--df", help="Make the schema df too, the known names and operators.")] = False,
    print_sql: Annotated[
        bool, typer.Option("--print", help="With --roles: print the SQL that makes them, and do nothing.")
    ] = False,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Create the schema, or bring it up to date. Safe to run at any time, by many at once."""
    where = target(ctx, dsn, schema)
    if role_prefix is not None:
        try:
            roles.Roles(role_prefix)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--role-prefix") from None
    if (print_sql or role_prefix is not None) and not make_roles:
        raise typer.BadParameter("--print and --role-prefix go with --roles")
    if print_sql:
        for statement in roles.statements(where.schema, role_prefix, row_security=bool(rls)):
            typer.echo(f"{statement};")
        return
    report = migrations.migrate(
        where.dsn, where.schema, roles=make_roles, role_prefix=role_prefix, row_security=rls, df=df
    )
    out = screen()
    place = f"schema {report.schema} at {server_of(where.dsn)}"
    if report.extension:
        out.print(f"{place} is the extension pgdurable: its scripts on the server bring it up to date")
        place = "it"
    if report.before is None:
        out.print(f"created {place}, version {report.after}")
    elif report.before != report.after:
        out.print(f"migrated {place} from version {report.before} to {report.after}")
    elif report.routines:
        out.print(f"renewed the functions and views of {place}, version {report.after}")
    else:
        out.print(f"{place} is up to date, version {report.after}")
    for name in report.applied:
        out.print(f"  applied {name}")
    if make_roles:
        out.print(f"roles: {', '.join(map(clean, report.roles))}")
    if df or report.df_renewed:
        out.print(f"schema df over it is {'made anew' if report.df_renewed else 'up to date'}")
    if rls is not None:
        out.print(f"row-level security by submitter is {'on' if report.row_security else 'off'}")


def uninstall(
    ctx: typer.Context,
    dsn: Dsn = None,
    schema: Schema = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    drop_roles: Annotated[
        bool, typer.Option("--roles", help="Drop its group roles too, unless something else depends on them.")
    ] = False,
) -> None:
    """Drop the schema with every instance and all history in it; nothing of ours is left in the database.

    A schema that is the extension pgdurable goes as `drop extension` takes it. Its files stay on the server.
    """
    where = target(ctx, dsn, schema)
    if not yes:
        _announce(where)
        if not typer.confirm(f"Drop schema {where.schema} at {server_of(where.dsn)}?"):
            screen().print("nothing was changed")
            raise typer.Exit(1)
    with where.session() as session:
        group = migrations.group_roles(session.conn, where.schema)
        if migrations.uninstall(session.conn, where.schema, roles=drop_roles):
            screen().print(f"dropped schema {where.schema}")
            left = [row["name"] for row in session.rows("there", list(group), file="roles")]
            if left:
                screen().print(f"left, as roles are the whole cluster's: {', '.join(map(clean, left))}")
            return
    screen().print(f"there is no schema {where.schema}: nothing to drop")


def _announce(where: Target) -> None:
    """Says what would be lost."""
    out = screen()
    with where.session() as session:
        if migrations.current_version(session.conn, where.schema) is None:
            return
        counts = {row["status"]: row["instances"] for row in session.rows("status_counts")}
        unfinished = sum(counts.get(s, 0) for s in ("pending", "running", "waiting", "paused"))
        out.print(
            f"schema {where.schema} holds {count(sum(counts.values()), 'instance')}, {unfinished} of them not finished"
        )
        living = [row for row in session.rows("workers") if row["living"]]
        if living:
            out.print(f"{count(len(living), 'living worker')} on it: " + ", ".join(row["name"] for row in living))
