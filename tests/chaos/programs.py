"""Whether the history of a workflow in SQL is a run of its definition.

There is no code to replay: the definition says which nodes may follow each other, and history has the number of the
node in each row. So each history is read along the definition, as a sentence along a grammar.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from crash.replay import Row

__all__ = ["Node", "Wrong", "follow", "numbered", "value_of"]

Node = dict[str, Any]
DONE, CUT, BREAK = "done", "cut short", "break"


class Wrong(Exception):
    """Where a history leaves its definition."""


def value_of(row: Row) -> Any:
    """A statement's result as `$name` gives it: the first column of the first row; another node's as it is."""
    payload = json.loads(row.payload or "null")
    if isinstance(payload, dict) and "rows" in payload and "columns" in payload:
        return next(iter(payload["rows"][0].values()), None) if payload["rows"] else None
    return payload


def follow(definition: Node, history: Sequence[Row], status: str) -> None:
    """Raises Wrong where the history of an ended instance is no run of the definition."""
    _Reader().whole(definition, [row for row in history if row.fingerprint is not None], status)


def _children(node: Node) -> list[Node]:
    parts = {
        "seq": node.get("steps"), "atomic": node.get("steps"), "parallel": node.get("branches"),
        "race": node.get("branches"), "if": [node.get("when"), node.get("then"), node.get("else")],
        "loop": [node.get("body"), node.get("while")], "for_each": [node.get("body")],
        "on_error": [node.get("body"), node.get("handler")], "compensate": [node.get("body"), node.get("undo")],
    }  # fmt: skip
    return [child for child in parts.get(node["op"]) or [] if child is not None]


def _size(node: Node) -> int:
    return 1 + sum(map(_size, _children(node)))


def numbered(node: Node, n: int) -> list[tuple[Node, int]]:
    """The children, each with its number."""
    found = []
    n += 1
    for child in _children(node):
        found.append((child, n))
        n += _size(child)
    return found


def _undos(node: Node, n: int) -> dict[int, tuple[Node, int]]:
    """The undo of every compensate, by the latter's number."""
    found = {n: numbered(node, n)[1]} if node["op"] == "compensate" else {}
    for child in numbered(node, n):
        found |= _undos(*child)
    return found


def _within(rows: Sequence[Row], node: Node, n: int) -> list[Row]:
    return [row for row in rows if n <= (row.fingerprint or 0) < n + _size(node)]


def _rounds(rows: Sequence[Row]) -> list[list[Row]]:
    """What a body does again and again: a round is over where a command comes that does not stand behind the last."""
    rounds: list[list[Row]] = []
    for row in rows:
        last = rounds[-1][-1] if rounds else None
        if last is None or (row.seq != last.seq and (row.fingerprint or 0) <= (last.fingerprint or 0)):
            rounds.append([])
        rounds[-1].append(row)
    return rounds


