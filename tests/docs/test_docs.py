"""The documentation tells the truth: its example runs as printed, its links lead somewhere, its SQL is accepted."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._store.migrations import migrate
from pgdurable.workflow import Registry

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/guides/*.md"),
    ]
)
IDS = [page.name for page in PAGES]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language on a page, in order."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def without_code(text: str) -> str:
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    names = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", ""))
        names.add(plain.strip().replace(" ", "-"))
    return names


# -- the example ------------------------------------------------------------------------------------------------------


def test_the_example_of_the_readme_runs_as_printed(tmp_path: Path) -> None:
    (example,) = blocks("README.md", "python")
    (printed,) = blocks("README.md", "text")
    program = tmp_path / "checkout.py"
    program.write_text(example, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

    def comparable(output: str) -> tuple[list[str], list[str]]:
        # The three things that happen at once may become durable in any order, as the README says.
        lines = output.splitlines()
        return lines[:3] + lines[6:], sorted(line.split(" ", 1)[1] for line in lines[3:6])

    assert comparable(done.stdout) == comparable(printed)


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in ROOT.glob("docs/*.md") if f"docs/{page.name}" not in readme] == []


def test_promises_name_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs/promises.md").read_text(encoding="utf-8"))
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []


# -- the reference ----------------------------------------------------------------------------------------------------


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/build_reference.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_sqlstate_of_the_functions_is_in_the_table() -> None:
    raised = set()
    for path in (ROOT / "sql/functions").glob("*.sql"):
        raised |= set(re.findall(r"errcode = '(PGD\d\d)'", path.read_text(encoding="utf-8")))
    told = set(re.findall(r"^\| `(PGD\d\d)` \|", (ROOT / "docs/sql.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert told == raised


def test_every_view_and_its_columns_are_told(dsn: str, schema: str) -> None:
    migrate(dsn, schema)
    with psycopg.connect(dsn) as conn:
        found = conn.execute(
            "select c.relname::text, array_agg(a.attname::text order by a.attnum)"
            "  from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0"
            " where c.relnamespace = %s::regnamespace and c.relkind = 'v' group by 1",
            (schema,),
        ).fetchall()
    page = (ROOT / "docs/sql.md").read_text(encoding="utf-8")
    told = {}
    for name, columns in re.findall(r"^\| `(\w+)` \| [^|]* \| (`[^|]*) \|$", page, re.MULTILINE):
        told[name] = re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", columns))
    assert told == dict(found)


# -- SQL --------------------------------------------------------------------------------------------------------------


@pgd.step
async def reserve(sku: str) -> str:
    return sku


def test_the_sql_of_the_pages_runs(dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block runs in a transaction of its own, beside a checkout that waits and one that has ended."""
    # Other tests have a workflow of this name too, and run it by name: this one must not take its place.
    monkeypatch.setattr(sys.modules["pgdurable.workflow"], "registry", Registry())

    @pgd.workflow(name="checkout")
    async def checkout(order: str, sku: str, cents: int) -> str:
        await reserve(sku)
        await pgd.wait_signal("approval")
        return order

    roles = ("worker", "admin")

    def here(block: str) -> str:
        return re.sub(r"\bdurable(_worker|_admin)?\b", rf"{schema}\1", block)

    async def one_order() -> None:
        async with pgd.Engine(dsn, schema=schema, workflows=[checkout], migrate=True) as engine:
            for id in ("order/o-1", "order/ended"):
                handle = await engine.start(checkout, id[6:], "sku-9", 4200, id=id)
                if id == "order/ended":
                    await handle.signal("approval")
                    assert await handle.result(timeout=30) == "ended"

    asyncio.run(one_order())
    ran = 0
    with psycopg.connect(dsn) as conn:
        for role in roles:
            conn.execute(f'create role "{schema}_{role}"')
        for page in ("README.md", "docs/sql.md", "docs/guide.md", "docs/operations.md"):
            for block in blocks(page, "sql"):
                with conn.transaction(force_rollback=True):
                    try:
                        conn.execute(here(block))
                    except psycopg.Error as error:
                        pytest.fail(f"{page}: {error}\n{block}")
                ran += 1
        conn.rollback()
    assert ran > 10


# -- the table of capabilities ---------------------------------------------------------------------------------------


def test_every_test_that_the_table_of_capabilities_names_is_there() -> None:
    text = (ROOT / "docs" / "capabilities.md").read_text(encoding="utf-8")
    sources = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py"))
    there = set(re.findall(r"def (test_\w+)", sources))
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", text))
    assert len(named) > 50
    assert named <= there, sorted(named - there)
    paths = set(re.findall(r"`(tests/[\w/.]+)`", text))
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
