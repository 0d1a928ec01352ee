"""Two functions under one name and version are refused, wherever they stand; one that is defined again is not."""

from __future__ import annotations

import types

import pytest

from pgdurable.workflow import Registry, Workflow

SOURCE = "async def checkout(order: str) -> str:\n    return order\n"


def defined(module: str, file: str, source: str = SOURCE, name: str = "checkout") -> Workflow:
    namespace = vars(types.ModuleType(module))
    exec(compile(source, file, "exec"), namespace)
    return Workflow(namespace[name], name="checkout")


def test_functions_of_two_modules_do_not_share_a_name_though_they_are_called_the_same() -> None:
    registry = Registry([defined("shop", "shop.py")])
    with pytest.raises(ValueError, match=r"is both shop\.checkout and depot\.checkout; give one of them another name="):
        registry.add(defined("depot", "depot.py"))
    other = defined("shop", "shop.py", "async def order() -> None: pass", "order")
    with pytest.raises(ValueError, match=r"is both shop\.checkout and shop\.order"):
        registry.add(other)


def test_a_function_that_is_defined_again_takes_its_own_place() -> None:
    registry = Registry([defined("shop", "shop.py")])
    # Reloaded; and the program's own file, imported by its name as well.
    for again in (defined("shop", "shop.py"), defined("__main__", "shop.py")):
        registry.add(again)
        assert registry.get("checkout") is again
    assert len(registry) == 1
