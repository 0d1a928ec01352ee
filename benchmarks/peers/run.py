"""Drives an adapter in child processes, checks that what it says is true, and keeps its best configuration."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

ROOT = Path(__file__).resolve().parents[2]
STEPS = 10  # of a workflow
INSTALL = "pip install 'pgdurable[peers]' (in a clone: .venv/bin/pip install -e '.[peers]')"
_START_LIMIT_S = 60.0
_STATISTICS_LIMIT_S = 2.0


class PeerMissing(Exception):
    """A peer's package is not installed; the message says how to install it."""


class PeerFailed(Exception):
    """A peer's process ended early, or what it said does not agree with what the server has."""


@dataclass(frozen=True)
class Trial:
    """One way of running a library: how many callers at once, in which of its modes, over how many processes."""

    concurrency: int
    mode: str = ""
    processes: int = 1

    def __str__(self) -> str:
        words = [self.mode, f"{self.concurrency} callers"]
        if self.processes > 1:
            words.append(f"in {self.processes} processes")
        return " ".join(filter(None, words))


@dataclass(frozen=True)
class Peer:
    """What is known of a library beforehand.

    Attributes:
        packages: modules that must be importable.
        checkpoints: query that counts the step checkpoints in its database.
        trials: the configurations tried; the first is one caller alone.
    """

    packages: tuple[str, ...]
    checkpoints: str
    trials: tuple[Trial, ...]

    @property
    def processes(self) -> int:
        return max(trial.processes for trial in self.trials)

    def missing(self) -> list[str]:
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


@dataclass(frozen=True)
class PeerFigure:
    """The best of the configurations tried, and what all of them gave.

    Attributes:
        steps_per_s: durable steps per second, starts and ends of the workflows included in the time.
        p50_ms, p99_ms, p999_ms: of one step, as the workflow's code sees it: from calling it to having its saved
            result. `samples` is how many there were.
        concurrency: workflows at once, over all processes.
        idle_p50_ms, idle_p99_ms: the same with one workflow at a time.
        tried: every configuration with its steps/s, p50 and p99.
        checked: what was counted in the server afterwards.
    """

    name: str
    version: str
    steps_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    samples: int
    concurrency: int
    processes: int
    mode: str
    idle_p50_ms: float
    idle_p99_ms: float
    tried: tuple[dict[str, Any], ...]
    checked: dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """What one configuration acknowledged: steps, and at how many callers."""

    steps: int
    callers: int


# More processes than one are tried too: a second one is the documented way past the interpreter lock.
PEERS: dict[str, Peer] = {
    "pgdurable": Peer(
        ("pgdurable",),
        "select count(*) from durable.history where kind = 'step'",
        (Trial(1), Trial(10), Trial(200), Trial(500)),
    ),
    "dbos": Peer(
        ("dbos",),
        "select count(*) from dbos.operation_outputs",
        (
            Trial(1, "threads"), Trial(4, "threads"), Trial(4, "threads", 2), Trial(8, "threads", 2),
            Trial(16, "threads", 2), Trial(16, "async"),
        ),
    ),
    "absurd": Peer(
        ("absurd_sdk", "absurdctl"),
        "select count(*) from absurd.c_bench",
        (Trial(1, "threads"), Trial(8, "threads"), Trial(16, "threads"), Trial(8, "threads", 2), Trial(16, "async")),
    ),
    # Not a library: what the server gives anybody who commits every step by itself, over one connection per caller.
    "bare": Peer(
        ("psycopg",),
        "select count(*) from bare",
        (
            Trial(1, "threads"), Trial(4, "threads"), Trial(16, "threads"), Trial(16, "threads", 2),
            Trial(32, "threads", 2),
        ),
    ),
}  # fmt: skip
NAMES = tuple(PEERS)