class _Reader:
    """`read` gives what a node has come to by its rows, and raises where they are not those of a run of it."""

    def __init__(self) -> None:
        self.done: list[int] = []  # compensates whose body is done, in order

    def whole(self, definition: Node, rows: list[Row], status: str) -> None:
        undos = _undos(definition, 0)
        undone = [row for undo in undos.values() for row in _within(rows, *undo)]
        main = [row for row in rows if row not in undone]
        came_to = self.read(definition, 0, main)
        if (came_to == DONE) != (status == "completed"):
            raise Wrong(f"it is {status}, its definition is {came_to}")
        wanted = list(reversed(self.done)) if status != "completed" else []
        order = [number for row in rows[len(main) :] for number, undo in undos.items() if _within([row], *undo)]
        if [number for number, _ in groupby(order)] != wanted or len(order) != len(undone):
            raise Wrong(f"{self.done} were done, {order} undone, by number of the node")
        for number in wanted:
            if self.read(*undos[number], _within(rows, *undos[number])) != DONE:
                raise Wrong(f"the undo of node {number} is not done")

    def read(self, node: Node, n: int, rows: Sequence[Row]) -> str:
        op = node["op"]
        if op in ("value", "break"):
            if rows:
                raise Wrong(f"node {n} ({op}) has rows: {rows}")
            return BREAK if op == "break" else DONE
        if not _children(node):
            return self.command(node, n, rows)
        known = {number for child, number in numbered(node, n) for number in range(number, number + _size(child))}
        own = [row for row in rows if row.fingerprint not in known]
        if own and op not in ("for_each", "atomic"):
            raise Wrong(f"node {n} ({op}) has rows: {own}")
        return getattr(self, f"_{op}", self._seq)(node, n, rows)  # type: ignore[no-any-return]

    def command(self, node: Node, n: int, rows: Sequence[Row]) -> str:
        """Attempts, and then an answer."""
        if len({row.seq for row in rows}) > 1 or any(row.kind != "attempt" for row in rows[:-1]):
            raise Wrong(f"node {n} is answered more than once: {rows}")
        if "name" in node and any(row.name != node["name"] for row in rows):
            raise Wrong(f"node {n} is {node['name']}, found {rows}")
        return DONE if rows and rows[-1].kind != "attempt" and rows[-1].error is None else CUT

    def _seq(self, node: Node, n: int, rows: Sequence[Row]) -> str:
        return self.one_by_one(numbered(node, n), n, rows)

    def one_by_one(self, parts: list[tuple[Node, int]], n: int, rows: Sequence[Row]) -> str:
        came_to, rest = DONE, list(rows)
        for part in parts:
            mine = _within(rows, *part)
            if mine != rest[: len(mine)] or (mine and came_to != DONE):
                raise Wrong(f"node {part[1]} runs before its time, or though what is before it is {came_to}: {mine}")
            if came_to == DONE:
                came_to = self.read(*part, mine)
            rest = rest[len(mine) :]
        if rest:
            raise Wrong(f"in node {n}: {rest}")
        return came_to

    def _atomic(self, node: Node, n: int, rows: Sequence[Row]) -> str:
        """Attempts of all of it together, and then all of its steps."""
        own = [row for row in rows if row.fingerprint == n]
        if own != list(rows[: len(own)]):
            raise Wrong(f"node {n} is tried again though it is done: {rows}")
        if len(own) == len(rows):
            return self.command(node, n, own)
        if any(row.kind != "attempt" for row in own):
            raise Wrong(f"node {n} has failed, and goes on: {rows}")
        return self.one_by_one(numbered(node, n), n, rows[len(own) :])

    def _if(self, node: Node, n: int, rows: Sequence[Row]) -> str:
        (when, number), *ways = numbered(node, n)
        asked = _within(rows, when, number)
        if self.read(when, number, asked) != DONE:
            return self.one_by_one([(when, number)], n, rows)
        way = ways[:1] if value_of(asked[-1]) not in (None, False, 0, "") else ways[1:]
        return self.one_by_one([(when, number), *way], n, rows)

    def _loop(self, node: Node, n: int, rows: Sequence[Row]) -> str:
        parts = numbered(node, n)
        came_to = DONE
        for one in _rounds(rows):
            if came_to != DONE:
                raise Wrong(f"node {n} goes on though it is {came_to}: {one}")
            came_to = self.one_by_one(parts, n, one)
            if came_to == DONE and len(parts) > 1 and value_of(one[-1]) in (None, False, 0, ""):
                came_to = BREAK
        return DONE if came_to == BREAK else CUT

    def _for_each(self, node: Node, n: int, rows: Sequence[Row]) -> str:
        """One after the other, as with the limit 1."""
        asked = [row for row in rows if row.fingerprint == n]
        if self.command({**node, "op": "sql"}, n, asked) != DONE:
            return self.one_by_one([], n, rows[len(asked) :])
        rounds = _rounds([row for row in rows if row.fingerprint != n])
        came_to = [self.one_by_one(numbered(node, n), n, one) for one in rounds]
        items = len(json.loads(asked[-1].payload or "{}")["rows"])
        if len(rounds) > items or CUT in came_to[:-1]:
            raise Wrong(f"node {n} has {items} items, {len(rounds)} rounds: {came_to}")
        return DONE if len(rounds) == items and CUT not in came_to else CUT

    def _parallel(self, node: Node, n: int, rows: Sequence[Row]) -> str:
        came_to = [self.read(*part, _within(rows, *part)) for part in numbered(node, n)]
        return DONE if set(came_to) == {DONE} else CUT

    def _race(self, node: Node, n: int, rows: Sequence[Row]) -> str:
        parts = numbered(node, n)
        came_to = [self.read(*part, _within(rows, *part)) for part in parts]
        winners = [part for part, what in zip(parts, came_to, strict=True) if what == DONE]
        if len(winners) > 1 or (winners and not _within(rows[-1:], *winners[0])):
            raise Wrong(f"in node {n} these ended: {[number for _, number in winners]}, the last row is {rows[-1]}")
        return DONE if winners else CUT

    def _on_error(self, node: Node, n: int, rows: Sequence[Row]) -> str:
        body, handler = numbered(node, n)
        mine = _within(rows, *body)
        if (came_to := self.read(*body, mine)) != CUT:
            return self.one_by_one([body], n, rows) and came_to
        return self.read(*handler, list(rows)[len(mine) :])

    def _compensate(self, node: Node, n: int, rows: Sequence[Row]) -> str:
        came_to = self.read(*numbered(node, n)[0], rows)
        if came_to == DONE:
            self.done.append(n)
        return came_to
