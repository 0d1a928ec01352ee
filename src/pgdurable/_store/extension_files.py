"""The files of the extension: control file, scripts, and a Makefile for PGXS, put together from what `migrate` runs.

So both ways lead to one schema. The schema is a part of the extension, and named in its scripts: see
`sql/extension/pgdurable.control`. Nothing here writes files; `cli/extension.py` does.
"""

from __future__ import annotations

import re
from importlib.resources import files

from pgdurable._store import migrations
from pgdurable._store.sql import quote_schema, split_commands, substitute

__all__ = ["FIRST", "scripts"]

# The first version that there was as an extension: from here on each can be updated to the present one.
FIRST = 23


def scripts(schema: str = "durable") -> dict[str, str]:
    """The extension's files by name: control file, scripts, and a Makefile that installs them with PGXS."""
    latest = migrations.latest_version()
    adopted = [_read("expect.sql", before=latest), _read("adopt.sql"), *_text(None)]
    found = {
        "pgdurable.control": substitute(_read("pgdurable.control"), schema),
        "Makefile": _read("Makefile"),
        f"pgdurable--{latest}.sql": _script(schema, _fresh()),
        "pgdurable--unpackaged.sql": _script(schema, [_read("unpackaged.sql")]),
        f"pgdurable--unpackaged--{latest}.sql": _script(schema, adopted),
    }
    for before in range(FIRST, latest):
        parts = [_read("expect.sql", before=before), *_text(before)]
        found[f"pgdurable--{before}--{latest}.sql"] = _script(schema, parts)
    return found


def _read(name: str, **words: object) -> str:
    """A file of `sql/extension`, with words such as `@version@` filled in."""
    text = (files("pgdurable") / "_sql" / "extension" / name).read_text(encoding="utf-8")
    known = {"version": migrations.latest_version(), "package": migrations.library_version(), **words}
    return re.sub(r"@(\w+)@", lambda found: str(known.get(found[1], found[0])), text)


def _fresh() -> list[str]:
    return [_read("begin.sql"), *migrations.VERSION_TABLE, *_text(0)]


def _text(before: int | None) -> list[str]:
    """What brings a schema from version `before` (0: none, None: the present one) to the present one."""
    found = []
    for number, _, text in migrations.numbered():
        if before is not None and number > before:
            found += [text, _read("applied.sql", number=number)]
    texts = migrations.routines()
    found += [*texts, _read("routines.sql", digest=migrations.digest(texts)), _as_invoker()]
    if before == 0:
        found.append(_read("no_partitions.sql"))
    return [*found, _read("finish.sql")]


def _as_invoker() -> str:
    text = (files("pgdurable") / "_sql" / "roles" / "views_as_invoker.sql").read_text(encoding="utf-8")
    commands = (f"        {command.splitlines()[-1]};" for command in split_commands(text))
    return _read("as_invoker.sql", commands="\n".join(commands))


def _script(schema: str, parts: list[str]) -> str:
    head = '\\echo Use "create extension pgdurable" to load this file. \\quit\n'
    lock = migrations.LOCK.replace("%s::text", f"'{quote_schema(schema)}'")
    texts = [lock, *(substitute(part, schema) for part in parts)]
    return head + "\n".join(f"{text.strip().rstrip(';')};\n" for text in texts)
