"""Finds the workflows and engine options that `worker MODULE[:VARIABLE]` names."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from types import ModuleType
from typing import Any

from pgdurable.engine import Engine
from pgdurable.errors import PgDurableError

__all__ = ["load_module", "load_options"]

_NOT_OPTIONS = {"self"}


def load_module(name: str) -> ModuleType:
    """Imports the module, with the current folder on the path. Raises PgDurableError naming it and what went wrong."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise PgDurableError(f"{name!r} is not the name of a module", hint=_as_import(name))
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            missing = "Run it in the folder that holds the module, or install the module's package."
            raise PgDurableError(
                f"there is no module {name}: {error}",
                detail=f"Looked in the current folder ({here}) and in what is installed for {sys.executable}.",
                hint=_as_import(name) if name.endswith(".py") else missing,
            ) from None
        raise _import_failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(name, error) from error


def _as_import(path: str) -> str:
    module = path.removesuffix(".py").strip("./").replace("/", ".")
    return f"Write it as an import statement does: pgdurable worker {module or 'shop.workflows'}"


def _import_failed(name: str, error: BaseException) -> PgDurableError:
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return PgDurableError(
        f"importing {name} failed: {what}",
        detail=_place(error),
        hint=f"See all of it: python -c 'import {name}'",
    )


def _place(error: BaseException) -> str | None:
    """The line of the user's code that raised, not one of the import machinery's."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    frames = [f for f in frames if f.filename != __file__]
    if isinstance(error, SyntaxError) or not frames:
        return None
    last = frames[-1]
    return f"At {last.filename}, line {last.lineno}: {last.line}"


def load_options(module: ModuleType, variable: str) -> dict[str, Any]:
    """The Engine's keyword options held by a dict of the module. Raises PgDurableError when it is not one."""
    where = f"{module.__name__}:{variable}"
    if not hasattr(module, variable):
        raise PgDurableError(
            f"module {module.__name__} has no {variable}",
            hint=f"Define it there: {variable} = {{'lease': 20}}, or leave :{variable} out.",
        )
    options = getattr(module, variable)
    if not isinstance(options, dict):
        raise PgDurableError(
            f"{where} is no dict of Engine options",
            detail=f"Expected something like {{'lease': 20}}, found a {type(options).__name__}.",
        )
    known = [p for p in inspect.signature(Engine.__init__).parameters if p not in _NOT_OPTIONS]
    unknown = [str(key) for key in options if key not in known]
    if unknown:
        raise PgDurableError(
            f"{where} has options that Engine does not take: {', '.join(unknown)}",
            hint=f"Engine takes: {', '.join(known)}.",
        )
    return dict(options)
