"""Replay reproduces the original run: random workflows, random environments, crashed at every event. No database.

The environment is the engine's: what happens is first recorded, which fixes its place in history, and later
acknowledged, which delivers it. In between the workflow may lose interest in it.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.property.programs import executions, nodes, programs, run_blocking, run_program
from tests.runtime.harness import Event, Owner, encode, outcome_of, workflow

MOST_EVENTS = 3000


class World:
    """Plays everything outside an instance, at random but seeded."""

    def __init__(self, owner: Owner, rng: random.Random, signals: list[str]) -> None:
        self.owner = owner
        self.rng = rng
        self.signals = deque(signals)
        self.flight: deque[Event] = deque()
        self.recorded: set[int] = set()
        self.sent = 0

    def run(self) -> Owner:
        """Until the workflow has ended."""
        owner, rng = self.owner, self.rng
        for _ in range(MOST_EVENTS):
            if owner.machine.outcome is not None:
                # What was under way then may still have reached history.
                while self.flight and rng.random() < 0.5:
                    owner.deliver(self.flight.popleft())
                return owner
            possible = [self.record_step, self.record_timer, self.record_signal, self.deliver, self.deliver]
            rng.shuffle(possible)
            if not any(act() for act in possible):
                self.signals.extend("pq")  # everything waits for a signal
        raise AssertionError("the workflow does not end")

    def deliver(self) -> bool:
        if self.flight:
            self.owner.deliver(self.flight.popleft())
            return True
        return False

    def record_step(self) -> bool:
        open = [command for command in self.owner.steps if command.seq not in self.recorded]
        if not open:
            return False
        command = self.rng.choice(open)
        self.recorded.add(command.seq)
        self.flight.append(self.owner.checkpoint(command))
        return True

    def record_timer(self) -> bool:
        open = [command for command in self.owner.timers if command.seq not in self.recorded]
        if not open or (self.rng.random() < 0.7 and (self.owner.steps or self.flight)):
            return False
        due_us = open[0].due_us
        command = self.rng.choice([command for command in open if command.due_us == due_us])
        self.recorded.add(command.seq)
        self.owner.now_us = max(self.owner.now_us, due_us)
        # A transaction's time is when it began: it may lie before that of an event recorded earlier.
        self.flight.append(Event("timer", self.owner.now_us - self.rng.choice([0, 0, 3]), command.seq))
        return True

    def record_signal(self) -> bool:
        if not self.signals:
            return False
        self.sent += 1
        name = self.signals.popleft()
        self.flight.append(Event("signal", self.owner.tick(), name=name, payload=encode([name, self.sent])))
        return True


def check(fn: Any, program: Any, seed: int, signals: list[str], crashes: int) -> None:
    executions.clear()
    rng = random.Random(seed)
    definition = workflow(fn)
    live = World(Owner(definition, program).start(), rng, signals).run()
    history, trace, outcome = list(live.history), list(live.trace), outcome_of(live.machine)
    note(f"{len(history)} events, {outcome}")
    live.drop()
    points = range(len(history) + 1)
    for crash in points if len(points) <= crashes else sorted(rng.sample(points, crashes)):
        # The rest of what happened happens again: everything must be as it was.
        again = live.again(history[:crash])
        for event in history[crash:]:
            again.deliver(event)
        assert again.trace == trace, f"crashed after event {crash}"
        assert outcome_of(again.machine) == outcome
        again.drop()
    # Something else happens after the crash: the new history holds as well, and the old part is as it was.
    crash = rng.choice(points)
    other = live.again(history[:crash])
    world = World(other, rng, signals)
    world.recorded = {event.seq for event in history[:crash] if event.seq is not None}
    world.run()
    assert other.trace[: crash + 1] == trace[: crash + 1]
    other.replays()
    other.drop()


seeds = st.integers(0, 2**32 - 1)
signal_lists = st.lists(st.sampled_from("pq"), max_size=4)


@settings(max_examples=250, deadline=None, print_blob=True)
@given(program=programs(timed=True), seed=seeds, signals=signal_lists)
def test_a_crashed_run_is_the_crash_free_run(program: Any, seed: int, signals: list[str]) -> None:
    check(run_program, program, seed, signals, crashes=8)


@settings(max_examples=40, deadline=None, print_blob=True)
@given(program=programs(timed=True, blocking=True), seed=seeds, signals=signal_lists)
def test_a_crashed_def_workflow_too(program: Any, seed: int, signals: list[str]) -> None:
    check(run_blocking, program, seed, signals, crashes=5)


@settings(max_examples=40, deadline=None, print_blob=True)
@given(program=programs(timed=False), seeds=st.tuples(seeds, seeds))
def test_a_program_without_time_gives_the_same_whatever_the_order(program: Any, seeds: tuple[int, int]) -> None:
    """What the end-to-end property rests on."""
    outcomes = []
    for seed in seeds:
        outcomes.append(untimed_outcome(program, seed))
    assert outcomes[0] == outcomes[1]


def untimed_outcome(program: Any, seed: int = 0, fn: Any = run_program) -> Any:
    """The outcome of a program without time, run without a database."""
    executions.clear()
    owner = Owner(workflow(fn), program).start()
    for node in nodes(program):
        if node["do"] == "signal":
            name = f"s{node['label']}"
            owner.signal(name, name)
    rng = random.Random(seed)
    for _ in range(MOST_EVENTS):
        if owner.machine.outcome is not None:
            break
        timers = [] if owner.steps else owner.timers[:1]
        chosen = rng.choice(owner.steps + timers)
        if chosen.kind == "timer":
            owner.fire()
            continue
        row = owner.checkpoint(chosen)
        if row.error is None or chosen.name != "flaky_work" or owner.executed.count("flaky_work") > 100:
            owner.deliver(row)
    outcome = outcome_of(owner.machine)
    owner.drop()
    return outcome
