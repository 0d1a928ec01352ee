"""Writes docs/reference.md from the docstrings of the public names. `--check` only says whether it is up to date.

    .venv/bin/python docs/build_reference.py [--check]

Reads the source text, not the imported objects: the result is then the same on every version of Python.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "pgdurable"
TARGET = ROOT / "docs" / "reference.md"

# In the order a reader meets them. A name of `__all__` that is missing here stops the script.
CHAPTERS: dict[str, list[tuple[str, str]]] = {
    "Writing workflows": [
        ("workflow", "workflow"), ("steps", "step"), ("steps", "transaction"), ("retry", "Retry"),
        ("errors", "RetryAfter"), ("errors", "NonRetryable"), ("batch", "Batch"), ("workflow", "Workflow"),
        ("steps", "Step"), ("steps", "Transaction"),
    ],
    "Called by steps": [("heartbeats", "heartbeat"), ("heartbeats", "heartbeat_details"), ("heartbeats", "progress")],
    "Called by workflow code": [
        ("context", "now"), ("context", "random"), ("context", "uuid4"), ("context", "sleep"),
        ("context", "wait_signal"), ("context", "continue_as_new"), ("child", "start_child"), ("child", "ChildHandle"),
        ("sending", "signal"), ("saga", "saga"), ("saga", "Saga"),
        ("handlers", "on_update"), ("handlers", "on_query"), ("handlers", "expose"), ("handlers", "wait_until"),
        ("state", "set_state"), ("stream", "stream"), ("stream", "Stream"),
        ("patches", "patched"), ("patches", "deprecate_patch"), ("info", "current"), ("info", "Current"),
        ("logs", "get_logger"), ("logs", "Logger"),
    ],
    "Running and starting": [
        ("engine", "Engine"), ("client", "Client"), ("handle", "Handle"), ("handle", "InstanceInfo"),
        ("handle", "RunningStep"), ("handle", "Entry"), ("handle", "Starts"), ("_client/streams", "StreamItem"),
        ("_client/queues", "Queues"), ("_client/queues", "QueueInfo"), ("_client/queues", "PartitionInfo"),
        ("_client/schedules", "Schedules"), ("_client/schedules", "Schedule"), ("encryption", "Encryption"),
        ("compression", "Compression"),
        ("http", "Http"),
    ],
    "The embedded server": [("embedded", "embedded"), ("embedded", "EmbeddedServer")],
    "Errors": [
        ("errors", name)
        for name in (
            "PgDurableError ConnectionFailed SchemaError InvalidId InvalidInput UnknownWorkflow InstanceNotFound "
            "InstanceFinished CodecError PayloadSealed PayloadBroken PayloadTooLarge FencedError WorkflowIoError "
            "WorkflowTimeout NonDeterminismError InstanceNotFinished InstanceFailed CompensationFailed InstancePaused "
            "Quarantined StepFailed StepTimeout HeartbeatTimeout StepInterrupted StepProcessDied AttemptOver "
            "ScheduleNotFound UpdateRejected UpdateFailed QueryFailed"
        ).split()
    ],
}  # fmt: skip
SYNC = ["Engine", "Client", "Handle"]

HEAD = """\
# Reference

Every public name of `pgdurable`, in the order one meets them. This page is made from the docstrings by
`docs/build_reference.py`: do not edit it by hand.

Durations are seconds (a number) or a `timedelta` everywhere. What a call guarantees is in its first sentence.
"""
_SECTION = re.compile(r"^(Args|Raises|Returns|Attributes|Keys):[ ]*(.*)$")


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def find(module: str, name: str) -> ast.ClassDef | ast.FunctionDef:
    """The definition that carries the docstring; for overloads, the last one."""
    found = [
        node
        for node in tree_of(module).body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name
    ]
    if not found:
        raise SystemExit(f"{module}.py defines no {name}")
    return found[-1]  # type: ignore[return-value]


def decorator_options(module: str, name: str) -> ast.arguments:
    """Parameters of a decorator's overload that takes options."""
    for node in tree_of(module).body:
        if isinstance(node, ast.FunctionDef) and node.name == name and node.args.kwonlyargs:
            return node.args
    raise SystemExit(f"{module}.py: {name} has no overload with options")


