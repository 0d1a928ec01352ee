"""No SQL is built from input, and nothing that is read runs code: the source text itself is looked through."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pgdurable

ROOT = Path(pgdurable.__file__).parent
BEGINS = re.compile(
    r"\s*(select|insert|update|delete|with|create|drop|alter|grant|revoke|copy|listen|unlisten|notify|set|reset|begin|"
    r"lock|truncate|call|do|prepare|execute|deallocate|declare|fetch|explain|comment|reindex|vacuum|analyze)\s",
)
# What may stand in such a text, and why that is no input.
ALLOWED = {
    "_engine/membership.py": {"self._schema", "self.worker"},  # checked by quote_schema; a number of the server's
    # `pgdurable bench` works in a schema whose name it has made up, on tables it has made there.
    "cli/bench.py": {"schema"},
    "cli/bench_floor.py": {
        "schema",
        "table",
        "columns",
        "columns['instances']",
        "columns['history']",
        "most",
        "'instance_id, event_id' if table == 'history' else 'id'",
    },
    "cli/bench_load.py": {"table"},
    # What doctor tells people to run; it runs nothing of it itself.
    "cli/table_checks.py": {"where.schema", "row['name']"},
}
RUNS_CODE = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "joblib"}


def texts() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(ROOT.rglob("*.py")):
        yield str(file.relative_to(ROOT)), ast.parse(file.read_text())


def built(tree: ast.AST) -> Iterator[tuple[int, str, set[str]]]:
    """Line, beginning and what is put in, of each text that looks like SQL and is put together."""
    for node in ast.walk(tree):
        first: ast.expr | None = None
        parts: list[ast.expr] = []
        if isinstance(node, ast.JoinedStr):
            first, parts = node.values[0], [v.value for v in node.values if isinstance(v, ast.FormattedValue)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mod, ast.Add)):
            first, parts = node.left, [node.right]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
            first, parts = node.func.value, list(node.args)
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and BEGINS.match(first.value):
            yield node.lineno, first.value, {ast.unparse(part) for part in parts}


def test_no_sql_is_put_together_from_input() -> None:
    wrong = []
    for name, tree in texts():
        for line, text, parts in built(tree):
            if not parts <= ALLOWED.get(name, set()):
                wrong.append(f"{name}:{line}: {text[:40]!r} with {parts}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        'cur.execute(f"select * from {table}")',
        'cur.execute("select * from t where id = %s" % id)',
        'cur.execute("select * from " + table)',
        'cur.execute("listen {}".format(channel))',
    ],
)
def test_the_look_finds_what_it_is_for(text: str) -> None:
    assert len(list(built(ast.parse(text)))) == 1


def test_nothing_of_ours_runs_what_it_has_read() -> None:
    """No pickle, no eval: what is in the database is JSON, and stays data."""
    for name, tree in texts():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not MODULES & {alias.name.split(".")[0] for alias in node.names}, name
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in MODULES, name
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in RUNS_CODE, f"{name}:{node.lineno}"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                # Those that import import the module that the user names, or that defines a step.
                importing = ("cli/loading.py", "_engine/process_child.py")
                assert node.func.attr != "import_module" or name in importing, f"{name}:{node.lineno}"
    for file in (*ROOT.rglob("*.pyx"), *ROOT.rglob("*.pxi")):
        code = re.sub(r"#.*", "", file.read_text())
        assert not re.search(r"\b(eval|exec|pickle|marshal|__reduce\w*|__import__)\s*\(", code), file
