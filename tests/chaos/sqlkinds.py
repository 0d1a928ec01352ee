"""The kinds of transfer that are defined in SQL and run in the database. Their steps are functions of bank.sql."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .bank import ESCROW

__all__ = ["EFFECTS", "LOSERS", "PROGRAMS"]

NAP, RACE, LONG_NAP, PATIENCE = 0.05, 0.04, 1.1, 900.0

Node = dict[str, Any]

# Outlasts every fault, as `bank.RETRY`.
_RETRY = {"max_attempts": 20_000, "initial": 0.01, "multiplier": 2, "max_interval": 0.5, "jitter": 0.1}


def _call(function: str, name: str, into: str | None, **args: Any) -> Node:
    node = {"op": "call", "function": f"bank.{function}", "args": {"token": "$token", **args}, "retry": _RETRY}
    return {**node, "name": name} | ({"into": into} if into else {})


def _note(tag: str, into: str | None = None, nap: float = 0.0) -> Node:
    return _call("note", tag, into, tag=tag, nap=nap)


def _move(
    entry: str, into: str | None = None, *, source: Any = "$source", target: Any = "$target", cents: Any = "$cents",
    function: str = "move", name: str | None = None,
) -> Node:  # fmt: skip
    return _call(function, name or entry, into, entry=entry, source=source, target=target, cents=cents)


def _seq(*steps: Node) -> Node:
    return {"op": "seq", "steps": list(steps)}


def _sleep(seconds: float) -> Node:
    return {"op": "sleep", "seconds": seconds}


def _output(*noted: str, **more: Any) -> Node:
    return {"op": "value", "value": {"token": "$token", "noted": [f"${name}" for name in noted], **more}}


def _hear(timeout: float) -> Node:
    """Waits for a letter, and puts it behind those there are; nothing where the time is over."""
    return _seq(
        {"op": "wait_signal", "signal": "confirm", "timeout": timeout, "into": "letter"},
        {
            "op": "if", "when": {"op": "sql", "query": "select $letter.timed_out::boolean"},
            "then": _note("none yet"),
            "else": {
                "op": "sql", "into": "got", "name": "heard", "retry": _RETRY,
                "query": "select coalesce($got?::jsonb, '[]') || jsonb_build_array($letter.data::jsonb)",
            },
        },
    )  # fmt: skip


PROGRAMS: dict[str, Node] = {
    # Steps side by side, which several pumps run; one fails at random; a timer; timeouts that are never over.
    "sql_transfer": _seq(
        _note("first", "first"),
        {**_move("debit", "debit"), "timeout": 60},
        {
            "op": "parallel", "into": "sides",
            "branches": [
                _note("left", "left"), {**_note("right", "right", nap=0.01), "timeout": 60},
                _move("fee", "fee", cents=1, function="shaky_move"),
            ],
        },
        _sleep(NAP),
        _note("last", "last"),
        _output("first", "debit", "left", "right", "fee", "last"),
    ),
    # Money waits in escrow until numbered signals have come; one may come before or after a first short wait is over.
    "sql_confirmed": _seq(
        _move("hold", "hold", target=ESCROW),
        _hear(RACE),
        {
            "op": "loop",
            "body": _seq(
                {
                    "op": "if", "then": {"op": "break"},
                    "when": {
                        "op": "sql",
                        "query": "select coalesce(($got?::jsonb -> -1 ->> 0)::int, -1) + 1 >= $letters::int",
                    },
                },
                _hear(PATIENCE),
            ),
        },
        _move("release", "release", source=ESCROW),
        _output("hold", "release", got="$got"),
    ),
    # All or nothing: three steps and their checkpoints in one commit, of which the last fails at random.
    "sql_atomic": _seq(
        _note("first", "first"),
        {
            "op": "atomic", "retry": _RETRY,
            "steps": [
                _move("hold", "hold", target=ESCROW), _move("pay", "pay", source=ESCROW),
                _move("fee", "fee", cents=1, function="shaky_move"),
            ],
        },
        _note("last", "last"),
        _output("first", "hold", "pay", "fee", "last"),
    ),
    # The first of three to end; the others are stopped where they stand.
    "sql_raced": _seq(
        _note("first", "first"),
        {"op": "race", "branches": [_note("left", nap=RACE), _note("right", nap=RACE), _note("late", nap=10)]},
        _move("debit", "debit", function="shaky_move"),
        _output("first", "debit"),
    ),
    # An order in instalments, parked between them.
    "sql_standing": _seq(
        {
            "op": "for_each", "limit": 1,
            "query": "select 'instalment ' || n as entry from generate_series(0, $times::int - 1) n order by n",
            "body": _seq(_move("$item.entry", name="instalment"), _sleep(LONG_NAP)),
        },
        _note("last", "last"),
        _output("last"),
    ),
    # Fails for good, and pays back in reverse order.
    "sql_doomed": _seq(
        {
            "op": "compensate", "body": _move("debit", target=ESCROW),
            "undo": _move("refund", source=ESCROW, target="$source"),
        },
        {
            "op": "compensate", "body": _move("fee", target=ESCROW, cents=1, function="shaky_move"),
            "undo": _move("fee back", source=ESCROW, target="$source", cents=1),
        },
        {**_call("hopeless", "hopeless", None), "retry": {"max_attempts": 3, "initial": 0.005, "jitter": 0}},
    ),
}  # fmt: skip

EFFECTS: dict[str, Callable[[dict[str, Any]], list[tuple[str, int, int, int]]]] = {
    "sql_transfer": lambda a: [
        ("debit", a["source"], a["target"], a["cents"]), ("fee", a["source"], a["target"], 1),
    ],
    "sql_confirmed": lambda a: [
        ("hold", a["source"], ESCROW, a["cents"]), ("release", ESCROW, a["target"], a["cents"]),
    ],
    "sql_atomic": lambda a: [
        ("hold", a["source"], ESCROW, a["cents"]), ("pay", ESCROW, a["target"], a["cents"]),
        ("fee", a["source"], a["target"], 1),
    ],
    "sql_raced": lambda a: [("debit", a["source"], a["target"], a["cents"])],
    "sql_standing": lambda a: [
        (f"instalment {number}", a["source"], a["target"], a["cents"]) for number in range(a["times"])
    ],
    "sql_doomed": lambda a: [
        ("debit", a["source"], ESCROW, a["cents"]), ("refund", ESCROW, a["source"], a["cents"]),
        ("fee", a["source"], ESCROW, 1), ("fee back", ESCROW, a["source"], 1),
    ],
}  # fmt: skip
"""What each must have done, from its arguments: (entry, source, target, cents)."""

LOSERS = frozenset({"left", "right", "late"})
"""Steps of `sql_raced` that may have run without anybody's waiting for their result any more."""