def parameters(arguments: ast.arguments) -> list[str]:
    """One text per parameter, as people write them; without `self`."""

    def one(arg: ast.arg, default: ast.expr | None, stars: str = "") -> str:
        text = stars + arg.arg + (f": {ast.unparse(arg.annotation)}" if arg.annotation else "")
        equals = " = " if arg.annotation else "="
        return text + (equals + ast.unparse(default) if default is not None else "")

    plain = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults)) + [*arguments.defaults]
    out = [one(arg, default) for arg, default in zip(plain, defaults, strict=True) if arg.arg != "self"]
    if arguments.vararg:
        out.append(one(arguments.vararg, None, "*"))
    elif arguments.kwonlyargs:
        out.append("*")
    out += [one(arg, default) for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg:
        out.append(one(arguments.kwarg, None, "**"))
    return out


def laid_out(before: str, given: list[str], after: str = ")") -> list[str]:
    """A call on one line where it fits, else one parameter a line."""
    line = before + ", ".join(given) + after
    if len(line) <= 110:
        return [line]
    return [before, *(f"    {text}," if text != "*" else "    *," for text in given), after]


def docstring(node: ast.AST) -> str:
    return inspect.cleandoc(ast.get_docstring(node) or "")  # type: ignore[arg-type]


def code_marks(text: str) -> str:
    """reStructuredText's double backquotes as Markdown's single ones."""
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def markdown(text: str) -> list[str]:
    """A docstring as Markdown: paragraphs as they are, sections as lists."""
    out: list[str] = []
    section = False
    for line in text.splitlines():
        head = _SECTION.match(line)
        if head:
            section = True
            if out and out[-1]:
                out.append("")
            out += [f"*{head[1]}:* {head[2]}".rstrip(), ""] if not head[2] else [f"*{head[1]}:* {head[2]}"]
        elif section and re.match(r"^ {4}\S", line):
            name, colon, rest = line.strip().partition(": ")
            out.append(f"- `{name}`: {rest}" if colon else f"- {line.strip()}")
        elif section and re.match(r"^ {8,}\S", line):
            out.append(f"  {line.strip()}")
        else:
            if line and section and not line.startswith(" ") and out and out[-1].startswith(("- ", "  ")):
                out.append("")
            section = section and line.startswith(" ")
            out.append(line)
    return [code_marks(line) for line in out]


def fields(node: ast.ClassDef) -> list[str]:
    """Parameters of a dataclass."""
    return [
        f"{ast.unparse(item.target)}: {ast.unparse(item.annotation)}"
        + (f" = {ast.unparse(item.value)}" if item.value else "")
        for item in node.body
        if isinstance(item, ast.AnnAssign)
    ]


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def call(prefix: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    keyword = "await " if isinstance(node, ast.AsyncFunctionDef) else ""
    yields = node.returns is not None and "AsyncIterator" in ast.unparse(node.returns)
    if yields:
        keyword = "async for ... in "
    elif any("contextmanager" in ast.unparse(d) for d in node.decorator_list):
        keyword = "with "
    return laid_out(f"{keyword}{prefix}{node.name}(", parameters(node.args), f"){returns(node)}")


def returns(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    if node.returns is None or any("contextmanager" in ast.unparse(d) for d in node.decorator_list):
        return ""
    text = ast.unparse(node.returns).replace("_List[", "list[").replace("_uuid.", "uuid.")
    text = re.sub(r"^AsyncIterator\[(.*)\]$", r"\1", text)
    return "" if text == "None" else f" -> {text}"


def methods(node: ast.ClassDef, prefix: str) -> list[str]:
    out: list[str] = []
    for item in node.body:
        if not isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) or item.name.startswith("_"):
            continue
        text = docstring(item)
        if not text and node.name != "Handle":
            continue
        if any(ast.unparse(d) == "property" for d in item.decorator_list):
            out += ["```python", f"{prefix}{item.name}{returns(item).replace(' -> ', ': ')}", "```", ""]
        else:
            out += ["```python", *call(prefix, item), "```", ""]
        out += [*markdown(text), ""]
    return out


def entry(module: str, name: str) -> list[str]:
    node = find(module, name)
    out = [f"### `{name}`", ""]
    if isinstance(node, ast.ClassDef):
        init = [i for i in node.body if isinstance(i, ast.FunctionDef) and i.name == "__init__"]
        bases = ", ".join(ast.unparse(b) for b in node.bases if not ast.unparse(b).startswith("Generic"))
        made_by_users = name in ("Retry", "Engine", "Client", "EmbeddedServer", "RetryAfter", "NonRetryable")
        if made_by_users and is_dataclass(node):
            out += ["```python", *laid_out(f"pgdurable.{name}(", fields(node)), "```", ""]
        elif made_by_users:
            given = parameters(init[0].args) if init else ["message"]
            out += ["```python", *laid_out(f"pgdurable.{name}(", given), "```", ""]
        elif bases:
            out += [f"Base: `{bases}`", ""]
        if is_dataclass(node) and not made_by_users:
            out += ["```python", *fields(node), "```", ""]
        out += [*markdown(docstring(node)), ""]
        if not is_dataclass(node) and module != "errors":
            out += methods(node, {"EmbeddedServer": "server"}.get(name, name.lower()) + ".")
    elif name in ("workflow", "step", "transaction"):
        options = [text for text in parameters(decorator_options(module, name)) if text != "*"]
        out += ["```python", f"@pgdurable.{name}", *laid_out(f"@pgdurable.{name}(", options), "```", ""]
        out += [*markdown(docstring(node)), ""]
    else:
        out += ["```python", *call("pgdurable.", node), "```", ""]
        out += [*markdown(docstring(node)), ""]
    return out


def render() -> str:
    public = ast.literal_eval(
        next(
            n.value
            for n in tree_of("__init__").body
            if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"
        )
    )
    told = {name for chapter in CHAPTERS.values() for _, name in chapter} | {"sync", "logger"}
    if told != set(public):
        raise SystemExit(f"docs/build_reference.py and pgdurable.__all__ differ: {sorted(told ^ set(public))}")
    out = [HEAD]
    for title, names in CHAPTERS.items():
        out += [f"## {title}", ""]
        for module, name in names:
            out += entry(module, name)
    out += ["## `pgdurable.sync`", "", *markdown(inspect.cleandoc(ast.get_docstring(tree_of("sync")) or "")), ""]
    for name in SYNC:
        node = find("sync", name)
        assert isinstance(node, ast.ClassDef)
        names = [
            i.name
            for i in node.body
            if isinstance(i, ast.FunctionDef)
            and not i.name.startswith("_")
            and not any(ast.unparse(d) == "property" for d in i.decorator_list)
        ]
        out += [f"**`sync.{name}`**: {code_marks(' '.join(docstring(node).split()))}",
                f"Methods: {', '.join(f'`{n}`' for n in names)}.", ""]  # fmt: skip
    text = "\n".join(out)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def main() -> int:
    text = render()
    if "--check" in sys.argv[1:]:
        if not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
            print("docs/reference.md is out of date; run: python docs/build_reference.py", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
