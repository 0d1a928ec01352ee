"""Customers: order transfers, send their confirmations, ask for results; and log every call with its outcome.

A call is noted before it is made and again when its outcome is known: `ok`; `refused`, which the server said, so that
it has had no effect; or `unknown`. A call without a second line is unknown too: its process was killed.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pgdurable as pgd
from pgdurable.errors import ConnectionFailed, InstanceFailed, InstanceFinished, InstancePaused

from . import kinds
from .history import History

__all__ = ["Customer"]


class Customer:
    """Holds one conversation after the other with the bank. What it wants follows from the seed and its name alone.

    Args:
        api: an Engine, which starts what it then runs, or a Client.
        generation: of the code it has; None: it has none, orders by name, and the worker's code decides the version.
        letters: whether it orders what needs to be talked to.
        first: the kind it orders first; so even a short run has some of everything.
    """

    def __init__(
        self,
        api: pgd.Client,
        history: History,
        *,
        name: str,
        seed: int,
        generation: int | None,
        letters: bool = True,
        first: str | None = None,
    ) -> None:
        self._api = api
        self._history = history
        self._name = name
        self._chance = random.Random(f"{seed} {name}")
        self._generation = generation
        self._first = first
        self._kinds = [
            kind.name for kind in kinds.KINDS.values()
            if letters or (kind.letters({"letters": 1}) == 0 and kind.asks({"deposits": 1}) == 0)
        ]  # fmt: skip
        self._calls = itertools.count(1)

    async def run(self, closing: asyncio.Event) -> None:
        """Until the bank closes; then it ends the conversation it is in."""
        while not closing.is_set():
            # Drawn one after the other, whatever happens between: the wishes are the same in every run of a seed.
            kind, args = kinds.draw(self._chance, self._kinds if self._first is None else [self._first])
            self._first = None
            # Signals need an instance that can be found again, whether or not its start was acknowledged.
            keyed = self._chance.random() < 0.7 or kind.letters(args) > 0 or kind.asks(args) > 0
            pauses = [self._chance.choice([0.0, 0.0, 0.02, 0.1, 0.5]) for _ in range(8)]
            order = next(self._calls)
            # Some stand in line at the counter, each branch of the bank in its own.
            queued = self._chance.random() < 0.3
            place = {"queue": "counter", "partition": f"branch {self._chance.randrange(4)}"} if queued else {}
            await self._converse(kind, args, f"{self._name}.{order}" if keyed else None, order, pauses, place)

    async def _converse(
        self, kind: kinds.Kind, args: dict[str, Any], key: str | None, order: int, pauses: list[float],
        place: dict[str, Any],
    ) -> None:  # fmt: skip
        by_name = self._generation is None or kind.program is not None
        workflow: Any = kind.name if by_name else kind.definitions[: self._generation][-1]
        for attempt in itertools.count(1):
            # Without an id of one's own, what was not acknowledged may be there all the same: the next is another one.
            token = f"{self._name}.{order}" if key is not None else f"{self._name}.{order}.{attempt}"
            outcome, handle = await self._call(
                lambda token=token: self._start(workflow, kind, token, args, id=key, **place),  # type: ignore[misc]
                do="start", token=token, kind=kind.name, key=key,
            )  # fmt: skip
            if outcome == "ok":
                break
            if outcome == "refused":
                return
            await asyncio.sleep(0.1)
        wanted = kind.letters(args)
        for letter in range(wanted):
            await asyncio.sleep(pauses[letter])
            if not await self._send(handle, token, letter):
                break
        if kind.asks(args):
            await self._ask(handle, token, kinds.NO_DEPOSIT, 0.0)  # first: there is one who can reject it
            await asyncio.gather(*(self._ask(handle, token, n, pauses[n]) for n in range(kind.asks(args))))
            await self._read(handle, token)
        await self._result(handle, token)
        await asyncio.sleep(pauses[-1])

    async def _start(
        self, workflow: Any, kind: kinds.Kind, token: str, args: dict[str, Any], **more: Any
    ) -> pgd.Handle[Any]:
        if kind.program is not None:
            return await self._api.start(workflow, kwargs={"token": token, **args}, **more)
        return await self._api.start(workflow, token, *args.values(), **more)

    async def _send(self, handle: pgd.Handle[Any], token: str, letter: int) -> bool:
        """Sends until it is told that the signal is there. Returns whether the instance still takes some."""
        for attempt in itertools.count():
            payload = [letter, attempt]
            outcome, _ = await self._call(
                lambda payload=payload: handle.signal("confirm", payload),  # type: ignore[misc]
                do="signal", token=token, payload=payload,
            )  # fmt: skip
            if outcome == "ok":
                return True
            if outcome == "refused":
                return False
            await asyncio.sleep(0.05)
        raise AssertionError

    async def _ask(self, handle: pgd.Handle[Any], token: str, number: int, pause: float) -> None:
        """Asks for an update until it is told the reply, or that there will be none; always with the same key."""
        await asyncio.sleep(pause)
        key = uuid.uuid4()
        while True:
            outcome, _ = await self._call(
                lambda: handle.update("deposit", number, key=key, timeout=5.0),
                do="update", token=token, number=number, key=str(key),
            )  # fmt: skip
            if outcome != "unknown":
                return
            await asyncio.sleep(0.05)

    async def _read(self, handle: pgd.Handle[Any], token: str) -> None:
        """Reads along to the end of the stream; when the connection is lost from where it had come to."""
        lines: list[Any] = []
        offset = 0
        while True:
            try:
                async for item in handle.stream(kinds.TAPE, offset).items():
                    lines.append(item.value)
                    offset = item.offset + 1
            except (pgd.PgDurableError, TimeoutError, asyncio.TimeoutError):
                await asyncio.sleep(0.1)
                continue
            self._history.note("read", token=token, lines=lines)
            return

    async def _result(self, handle: pgd.Handle[Any], token: str) -> None:
        while True:
            try:
                output = await handle.result(timeout=5.0)
            except InstanceFailed as error:
                self._history.note("told", token=token, status=error.status, output=None)
            except InstancePaused:
                self._history.note("told", token=token, status="paused", output=None)
            except (TimeoutError, asyncio.TimeoutError):
                continue
            except pgd.PgDurableError:
                await asyncio.sleep(0.1)  # the server is in trouble
                continue
            else:
                self._history.note("told", token=token, status="completed", output=output)
            return

    async def _call(self, call: Callable[[], Awaitable[Any]], **what: Any) -> tuple[str, Any]:
        number = f"{self._name}.{uuid.uuid4().hex[:8]}"
        self._history.note("call", call=number, **what)
        try:
            result = await call()
        except (ConnectionFailed, TimeoutError, asyncio.TimeoutError) as error:
            self._history.note("unknown", call=number, why=str(error).splitlines()[0])
            return "unknown", None
        except pgd.UpdateFailed as error:  # the instance ended first: whether it had begun with it nobody is told
            self._history.note("unknown", call=number, why=str(error).splitlines()[0])
            return "failed", None
        except (InstanceFinished, pgd.UpdateRejected) as error:
            self._history.note("refused", call=number, why=str(error).splitlines()[0])
            return "refused", None
        except pgd.PgDurableError as error:
            # Nothing a customer does here is wrong: said by a server in trouble, and with what effect is not known.
            self._history.note("unknown", call=number, why=str(error)[:300])
            return "unknown", None
        told: dict[str, Any] = {"instance": str(result.instance_id)} if isinstance(result, pgd.Handle) else {}
        if what["do"] == "update":
            told = {"reply": result}
        self._history.note("ok", call=number, **told)
        return "ok", result
