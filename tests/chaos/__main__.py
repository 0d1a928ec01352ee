"""The whole proof: the formal model, the hunts for mutations, and ten minutes of chaos. See docs/reliability.md.

What a part of it needs and does not find here is said, and ends the run, unless `--without` says that it is known.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from . import hunt, model, results
from .outages import KINDS
from .run import Result, plan, play
from .world import Settings, World, faketime

console = Console()
_DISK_MB = 700
_EVERY_S = 4.0


def prerequisites(without: set[str]) -> list[str]:
    """What is missing, as sentences; what can be installed is installed first, where we are root."""
    wanted = {"clock": "faketime", "model": "spin gcc libc6-dev"}
    absent = [
        part for part in wanted
        if part not in without and (faketime() is None if part == "clock" else model.lacking() is not None)
    ]  # fmt: skip
    if absent and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = " ".join(wanted[part] for part in absent).split()
        console.print(f"installing {' '.join(packages)}")
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *packages], capture_output=True)
    missing = []
    if "clock" not in without and faketime() is None:
        missing.append("clock: libfaketime is not installed (Debian: apt-get install faketime)")
    if "model" not in without and (lacking := model.lacking()) is not None:
        missing.append(f"model: {lacking}")
    if "disk" not in without and not _mounts():
        missing.append("disk: a full disk needs a filesystem of its own, and mounting one needs root")
    return missing


def _mounts() -> bool:
    folder = tempfile.mkdtemp(prefix="pgdurable-chaos-")
    try:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "chaos", folder], capture_output=True).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
        return True
    finally:
        os.rmdir(folder)


def check_model() -> dict[str, Any]:
    """Raises SystemExit when the model does not hold, or holds with a mutation."""
    with console.status("the model, in every order of events"):
        sound = model.check()
    if sound.fails is not None:
        raise SystemExit(f"the model does not hold: {sound.fails}")
    console.print(f"the model holds in all of its {sound.states:,} states ({sound.seconds:.0f} s)")
    caught = {}
    for name, what in model.MUTATIONS.items():
        found = model.check(name)
        if found.fails is None:
            raise SystemExit(f"the model holds also when {what} ({name}): it shows nothing")
        caught[what] = found.fails
        console.print(f"  when {what}, it does not: {found.fails}", markup=False, highlight=False)
    return {"states": sound.states, "mutations": caught}


async def hunt_mutations(folder: Path, seed: int) -> dict[str, Any]:
    """Raises SystemExit when a mutation is not found."""
    found = {}
    for mutation in hunt.TARGETS:
        with console.status(f"with a mutation: {mutation}"):
            hunted = await hunt.hunt(mutation, mutation, folder / mutation.replace(" ", "-"), seed)
        if not hunted.found:
            raise SystemExit(f"{mutation}: not found in {hunted.runs} runs (seed {seed})")
        console.print(
            f"with a mutation, {mutation}: {sum(hunted.found.values())} violations in run {hunted.runs} "
            f"({hunted.seconds:.0f} s): {', '.join(hunted.found)}", highlight=False,
        )  # fmt: skip
        found[mutation] = {
            "violations": dict(hunted.found), "runs": hunted.runs, "seconds": round(hunted.seconds),
            "faults": list(hunt.TARGETS[mutation]), "example": hunted.example,
        }  # fmt: skip
    return found


class Board:
    """What is on the screen during the run."""

    def __init__(self, seed: int, seconds: float, wanted: list[str]) -> None:
        self._seed = seed
        self._seconds = seconds
        self._wanted = wanted
        self._began = time.monotonic()
        self.last: list[str] = []
        self.live = Live(console=console, refresh_per_second=2)

    def say(self, line: str) -> None:
        self.last = [*self.last[-5:], f"{time.monotonic() - self._began:5.0f} s  {line}"]
        if not console.is_terminal:
            console.print(self.last[-1], markup=False, highlight=False)

    def watch(self, world: World, result: Result) -> None:
        if not console.is_terminal:
            return
        table = Table(title=f"chaos, seed {self._seed}: {time.monotonic() - self._began:.0f} of {self._seconds:.0f} s")
        table.add_column("fault")
        table.add_column("took effect", justify="right")
        table.add_column("came in another's way", justify="right")
        for kind in self._wanted:
            table.add_row(kind, str(result.faults[kind]), str(result.without[kind] or ""))
        table.add_section()
        table.add_row("all", str(sum(result.faults.values())), str(sum(result.without.values())))
        table.caption = "\n".join(line[: console.width - 4] for line in self.last)
        self.live.update(table)


async def main(given: argparse.Namespace) -> int:
    seed = given.seed if given.seed is not None else random.SystemRandom().getrandbits(32)
    without = set(given.without)
    console.print(f"seed {seed} (the same again: SEED={seed})", highlight=False)
    missing = prerequisites(without)
    if missing:
        parts = " ".join(f"--without {line.split(':')[0]}" for line in missing)
        console.print("\n".join(missing), style="red", markup=False)
        console.print(f"Nothing is left out silently: install it, or say that it is known: {parts}")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="pgdurable-chaos-run-"))
    found: dict[str, Any] = {"seed": seed, "without": sorted(without)}
    if "model" not in without:
        found["model"] = check_model()
    if "mutations" not in without:
        found["mutations"] = await hunt_mutations(folder, seed)
    kinds = [
        kind for kind, fault in KINDS.items()
        if not ((fault.needs == "disk" and "disk" in without) or (fault.needs == "clock" and "clock" in without))
    ]  # fmt: skip
    settings = Settings(seed, standby=True, disk_mb=None if "disk" in without else _DISK_MB, customers=14)
    board = Board(seed, given.seconds, kinds)
    with board.live:
        result = await play(
            settings, folder / "run", plan(seed, given.seconds, kinds, given.every), given.seconds, say=board.say,
            watch=board.watch,
        )  # fmt: skip
    found["run"] = results.of(result, kinds, given)
    console.print(results.summary(result), markup=False, highlight=False)
    least = min(100, int(given.seconds / 6))
    faults = sum(result.faults.values())
    passed = result.passed and faults >= least and set(result.faults) == set(kinds)
    if faults < least:
        console.print(f"only {faults} faults took effect, not {least}", style="red")
    if passed:
        shutil.rmtree(folder)
        if given.results is not None:
            path = results.write(found, given.results)
            console.print(f"results: {path}", markup=False)
    else:
        for violation in result.violations[:20]:
            console.print(str(violation)[:1000], style="red", markup=False)
        if result.unended is not None:
            console.print(result.unended[:6000], style="red", markup=False)
        for kind in sorted(set(kinds) - set(result.faults)):
            console.print(f"never took effect: {kind}", style="red", markup=False)
        console.print(f"history and logs: {folder}", markup=False)
    console.print("[green]passed[/]" if passed else "[red]failed[/]")
    return 0 if passed else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of faults; default: ten minutes")
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, which is printed")
    parser.add_argument("--every", type=float, default=_EVERY_S, help="seconds between two faults, on average")
    parser.add_argument("--results", type=Path, default=None, help="folder for the results as JSON")
    parser.add_argument(
        "--without", action="append", default=[], choices=["clock", "disk", "model", "mutations"],
        help="a part that is left out; what it would have shown is not claimed",
    )  # fmt: skip
    sys.exit(asyncio.run(main(parser.parse_args())))
