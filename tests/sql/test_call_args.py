"""References in the arguments of `call`: whole, within texts, and within arrays and objects, as everywhere else."""

from __future__ import annotations

from typing import Any

import pytest
from store.namespace import Namespace

from .machine import Machine

WHO = "O'Brien $x \"'; drop table ledger; --"
INPUT = {"n": 3, "who": WHO, "o": {"k": [1]}}


@pytest.fixture
def m(ns: Namespace) -> Machine:
    return Machine(ns)


def called(m: Machine, arg: Any, type: str) -> str:
    m.ns.rows(f"create function @.given(a {type}) returns {type} language sql as 'select a'")
    return m.run({"op": "call", "function": f"{m.ns.schema}.given", "args": {"a": arg}, "name": "give"}, INPUT)


@pytest.mark.parametrize(
    ("arg", "type", "given"),
    [
        ("$who", "text", WHO),
        ("no $n of $who", "text", f"no 3 of {WHO}"),
        ("'$who'", "text", f"'{WHO}'"),
        ("$n of $nobody", "text", "3 of $nobody"),
        ("$$n and", "text", "$n and"),
        ("it's 5 $", "text", "it's 5 $"),
        ("2026-01-0$n", "date", "2026-01-03"),
        (["$n", 2], "int[]", [3, 2]),
        ("$who", "jsonb", WHO),
        ("$o", "jsonb", {"k": [1]}),
        (["$who", "x"], "jsonb", [WHO, "x"]),
        (
            {"a'b": {"b": "$o"}, "c": ["$n", "no $n", "$$k", None, {}, True], "$n": "$none?"}, "jsonb",
            {"a'b": {"b": {"k": [1]}}, "c": [3, "no 3", "$k", None, {}, True], "$n": None},
        ),
        ({f"k{n}": "$n" for n in range(300)}, "jsonb", {f"k{n}": 3 for n in range(300)}),
    ],
)  # fmt: skip
def test_references_stand_for_values_however_deep(m: Machine, arg: Any, type: str, given: Any) -> None:
    assert m.output(called(m, arg, type))["rows"] == [{"given": given}]
    assert m.ledger() == []


@pytest.mark.parametrize("arg", ["$none", {"x": ["$none"]}])
def test_a_reference_to_nothing_fails_the_step_and_is_named(m: Machine, arg: Any) -> None:
    id = called(m, arg, "jsonb")
    error = m.ns.one("select error from @.instances where id = %s", id)
    assert error["sqlstate"] == "PGD20"
    assert "step give" in error["message"]
    assert "$none" in error["message"]
