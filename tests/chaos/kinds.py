"""The kinds of transfer: the bank's workflows, what each must leave behind, and how customers order it.

A kind is an entry of `KINDS`. Customers, workers and the checker know kinds only through it, so another kind of work
joins by being entered. Every order has a `token` of its own, by which its effects and steps are told apart.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pgdurable as pgd
from pgdurable.workflow import Workflow

from . import sqlkinds
from .bank import (
    ACCOUNTS,
    ESCROW,
    TAPE,
    hopeless,
    jot,
    move,
    move_blocking,
    move_serializable,
    note,
    post,
    print_out,
    saw,
    shaky,
    shaky_move,
    stamp,
    weigh,
)

__all__ = [
    "GENERATIONS", "KINDS", "NO_DEPOSIT", "SLIPS", "TAPE", "Effect", "Kind", "definition", "printed_lines",
    "workflows_of",
]  # fmt: skip

NAP, RACE, LONG_NAP, PATIENCE = 0.05, 0.04, 1.1, 900.0
GENERATIONS = 12
"""How many versions of `revised` there are: one per deploy."""


@dataclass(frozen=True, order=True)
class Effect:
    """A row of the ledger."""

    token: str
    entry: str
    source: int
    target: int
    cents: int


@dataclass(frozen=True)
class Kind:
    """See the head of this file.

    Attributes:
        definitions: its versions, oldest first; a worker of generation n has the first n, and calls the last current.
        order: draws the arguments after the token.
        effects: what it must have done, from arguments, status and output.
        delays: every delay its timers may have, in seconds.
        ends: the status it must end with.
        letters: how many numbered signals named `confirm` it wants, from its arguments.
        asks: how many numbered updates named `deposit` it wants, from its arguments; then somebody reads its `TAPE`.
        weight: how often it is ordered, beside the others.
        program: of a workflow in SQL: its definition. It has no `definitions`, and its input is an object.
    """

    name: str
    definitions: tuple[Workflow[Any, Any], ...]
    order: Callable[[random.Random], dict[str, Any]]
    effects: Callable[[dict[str, Any], Any], Iterable[Effect]]
    delays: frozenset[float]
    ends: str = "completed"
    letters: Callable[[dict[str, Any]], int] = lambda args: 0
    asks: Callable[[dict[str, Any]], int] = lambda args: 0
    weight: int = 2
    program: dict[str, Any] | None = None


def _pair(chance: random.Random) -> dict[str, Any]:
    source, target = chance.sample(range(1, ACCOUNTS + 1), 2)
    return {"source": source, "target": target, "cents": chance.randint(2, 500)}


def _nap() -> float:
    """About as long as the timer it races with."""
    return round(pgd.random() * 2 * RACE, 3)


async def seen(token: str, step: Any) -> dict[str, Any]:
    """Awaits a step's result and notes that it has come."""
    result: dict[str, Any] = await step
    saw(token, result["tag"])
    return result


# -- transfer: parallel steps, retried steps, a timer ---------------------------------------------------------------


@pgd.workflow
async def transfer(token: str, source: int, target: int, cents: int) -> dict[str, Any]:
    began = pgd.now()
    first = await seen(token, note(token, "first"))
    debit = await seen(token, move(token, "debit", source, target, cents))
    left, right, fee = await asyncio.gather(
        seen(token, note(token, "left")),
        seen(token, shaky(token, "right")),
        seen(token, shaky_move(token, "fee", source, target, 1)),
    )
    await asyncio.sleep(NAP)
    # Time and chance among the arguments: a replay that tells them otherwise is seen by the fingerprint.
    last = await seen(token, note(token, f"last {pgd.now().isoformat()} {pgd.random()}"))
    return {
        "token": token, "began": began.isoformat(), "id": str(pgd.uuid4()),
        "noted": [first, debit, left, right, fee, last],
    }  # fmt: skip


def _transfer_effects(args: dict[str, Any], output: Any) -> list[Effect]:
    token, source, target = args["token"], args["source"], args["target"]
    return [Effect(token, "debit", source, target, args["cents"]), Effect(token, "fee", source, target, 1)]


# -- confirmed: money waits in escrow until numbered signals have come ----------------------------------------------


@pgd.workflow
async def confirmed(token: str, source: int, target: int, cents: int, letters: int) -> dict[str, Any]:
    got: list[Any] = []
    noted = [await seen(token, move(token, "hold", source, ESCROW, cents))]
    wanted = 0
    try:
        # A letter may come before or after this wait is over: it must go to one of the two waits, once.
        got.append(await pgd.wait_signal("confirm", timeout=RACE))
    except TimeoutError:
        noted.append(await seen(token, note(token, "none yet")))
    while True:
        # A letter whose sender was not told its fate comes twice: [its number, which call].
        if got and got[-1][0] == wanted:
            noted.append(await seen(token, note(token, f"letter {wanted}")))
            wanted += 1
        if wanted == letters:
            break
        got.append(await pgd.wait_signal("confirm", timeout=PATIENCE))
    noted.append(await seen(token, move(token, "release", ESCROW, target, cents)))
    return {"token": token, "got": got, "noted": noted}