def run_peer(name: str, dsn: str, seconds: float) -> PeerFigure:
    """Runs the ten-step workflow on a library and returns the best of the configurations tried.

    Args:
        name: a key of `PEERS`; `bare` is the ceiling of one commit per step.
        dsn: the server; the role must be allowed to create a database there.
        seconds: measuring time over all configurations. Starting and stopping take some seconds more.

    Raises:
        PeerMissing: its package is not installed.
        PeerFailed: it ended early, or a count in the server does not agree with what it acknowledged.
    """
    peer = PEERS[name]
    if missing := peer.missing():
        raise PeerMissing(f"{name} is not measured: {' and '.join(missing)} not installed. To measure it: {INSTALL}")
    with _database(dsn, name) as own_dsn:
        syncs_before = _wal_syncs(dsn)
        answers: list[tuple[Trial, list[dict[str, Any]]]] = []
        with _children(name, own_dsn, peer) as children:
            version = children[0].version
            share = seconds / len(peer.trials)
            for trial in peer.trials:
                answers.append((trial, _run(children[: trial.processes], trial, share)))
        measured = [(trial, _figure(trial, answer)) for trial, answer in answers]
        done = [Checked(sum(a["steps"] for a in answer), trial.concurrency) for trial, answer in answers]
        warmed = sum(child.warm_steps for child in children)
        checked = check_counts(own_dsn, peer.checkpoints, done, warmed)
        checked |= check_durable(dsn, syncs_before, done)
    best_trial, best = max(measured, key=lambda m: m[1]["steps_per_s"])
    idle = measured[0][1]
    return PeerFigure(
        name=name,
        version=version,
        steps_per_s=best["steps_per_s"],
        p50_ms=best["p50_ms"],
        p99_ms=best["p99_ms"],
        p999_ms=best["p999_ms"],
        samples=int(best["samples"]),
        concurrency=best_trial.concurrency,
        processes=best_trial.processes,
        mode=best_trial.mode,
        idle_p50_ms=idle["p50_ms"],
        idle_p99_ms=idle["p99_ms"],
        tried=tuple({"trial": str(trial), **dataclasses.asdict(trial), **figure} for trial, figure in measured),
        checked=checked,
    )


# -- checking ------------------------------------------------------------------------------------------------------


def check_counts(dsn: str, query: str, done: list[Checked], warmed: int = 0) -> dict[str, Any]:
    """Counts the checkpoints in the database: exactly one for each step acknowledged. Raises PeerFailed."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(query).fetchone()
    acknowledged = sum(d.steps for d in done) + warmed
    if row is None or row[0] != acknowledged:
        raise PeerFailed(f"{acknowledged} steps were acknowledged, but the server has {row and row[0]} checkpoints")
    return {"checkpoints": acknowledged}


def check_durable(dsn: str, syncs_before: int | None, done: list[Checked]) -> dict[str, Any]:
    """Compares the server's fsyncs of its write-ahead log with what durable commits need at least. Raises PeerFailed.

    A caller waits for each of its steps, so one fsync can make at most as many steps durable as there are callers. A
    session that switched synchronous_commit off would show as far too few.
    """
    needed = sum(d.steps / d.callers for d in done)
    deadline = time.monotonic() + _STATISTICS_LIMIT_S
    while True:
        after = _wal_syncs(dsn)
        if syncs_before is None or after is None:
            return {"wal_syncs": None}
        if after - syncs_before >= needed:
            break
        if time.monotonic() > deadline:
            raise PeerFailed(
                f"the server synced its log {after - syncs_before} times, where at least {needed:.0f} were needed for"
                " every step to be durable when it was acknowledged"
            )
        time.sleep(0.05)  # a session's share is counted when it ends, at the latest
    return {"wal_syncs": after - syncs_before, "wal_syncs_needed": round(needed)}


def _wal_syncs(dsn: str) -> int | None:
    """How often the server has synced its log; None where it does not sync by calls that it counts."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        settings = dict(
            conn.execute(
                "select name, setting from pg_settings"
                " where name in ('fsync', 'synchronous_commit', 'wal_sync_method', 'server_version_num')"
            ).fetchall()
        )
        if settings["fsync"] != "on" or settings["synchronous_commit"] == "off":
            raise PeerFailed(
                f"fsync is {settings['fsync']} and synchronous_commit {settings['synchronous_commit']} on this server:"
                " figures taken there say nothing about durable steps"
            )
        if settings["wal_sync_method"] not in ("fsync", "fdatasync"):
            return None
        if int(settings["server_version_num"]) >= 180000:
            query = "select sum(fsyncs)::bigint from pg_stat_io where object = 'wal'"
        else:
            query = "select wal_sync from pg_stat_wal"
        row = conn.execute(query).fetchone()
        return int(row[0] or 0) if row else None


