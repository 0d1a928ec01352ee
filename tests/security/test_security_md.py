"""SECURITY.md names tests that are there and dependencies as they are."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "SECURITY.md").read_text()


def test_every_test_it_names_is_there() -> None:
    named = set(re.findall(r"`((?:\w+/)?test_\w+\.py)`", TEXT))
    assert len(named) >= 8
    assert [name for name in sorted(named) if not (ROOT / "tests" / name).is_file()] == []


def test_every_dependency_has_its_licence() -> None:
    """Of what is installed to run, whatever that needs included."""
    todo, seen = ["psycopg", "psycopg-pool", "psycopg-binary", "msgspec", "typer", "cryptography", "pydantic"], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for requirement in distribution(name).requires or []:
            if "extra ==" not in requirement and "platform" not in requirement and "python_version" not in requirement:
                todo.append(re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-"))  # type: ignore[index]
    assert len(seen) >= 10
    assert [name for name in sorted(seen) if not re.search(rf"\b{name}\b", TEXT)] == []