def _confirmed_effects(args: dict[str, Any], output: Any) -> list[Effect]:
    token, cents = args["token"], args["cents"]
    return [
        Effect(token, "hold", args["source"], ESCROW, cents),
        Effect(token, "release", ESCROW, args["target"], cents),
    ]


# -- raced: steps and transactions against a timeout ----------------------------------------------------------------


@pgd.workflow
async def raced(token: str, source: int, target: int, cents: int) -> dict[str, Any]:
    noted, won = [], []
    for entry in ("tip", "bonus"):
        try:
            noted.append(await asyncio.wait_for(seen(token, move(token, entry, source, target, cents, _nap())), RACE))
            won.append(entry)
        except asyncio.TimeoutError:
            noted.append(await seen(token, note(token, f"no {entry}")))
    try:
        noted.append(await asyncio.wait_for(seen(token, note(token, "race", _nap())), RACE))
    except asyncio.TimeoutError:
        pass
    noted.append(await seen(token, move(token, "back", target, source, 1)))
    return {"token": token, "won": won, "noted": noted}


def _raced_effects(args: dict[str, Any], output: Any) -> list[Effect]:
    token, source, target = args["token"], args["source"], args["target"]
    won = [Effect(token, entry, source, target, args["cents"]) for entry in output["won"]]
    return [*won, Effect(token, "back", target, source, 1)]


# -- clerk: the same in blocking code -------------------------------------------------------------------------------


@pgd.workflow
def clerk(token: str, source: int, target: int, cents: int, letters: int) -> dict[str, Any]:
    noted = [jot(token, "first")]
    saw(token, "first")
    noted.append(move_blocking(token, "debit", source, target, cents))
    saw(token, "debit")
    pgd.sleep(NAP)
    got = []
    wanted = 0
    while wanted < letters:
        got.append(pgd.wait_signal("confirm", timeout=PATIENCE))
        wanted += got[-1][0] == wanted
    noted.append(note(token, "last"))  # type: ignore[arg-type]
    saw(token, "last")
    return {"token": token, "got": got, "noted": noted}


def _clerk_effects(args: dict[str, Any], output: Any) -> list[Effect]:
    return [Effect(args["token"], "debit", args["source"], args["target"], args["cents"])]


# -- standing: an order in instalments, parked between them ---------------------------------------------------------


@pgd.workflow
async def standing(token: str, source: int, target: int, cents: int, times: int) -> dict[str, Any]:
    noted = []
    for number in range(times):
        noted.append(await seen(token, move(token, f"instalment {number}", source, target, cents)))
        await asyncio.sleep(LONG_NAP)
    return {"token": token, "noted": noted}


def _standing_effects(args: dict[str, Any], output: Any) -> list[Effect]:
    return [
        Effect(args["token"], f"instalment {number}", args["source"], args["target"], args["cents"])
        for number in range(args["times"])
    ]


# -- doomed: fails for good, and pays back --------------------------------------------------------------------------


@pgd.workflow
async def doomed(token: str, source: int, target: int, cents: int) -> None:
    await seen(token, move(token, "debit", source, ESCROW, cents))
    try:
        await hopeless(token, "hopeless")
    except LookupError as error:
        await seen(token, move(token, "refund", ESCROW, source, cents))
        raise ValueError(f"{token} gave up: {error}") from None


def _doomed_effects(args: dict[str, Any], output: Any) -> list[Effect]:
    token, source, cents = args["token"], args["source"], args["cents"]
    return [Effect(token, "debit", source, ESCROW, cents), Effect(token, "refund", ESCROW, source, cents)]


# -- posted: steps that ask for more than to be tried again ---------------------------------------------------------

POSTED = "posted"
"""The tag of the step that may begin at most once."""


@pgd.workflow
async def posted(token: str, source: int, target: int, cents: int) -> dict[str, Any]:
    stamped = await seen(token, stamp(token, "stamped"))
    if not stamped["same"]:
        raise AssertionError(f"{token}: the heartbeat of another step was found: {stamped}")
    noted = [
        stamped,
        await seen(token, weigh(token, "weighed")),
        await seen(token, move_serializable(token, "postage", source, target, cents)),
    ]
    try:
        noted.append(await seen(token, post(token, POSTED)))
    except pgd.StepInterrupted:
        noted.append(await seen(token, note(token, "asks whether it arrived")))
    return {"token": token, "noted": noted}


