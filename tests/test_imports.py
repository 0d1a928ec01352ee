"""Imports go downward only: the rooms of DESIGN section 3, checked on the syntax tree of every module.

A module's room is named by the first part of its path below `pgdurable`. The rooms are listed from the top; a
module may import its own room and lower ones, never a room beside it on the same floor that is not its own
unless the floor says so.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "pgdurable"

# From the top down. `__init__` opens the door to all of them, so it is above the faces.
FLOORS: list[set[str]] = [
    {"__init__", "__main__"},
    {"cli", "testing", "ui"},
    {"engine", "client", "handle", "sync", "_client", "_engine"},
    {"workflow", "batch", "child", "saga", "sending", "steps", "heartbeats", "context", "retry", "codec"}
    | {"compression", "handlers", "state", "stream"}
    | {"encryption", "_arguments", "_failure", "_mismatch", "info", "logs", "patches", "_step_names", "http"},
    {"_runtime", "_store"},
    {"_core"},
    # Beside the building: knows nothing of workflows.
    {"embedded"},
    {"_embedded_supervisor"},
    {"_secret"},
    {"errors"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Imports that the floors alone would forbid.
EXTRA_ALLOWED: set[tuple[str, str]] = set()
# Imports that the floors alone would allow.
FORBIDDEN: dict[str, set[str]] = {
    "_runtime": {"_store", "_core", "embedded"},
    "_store": {"_runtime"},
    "embedded": {"_core", "_store"},
    "_embedded_supervisor": {"errors"},
}
# `_runtime` is a pure function of code and history: no database, no clock, no I/O.
IMPURE = {"psycopg", "psycopg_pool", "time", "socket", "select", "selectors", "subprocess", "threading"}
# A thread-local is neither: `from threading import local` is fine anywhere, the rest of threading in one file.
MAY_THREAD = {"_runtime/thread.py"}
PURE_PARTS = {"threading.local"}


def imported_names(tree: ast.Module, module: list[str]) -> list[tuple[int, str]]:
    """The dotted names a module imports, with their lines; relative ones made absolute.

    Imports under `if TYPE_CHECKING` count too: a type that points upward is a room that knows too much.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                base = module[: len(module) - node.level] + base
            # `from pgdurable import x` may name a room: keep the name that is imported.
            found += [(node.lineno, ".".join([*base, alias.name])) for alias in node.names]
    return found


def violations(package: Path) -> list[str]:
    """What the modules of a package tree import against the rules, one line each."""
    complaints = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        room = relative.parts[0].removesuffix(".py")
        if room not in FLOOR_OF:
            complaints.append(f"{relative}: {room!r} has no floor; give it one in tests/test_imports.py")
            continue
        # For level arithmetic: a package's __init__ counts as a module inside the package.
        module = ["pgdurable", *relative.with_suffix("").parts]
        for line, name in imported_names(ast.parse(path.read_text(encoding="utf-8")), module):
            where = f"{relative}:{line}: imports {name}"
            top, *rest = name.split(".")
            if top == "pgdurable":
                target = rest[0] if rest and rest[0] in FLOOR_OF else "__init__"
                if target != room and target in FORBIDDEN.get(room, set()):
                    complaints.append(f"{where}, and {room} must not know {target}")
                elif FLOOR_OF[target] < FLOOR_OF[room] and (room, target) not in EXTRA_ALLOWED:
                    complaints.append(f"{where}, which is upward: from {room} to {target}")
            elif room == "_runtime" and top in IMPURE and name not in PURE_PARTS:
                if top == "threading" and relative.as_posix() in MAY_THREAD:
                    continue
                complaints.append(f"{where}, and _runtime does no I/O and knows no clock")
    return complaints


def test_imports_go_downward_only() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("codec.py", "from pgdurable.engine import Engine", "upward: from codec to engine"),
        ("codec.py", "from pgdurable import Engine", "upward: from codec to __init__"),
        ("codec.py", "def f():\n    import pgdurable.cli", "upward: from codec to cli"),
        ("_store/query.py", "from .. import client", "upward: from _store to client"),
        ("_store/query.py", "from .._runtime.loop import Loop", "_store must not know _runtime"),
        ("_runtime/loop.py", "from pgdurable._store import x", "_runtime must not know _store"),
        ("_runtime/loop.py", "from pgdurable import _core", "_runtime must not know _core"),
        ("_runtime/loop.py", "from ..workflow import step", "upward: from _runtime to workflow"),
        ("_runtime/loop.py", "from time import monotonic", "knows no clock"),
        ("_runtime/loop.py", "import threading", "knows no clock"),
        ("_runtime/loop.py", "from threading import Thread", "knows no clock"),
        ("_runtime/deep/er.py", "from ...engine import x", "upward: from _runtime to engine"),
        ("errors.py", "from pgdurable import codec", "upward: from errors to codec"),
        ("engine.py", "import pgdurable.ui.app", "upward: from engine to ui"),
        ("attic.py", "", "has no floor"),
    ],
)
def test_checker_finds_a_planted_violation(tmp_path: Path, path: str, source: str, complaint: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    found = violations(tmp_path)
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("_runtime/thread.py", "import threading"),
        ("_runtime/current.py", "from threading import local"),
        ("_runtime/loop.py", "import asyncio\nfrom ..errors import PgDurableError\nfrom . import thread"),
        ("_engine/worker.py", "from pgdurable import _core\nfrom .._store import x\nfrom .._runtime import y"),
        ("context.py", "from pgdurable._runtime import current"),
        ("cli/main.py", "from pgdurable.engine import Engine"),
        ("__init__.py", "from .engine import Engine\nfrom . import sync"),
    ],
)
def test_checker_allows_what_goes_downward(tmp_path: Path, path: str, source: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    assert violations(tmp_path) == []
