"""References in steps that run: whatever the value, the step means what it says."""

from __future__ import annotations

import pytest
from store.namespace import Namespace

from .machine import Machine


@pytest.fixture
def m(ns: Namespace) -> Machine:
    return Machine(ns)


@pytest.mark.parametrize("value", [93.10, 93, 5_000_000_000, -1e25])
def test_a_number_where_whole_ones_were_expected(m: Machine, value: float) -> None:
    """The type inferred at define is bigint; the value decides when it is none."""
    id = m.run(["select $x > 90 as hot"], {"x": value})
    assert m.output(id)["rows"] == [{"hot": value > 90}]


def test_null_in_a_string_is_refused_and_an_unknown_name_stays(m: Machine) -> None:
    id = m.run([{"op": "sql", "query": "select 'a $x $gone' as v"}], {"x": "'; drop table ledger; --"})
    assert m.output(id)["rows"] == [{"v": "a '; drop table ledger; -- $gone"}]
    id = m.run([{"op": "sql", "query": "select 'a $x' as v", "retry": 1}], {"x": None})
    assert m.status(id) == "failed"
    ((message,),) = m.ns.rows("select error ->> 'message' from @.instances where id = %s", id)
    assert "$x has no value" in message