def _posted_effects(args: dict[str, Any], output: Any) -> list[Effect]:
    return [Effect(args["token"], "postage", args["source"], args["target"], args["cents"])]


# -- family: children do the work, called and started --------------------------------------------------------------


@pgd.workflow
async def family(token: str, source: int, target: int, cents: int) -> dict[str, Any]:
    noted = [await seen(token, note(token, "first"))]
    slow = await pgd.start_child(standing, f"{token}/slow", source, target, cents, 1)
    one, two = await asyncio.gather(
        transfer(f"{token}/one", source, target, cents), transfer(f"{token}/two", target, source, cents)
    )
    try:
        await doomed(f"{token}/doomed", source, target, cents)
    except pgd.InstanceFailed as error:
        noted.append(await seen(token, note(token, f"child {error.status}")))
    last = await slow.result()
    return {"token": token, "children": [one["token"], two["token"], last["token"]], "noted": noted}


# -- trip: a saga that fails at its end, and undoes what it did -----------------------------------------------------


async def _seen_move(token: str, entry: str, source: int, target: int, cents: int) -> dict[str, Any]:
    return await seen(token, move(token, entry, source, target, cents))


@pgd.workflow
async def trip(token: str, source: int, target: int, cents: int) -> None:
    try:
        async with pgd.saga() as s:
            for part in ("seats", "rooms"):
                await s.do(
                    _seen_move, token, part, source, ESCROW, cents,
                    undo=lambda _, part=part: _seen_move(token, f"back {part}", ESCROW, source, cents),
                )  # fmt: skip
            await asyncio.sleep(NAP)
            await hopeless(token, "hopeless")
    except LookupError as error:
        raise ValueError(f"{token} gave up: {error}") from None


def _trip_effects(args: dict[str, Any], output: Any) -> list[Effect]:
    token, source, cents = args["token"], args["source"], args["cents"]
    there = [Effect(token, part, source, ESCROW, cents) for part in ("seats", "rooms")]
    return there + [Effect(token, f"back {part}", ESCROW, source, cents) for part in ("seats", "rooms")]


# -- teller: deposits asked for by updates, published state, streams -------------------------------------------------

SLIPS = "slips"
NO_DEPOSIT = 99
"""A number that no teller takes: its validator rejects it."""


@pgd.workflow
async def teller(token: str, source: int, target: int, cents: int, deposits: int) -> dict[str, Any]:
    noted: list[Any] = []
    order: list[int] = []

    @pgd.on_update
    async def deposit(number: int) -> dict[str, Any]:
        made = await seen(token, move(token, f"deposit {number}", source, target, cents))
        noted.append(made)
        order.append(number)
        pgd.set_state("deposits", len(order))
        pgd.stream(SLIPS).write(number)
        return made

    @deposit.validator
    def known(number: int) -> None:
        if number >= deposits:
            raise ValueError(f"there are {deposits} deposits to be made")

    await pgd.wait_until(lambda: len(order) == deposits, timeout=PATIENCE)
    noted.append(await seen(token, print_out(token, "printed", printed_lines(deposits))))
    return {"token": token, "order": order, "noted": noted}


def printed_lines(deposits: int) -> int:
    """Of a teller's tape."""
    return deposits + 3


def _teller_effects(args: dict[str, Any], output: Any) -> list[Effect]:
    return [
        Effect(args["token"], f"deposit {number}", args["source"], args["target"], args["cents"])
        for number in range(args["deposits"])
    ]


# -- rounds: an instance that continues as new after each letter -----------------------------------------------------


@pgd.workflow
async def rounds(
    token: str, source: int, target: int, cents: int, letters: int, wanted: int, got: list[Any], noted: list[Any]
) -> dict[str, Any]:
    noted = [*noted, await seen(token, move(token, f"round {wanted}", source, target, cents))]
    while not got or got[-1][0] != wanted:
        got = [*got, await pgd.wait_signal("confirm", timeout=PATIENCE)]
    if wanted + 1 < letters:
        pgd.continue_as_new(token, source, target, cents, letters, wanted + 1, got, noted)
    return {"token": token, "got": got, "noted": noted}


def _rounds_effects(args: dict[str, Any], output: Any) -> list[Effect]:
    return [
        Effect(args["token"], f"round {number}", args["source"], args["target"], args["cents"])
        for number in range(args["letters"])
    ]


# -- revised: another version with every deploy ---------------------------------------------------------------------


def _revised(version: int) -> Workflow[Any, Any]:
    @pgd.workflow(name="revised", version=str(version))
    async def revised(token: str, source: int, target: int, cents: int) -> dict[str, Any]:
        noted = [await seen(token, note(token, f"version {version}"))]
        await asyncio.sleep(LONG_NAP)
        for number in range(version % 3):
            noted.append(await seen(token, note(token, f"check {number}")))
        noted.append(await seen(token, move(token, f"debit {version}", source, target, cents)))
        await asyncio.sleep(LONG_NAP)
        noted.append(await seen(token, note(token, "last")))
        return {"token": token, "version": version, "noted": noted}

    return revised