# -- the database --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _database(dsn: str, name: str) -> Iterator[str]:
    """A database of its own, so that nothing of a library's touches anything else."""
    database = f"peer_{name}_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        try:
            conn.execute(f"create database {database}")
        except psycopg.errors.InsufficientPrivilege as error:
            raise PeerFailed(f"{name} needs a database of its own, which this role may not create: {error}") from None
    try:
        yield make_conninfo(dsn, dbname=database)
    finally:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"drop database {database} with (force)")
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                conn.execute("checkpoint")  # what it left to write must not disturb who is measured next


# -- the children --------------------------------------------------------------------------------------------------


class _Child:
    """One process of an adapter, spoken to in JSON lines."""

    def __init__(self, name: str, dsn: str, number: int, home: str) -> None:
        self.name = name
        self.version = ""
        self.warm_steps = 0
        self.errors = Path(home) / f"{number}.log"
        env = {"PATH": os.environ.get("PATH", ""), "HOME": home, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.peers.child", name, dsn, str(number)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=env, cwd=ROOT, text=True,
            )  # fmt: skip

    def ask(self, **what: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.failed("ended early") from None

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self.failed("ended early")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def failed(self, why: str) -> PeerFailed:
        self.process.kill()
        self.process.wait()
        return PeerFailed(f"the process of {self.name} {why}:\n{self.errors.read_text(errors='replace')[-3000:]}")

    def end(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            raise self.failed("does not end") from None
        if status != 0:
            raise self.failed(f"ended with {status}")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@contextlib.contextmanager
def _children(name: str, dsn: str, peer: Peer) -> Iterator[list[_Child]]:
    """As many processes as the trials need, ready; ended in good order when the block is left without an error."""
    with tempfile.TemporaryDirectory(prefix="peer-") as home:
        children: list[_Child] = []
        try:
            began = time.monotonic()
            for number in range(peer.processes):
                child = _Child(name, dsn, number, home)
                children.append(child)
                ready = child.answer()  # the first makes the tables
                child.version, child.warm_steps = ready["version"], ready["steps"]
                if time.monotonic() - began > _START_LIMIT_S:
                    raise child.failed("took too long to start")
            yield children
            for child in children:
                child.end()
        finally:
            for child in children:
                child.kill()


def _run(children: list[_Child], trial: Trial, seconds: float) -> list[dict[str, Any]]:
    each = max(trial.concurrency // trial.processes, 1)
    for child in children:
        child.ask(concurrency=each, mode=trial.mode, seconds=seconds)
    return [child.answer() for child in children]


def _figure(trial: Trial, answers: list[dict[str, Any]]) -> dict[str, float]:
    import numpy as np  # here, so that the checks can be used without it

    took = max(answer["seconds"] for answer in answers)
    latencies = np.concatenate([np.frombuffer(base64.b64decode(a["latencies"]), dtype=np.float32) for a in answers])
    steps = sum(answer["steps"] for answer in answers)
    if steps == 0 or len(latencies) != steps:
        raise PeerFailed(f"{trial}: {steps} steps, {len(latencies)} latencies")
    p50, p99, p999 = np.quantile(latencies, [0.5, 0.99, 0.999], method="inverted_cdf") * 1e3
    return {
        "steps_per_s": steps / took,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "p999_ms": float(p999),
        "samples": steps,
    }
