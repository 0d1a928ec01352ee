"""`extension`: the files that `create extension pgdurable` needs, put where a server finds them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from pgdurable._engine.connections import server_of
from pgdurable._store import migrations
from pgdurable._store.extension_files import scripts
from pgdurable.cli.options import Dsn, Schema, target
from pgdurable.cli.text import screen
from pgdurable.errors import PgDurableError

__all__ = ["extension"]


def extension(
    ctx: typer.Context,
    pg_config: Annotated[
        str,
        typer.Option("--pg-config", metavar="FILE", help="The server's pg_config. Default: PG_CONFIG, else pg_config."),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Only write the files there, with a Makefile for PGXS."),
    ] = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Make a migrated schema an extension; the server must have the files.")
    ] = False,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Put the files of the extension where the server finds them: then `create extension pgdurable` works.

    Run it on the server's machine, as whoever may write to the folder of extensions there. DESTDIR in the environment
    is put before that folder, as packagers do.
    """
    where = target(ctx, dsn, schema)
    version = migrations.latest_version()
    if adopt:
        if out is not None or pg_config:
            raise typer.BadParameter("--adopt takes neither --out nor --pg-config: it talks to the server")
        migrations.adopt(where.dsn, where.schema)
        screen().print(
            f"schema {where.schema} at {server_of(where.dsn)} is the extension pgdurable now, version {version}"
        )
        return
    folder = out if out is not None else _extension_dir(pg_config or os.environ.get("PG_CONFIG") or "pg_config")
    files = scripts(where.schema)
    if out is None:
        del files["Makefile"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("pgdurable--*.sql"):
            old.unlink()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise PgDurableError(
            f"the extension's files cannot be written to {folder}: {error.strerror}",
            hint="Run this as root, or write them with --out FOLDER and then, there: make install PG_CONFIG=...",
        ) from error
    out_to = screen()
    out_to.print(f"wrote {len(files)} files of the extension pgdurable, version {version}, to {folder}")
    if out is None:
        out_to.print(f"now, in a database: create extension pgdurable;  (makes schema {where.schema})")
    else:
        out_to.print(f"now: make -C {folder} install PG_CONFIG=...")


def _extension_dir(pg_config: str) -> Path:
    """The folder in which the server that this pg_config belongs to looks for extensions."""
    found = shutil.which(pg_config)
    hint = "Name it: --pg-config /path/to/pg_config. Debian has it in postgresql-server-dev-NN, or libpq-dev."
    if found is None:
        raise PgDurableError(f"there is no {pg_config} here, which tells where the server looks", hint=hint)
    done = subprocess.run([found, "--sharedir"], capture_output=True, text=True)
    share = done.stdout.strip()
    if done.returncode != 0 or not share:
        raise PgDurableError(f"{found} --sharedir says nothing: {done.stderr.strip() or done.returncode}", hint=hint)
    folder = Path(share) / "extension"
    dest = os.environ.get("DESTDIR", "")
    return Path(dest + str(folder)) if dest else folder