def _revised_effects(args: dict[str, Any], output: Any) -> list[Effect]:
    return [Effect(args["token"], f"debit {output['version']}", args["source"], args["target"], args["cents"])]


# -- in SQL: see sqlkinds.py -----------------------------------------------------------------------------------------


def _in_sql(name: str, order: Callable[[random.Random], dict[str, Any]] = _pair, **more: Any) -> Kind:
    def effects(args: dict[str, Any], output: Any) -> list[Effect]:
        return [Effect(args["token"], *effect) for effect in sqlkinds.EFFECTS[name](args)]

    return Kind(name, (), order, effects, frozenset(), program=sqlkinds.PROGRAMS[name], **more)


KINDS = {
    kind.name: kind
    for kind in (
        _in_sql("sql_transfer", weight=3),
        _in_sql(
            "sql_confirmed", lambda chance: {**_pair(chance), "letters": chance.randint(1, 4)},
            letters=lambda args: int(args["letters"]), weight=3,
        ),
        _in_sql("sql_atomic"),
        _in_sql("sql_raced"),
        _in_sql("sql_standing", lambda chance: {**_pair(chance), "times": chance.randint(1, 3)}),
        _in_sql("sql_doomed", ends="failed", weight=1),
        Kind("transfer", (transfer,), _pair, _transfer_effects, frozenset({NAP}), weight=4),
        Kind(
            "confirmed", (confirmed,), lambda chance: {**_pair(chance), "letters": chance.randint(1, 4)},
            _confirmed_effects, frozenset({RACE, PATIENCE}), letters=lambda args: int(args["letters"]), weight=3,
        ),
        Kind("raced", (raced,), _pair, _raced_effects, frozenset({RACE})),
        Kind(
            "clerk", (clerk,), lambda chance: {**_pair(chance), "letters": chance.randint(0, 1)},
            _clerk_effects, frozenset({NAP, PATIENCE}), letters=lambda args: int(args["letters"]),
        ),
        Kind(
            "standing", (standing,), lambda chance: {**_pair(chance), "times": chance.randint(1, 3)},
            _standing_effects, frozenset({LONG_NAP}),
        ),
        Kind(
            "teller", (teller,), lambda chance: {**_pair(chance), "deposits": chance.randint(1, 4)},
            _teller_effects, frozenset({PATIENCE}), asks=lambda args: int(args["deposits"]), weight=3,
        ),
        Kind(
            "rounds", (rounds,),
            lambda chance: {**_pair(chance), "letters": chance.randint(2, 4), "wanted": 0, "got": [], "noted": []},
            _rounds_effects, frozenset({PATIENCE}), letters=lambda args: int(args["letters"]),
        ),
        Kind("posted", (posted,), _pair, _posted_effects, frozenset()),
        Kind("doomed", (doomed,), _pair, _doomed_effects, frozenset(), ends="failed", weight=1),
        Kind("family", (family,), _pair, lambda args, output: [], frozenset(), weight=1),
        Kind("trip", (trip,), _pair, _trip_effects, frozenset({NAP}), ends="failed", weight=1),
        Kind(
            "revised", tuple(_revised(n) for n in range(1, GENERATIONS + 1)), _pair, _revised_effects,
            frozenset({LONG_NAP}),
        ),
    )
}  # fmt: skip


@pgd.workflow
async def patrol(scheduled_at: str) -> str:
    """What the bank's schedule starts, once a second. No customer orders it, and no kind is it."""
    return scheduled_at


def workflows_of(generation: int) -> list[Workflow[Any, Any]]:
    """What a worker of this generation of the code has; of each name the last is current."""
    return [patrol, *(definition for kind in KINDS.values() for definition in kind.definitions[:generation])]


def definition(kind: str, version: str | None) -> Workflow[Any, Any]:
    return next(one for one in KINDS[kind].definitions if version is None or one.version == version)


def draw(chance: random.Random, kinds: Iterable[str]) -> tuple[Kind, dict[str, Any]]:
    """An order: its kind and arguments, the same for the same state of `chance`."""
    among = [KINDS[name] for name in kinds]
    kind = chance.choices(among, [one.weight for one in among])[0]
    return kind, kind.order(chance)


def expected(kind: Kind, args: dict[str, Any], status: str, output: Any) -> Counter[Effect]:
    """The ledger rows an ended instance must have; none that can be known where it ended otherwise than it should."""
    return Counter(kind.effects(args, output)) if status == kind.ends else Counter()
