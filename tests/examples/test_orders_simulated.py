"""The orders example without a database: what each order comes to, after days of its own, and through every crash."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import pgdurable as pgd
from pgdurable.testing import Simulation, crash_everywhere

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `examples` is no part of the installed package
from examples.orders import workflows as shop


class Books:
    """What stands in for the shop's tables: each order's money and goods, once each."""

    def __init__(self, sim: Simulation, *, money: bool = True, goods: bool = True) -> None:
        self.spent: dict[str, int] = {}
        self.taken: dict[str, int] = {}

        async def debit(order_id: str, account: int, cents: int) -> None:
            if not money:
                raise shop.Unpaid("not enough money")
            self.spent[order_id] = cents

        async def refund(order_id: str, account: int, cents: int) -> None:
            self.spent[order_id] = 0

        async def take_stock(order_id: str, sku: str, n: int) -> None:
            if not goods:
                raise shop.Refused("out of stock")
            self.taken[order_id] = n

        async def put_back(order_id: str, sku: str, n: int) -> None:
            self.taken[order_id] = 0

        async def pack(order_id: str, parcel: str, address: str) -> str:
            return f"{parcel} to {address}"

        async def follow(order_id: str) -> int:
            for place in ("left", "there"):
                pgd.stream("tracking").write(place)
            return 2

        for effect in (debit, refund, take_stock, put_back, pack, follow):
            sim.mock(getattr(shop, effect.__name__), side_effect=effect)
        sim.mock(shop.capture, returns="receipt")
        sim.mock(shop.book_parcel, returns="parcel")
        for step in (shop.give_back, shop.cancel_parcel, shop.thank):
            sim.mock(step, returns=None)


SMALL: tuple[Any, ...] = ("o-1", 7, "sku-01", 2, 2540, "1 Mill Lane")
BIG: tuple[Any, ...] = ("o-2", 7, "sku-01", 40, shop.BIG_CENTS, "2 Mill Lane")


async def test_a_small_order_is_shipped(simulation: Simulation) -> None:
    books = Books(simulation)
    handle = await simulation.start(shop.order, *SMALL)
    result = await handle.result()
    assert (result["end"], result["receipt"], result["parcel"]) == ("shipped", "receipt", "parcel")
    assert (books.spent, books.taken) == ({"o-1": 2540}, {"o-1": 2})
    assert result["label"] == "parcel to 1 Mill Lane"
    assert result["at"] == simulation.now.isoformat()
    assert await handle.state("stage") == "delivered"
    assert [place async for place in handle.stream("tracking")] == ["left", "there"]


@pytest.mark.parametrize(
    ("answer", "end", "why"),
    [
        ({"ok": True, "by": "ann"}, "shipped", None),
        ({"ok": False, "by": "ann"}, "refunded", "denied by ann"),
        (None, "refunded", "no approval in time"),
    ],
)
async def test_a_big_order_waits_for_a_person(simulation: Simulation, answer: Any, end: str, why: str | None) -> None:
    books = Books(simulation)
    handle = await simulation.start(shop.order, *BIG)
    await simulation.advance(shop.APPROVAL_S - 1)
    assert simulation.calls(shop.take_stock) == []
    if answer is not None:
        await handle.signal("approval", answer)
    result = await handle.result()
    assert (result["end"], result.get("why")) == (end, why)
    assert books.spent == {"o-2": shop.BIG_CENTS if end == "shipped" else 0}


async def test_what_cannot_be_paid_or_delivered_is_declined_or_refunded(simulation: Simulation) -> None:
    Books(simulation, money=False)
    assert (await (await simulation.start(shop.order, *SMALL)).result())["end"] == "declined"
    books = Books(simulation, goods=False)
    result = await (await simulation.start(shop.order, *SMALL)).result()
    assert (result["end"], result["why"], books.spent) == ("refunded", "out of stock", {"o-1": 0})


async def test_an_order_is_redirected_until_it_is_packed(simulation: Simulation) -> None:
    Books(simulation)
    handle = await simulation.start(shop.order, *BIG)
    await simulation.advance(1)
    assert await handle.update(shop.redirect, "3 Quay Street") == "goes to 3 Quay Street"
    await handle.signal("approval", {"ok": True, "by": "ann"})
    await simulation.advance(1)
    assert await handle.state("stage") == "on its way"
    with pytest.raises(pgd.UpdateRejected, match="packed already"):
        await handle.update(shop.redirect, "4 Quay Street")
    assert (await handle.result())["label"] == "parcel to 3 Quay Street"


@pytest.mark.parametrize("at", ["approval", "on its way"])
async def test_one_that_is_cancelled_is_undone(simulation: Simulation, at: str) -> None:
    books = Books(simulation)
    handle = await simulation.start(shop.order, *BIG)
    if at == "on its way":
        await handle.signal("approval", {"ok": True, "by": "ann"})
    await simulation.advance(1)
    await handle.cancel("changed her mind")
    with pytest.raises(pgd.InstanceFailed, match="cancelled"):
        await handle.result()
    assert books.spent == {"o-2": 0}
    assert books.taken == ({"o-2": 0} if at == "on its way" else {})
    cancelled = [call.args for call in simulation.calls(shop.cancel_parcel)]
    assert cancelled == ([("parcel",)] if at == "on its way" else [])


async def test_a_blocked_card_undoes_what_went_well_beside_it(simulation: Simulation) -> None:
    books = Books(simulation)
    simulation.mock(shop.capture, raises=shop.doubles.CardBlocked("the card is blocked"))
    simulation.mock(shop.book_parcel, returns="parcel", takes=5)
    result = await (await simulation.start(shop.order, *SMALL)).result()
    assert (result["end"], result["why"]) == ("refunded", "the card is blocked")
    assert (books.spent, books.taken) == ({"o-1": 0}, {"o-1": 0})
    assert len(simulation.calls(shop.cancel_parcel)) == 1


async def test_a_payment_provider_that_hangs_and_fails_is_outwaited(simulation: Simulation) -> None:
    Books(simulation)

    async def capture(order_id: str, cents: int) -> str:
        attempt = len(simulation.calls(shop.capture))
        if attempt == 1:
            await simulation.sleep(3600)  # the step's timeout ends it
        if attempt == 2:
            raise pgd.RetryAfter(30)
        return f"receipt {attempt}"

    simulation.mock(shop.capture, side_effect=capture)
    simulation.fail(shop.book_parcel, times=5)
    began = simulation.now
    result = await (await simulation.start(shop.order, *SMALL)).result()
    assert (result["end"], result["receipt"]) == ("shipped", "receipt 3")
    assert len(simulation.calls(shop.book_parcel)) == 6
    # Two seconds of timeout and a short backoff, thirty seconds that the provider asked for, the parcel's way.
    assert 34 <= (simulation.now - began).total_seconds() < 35


async def test_every_order_comes_to_its_end_through_every_crash() -> None:
    async def scenario(sim: Simulation) -> None:
        books = Books(sim)
        small = await sim.start(shop.order, *SMALL, id="order/o-1")
        big = await sim.start(shop.order, *BIG, id="order/o-2")
        late = await sim.start(shop.order, "o-3", *BIG[1:], id="order/o-3")
        await big.signal("approval", {"ok": True, "by": "ann"})
        ends = [(await handle.result())["end"] for handle in (small, big, late)]
        assert ends == ["shipped", "shipped", "refunded"]
        assert books.spent == {"o-1": 2540, "o-2": shop.BIG_CENTS, "o-3": 0}
        assert books.taken == {"o-1": 2, "o-2": 40}
        assert [place async for place in small.stream("tracking")] == ["left", "there"]

    assert await crash_everywhere(scenario) > 30
