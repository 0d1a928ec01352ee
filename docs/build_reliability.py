"""Writes docs/reliability.md from the results in docs/reliability. `--check` only says whether it is up to date.

    .venv/bin/python docs/build_reliability.py [--check]

Every figure of the page comes from `chaos-*.json`, which `make chaos` writes when a run has passed, and `soak.json`,
which `make soak` writes, and every finding from `found.json`. Nothing else is typed in but the words.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "reliability"
TARGET = ROOT / "docs" / "reliability.md"

# What each kind of fault does, and what has to be seen before it counts.
FAULTS = {
    "kill -9 of a worker": ("another process takes its place up to 3 s later", "another worker took it over"),
    "SIGSTOP of a worker past its lease": (
        "stopped until it is taken over and up to 2 s more, then continued",
        "it was taken over, and came back under a new number",
    ),
    "SIGCONT in the middle of a takeover": (
        "continued while the takeover's transaction lingers with the fence in its hands",
        "it was taken over, and came back under a new number",
    ),
    "clock skew of a worker": (
        "the clock of its process is up to two hours wrong, then wrong the other way (libfaketime)",
        "the process said the wrong time",
    ),
    "rolling restart": ("SIGTERM to one worker after the other", "exit status 0, and `stopped` in `workers`"),
    "deploy of a new version": (
        "a rolling restart with code that has one more version of a workflow",
        "instances of the new version run",
    ),
    "pump that is taken for dead": (
        "a session in `call work` is declared dead between two of its commits, up to three times",
        "how many were, whose sessions lived",
    ),
    "long transaction with an old snapshot": ("for 5 to 15 s", "how many transactions old its snapshot is"),
    "kill -9 and restart of the server": ("all of its processes, or an immediate shutdown", "a new server process"),
    "kill -9 of a backend": ("the server throws everybody out and recovers", "the server's log says so"),
    "pg_terminate_backend": ("of some or all connections, up to eight times", "how many were terminated"),
    "cut connections": ("of one process or all, up to five times", "how many were cut"),
    "commit whose answer is lost": (
        "the server commits and answers; a proxy swallows the answer and cuts the connection", "how many were lost",
    ),
    "slow network": ("5 to 150 ms each way", "the measured round trip"),
    "network that swallows everything past the lease": (
        "connections stay open, nothing passes, then all of it arrives",
        "it was taken over, and came back under a new number",
    ),
    "disk full": ("data and WAL on a filesystem that is filled to the last byte", "the server's log of failed writes"),
    "failover to the standby": (
        "the primary dies, its synchronous standby is promoted, the old primary is rebuilt as the new standby",
        "the other server takes writes, with a standby in step",
    ),
    "kill -9 and restart of the standby": ("no commit is acknowledged meanwhile", "sessions that waited for it"),
}  # fmt: skip

PROMISES = {
    "money is conserved": "the sum of all accounts, and each account against the bank's own ledger",
    "an acknowledged start ends exactly once": (
        "every start that returned is one instance, with the end its kind must have, entered once"
    ),
    "an instance ends with the right result, the one its caller was told": (
        "results against the checkpoints in history, and against what `result()` returned"
    ),
    "an acknowledged signal is consumed once, in its sender's order": (
        "the senders' log of calls against history; what was not acknowledged at most once"
    ),
    "a step never runs again after its acknowledged checkpoint": (
        "executions and results are lines of one file in the order they happened; no clock is asked"
    ),
    "a checkpoint holds what an execution of the step returned": "a mark of each execution, in file and checkpoint",
    "a transaction step takes effect exactly once": "the ledger, which has no unique key, against what must be in it",
    "a timer never fires early": "the recorded time of each timer against the event that set it, to the microsecond",
    "a worker that was taken over writes nothing": (
        "triggers of the run's own note the transaction of every write, and the snapshot of every takeover: whatever "
        "the worker ever wrote must be visible in it"
    ),
    "only the owner of an instance writes its history": "the same triggers note who owned the instance at each write",
    "replay reproduces the original run": "every history goes through the workflow's code again, to the same end",
    "commands are answered once, attempts are counted across crashes": "every history, row by row",
    "the limits of a queue hold, whoever dies": (
        "a trigger counts who holds a slot whenever an instance gets an owner; the times of beginnings against the rate"
    ),
    "an at_most_once step begins at most once": "executions in the file of a step that was recorded before it began",
    "an update is carried out once per key, and its sender told what it came to": (
        "the senders' log of requests and replies against history, against the checkpoints of what they asked for, and "
        "against the ledger; what was rejected is nowhere"
    ),
    "what an instance publishes last is what everybody sees": "the table of states against history",
    "a stream has every item once, for who reads along and who reads later": (
        "streams of a step that fails in the middle, against what it must write; and what somebody read as it came"
    ),
    "the history of a workflow in SQL is a run of its definition": (
        "every history is read along the definition, as a sentence along a grammar: order, branches, rounds, "
        "conditions, compensations in reverse"
    ),
    "a step in SQL and its checkpoint are one commit": (
        "triggers and the steps themselves note their transactions; all of an `atomic` is one"
    ),
    "each tick of a schedule starts one instance, whoever dies": (
        "the instances of a schedule of one second, tick by tick"
    ),
}

HEAD = """\
# Reliability

<!-- Written by docs/build_reliability.py from docs/reliability. Do not edit. -->

What pgdurable [promises](promises.md) holds whatever crashes when. This page says how that is tried, how often it has
been, and what was found. All figures come from the results of runs, which lie in [reliability/](reliability/);
`make chaos` makes another.
"""

TRIED = """\
## How it is tried

A bank: workflows that move money between accounts, in ordinary tables. Steps that fail at random, steps side by side,
races of transactions against timeouts, timers that outlast the worker's memory, confirmations by numbered signals,
instalments, transfers that fail for good and are paid back, and a workflow of which every deploy has another version.
The same again as workflows in SQL, which pumps of the worker processes run: sequences, branches, races, loops, groups
that are all or nothing, compensations.
Several worker processes run them; customers in other processes start them, with and without ids of their own, and log
every call before it is made and again when its outcome is known: done, refused, or unknown.

Meanwhile a nemesis breaks things, at moments drawn from a seed, several at once where they do not undo each other. A
fault counts only when something shows that it had an effect:
"""

CHECKED = """\
A run in which one kind never took effect has failed. The servers are PostgreSQL's own, with `fsync` on; their disk is
in memory where it is to be filled. So these are crashes of processes, not of power supplies.

## What is checked

When everything has ended, a checker that is a pure function of the log and the tables goes through all of it:
"""

PLANTED = """\
## What shows that it would be found

`tests/chaos/test_checker.py` plants violations of each of these promises in the evidence of a good run, one at a time.
The checker has to find every one, and nothing in the run as it was.
"""

SPOILT = """\
And the library is spoilt on purpose, by changing its SQL texts in the run's processes; the runs must then find
violations:
"""

AGAIN = """\
`make chaos SEED=...` draws the same faults and the same orders again; what they meet is up to the machine.
"""

SOAK = """\
## Does anything grow?

`make soak` offers half of what the machine can do, for an hour, to one worker process, beside another that a rolling
restart replaces every five minutes: plain steps, transfers by transaction steps, timers that outlast the worker's
memory, and signals. Retention and partitions are as short as the hour demands ({keep}, {width}), so what leaves has to
keep up with what comes. Flat means: along the straight line through the last two thirds a series has grown by less than
a tenth, or by less than its own noise.

**{minutes:.0f} minutes, {offered:,.0f} steps/s offered ({peak:,.0f} at most), {instances:,} instances,
{restarts} restarts: {verdict}.** {server}, Python {python}, {cores} cores, {cpu}; {when}.

![Each series over time](reliability/soak.svg)
"""

NOT_SHOWN = """
## What this does not show

- Power failures, and disks that lie about `fsync`.
- Commits that the server itself loses, see [promises](promises.md#not-promised).
- More than one machine: processes, networks and clocks are broken as if there were several.
- What nobody thought of breaking.
"""


def load() -> list[dict[str, Any]]:
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("chaos-*.json"))]
    return sorted(runs, key=lambda run: run["at"])


def total(runs: list[dict[str, Any]], what: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for run in runs:
        counts.update(run["run"][what])
    return counts


def table(head: list[str], rows: list[list[str]], right: tuple[int, ...] = ()) -> list[str]:
    rule = ["---:" if place in right else "---" for place in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)] + [""]


def page(runs: list[dict[str, Any]], found: list[dict[str, str]]) -> str:
    lines = [HEAD]
    faults, checked = total(runs, "faults"), total(runs, "checked")
    if runs:
        seconds = sum(run["run"]["seconds of faults"] for run in runs)
        violations = sum(len(run["run"]["violations"]) for run in runs)
        lines += [
            f"**{len(runs)} run{'s' * (len(runs) > 1)}, {seconds / 60:.0f} minutes of faults, {sum(faults.values()):,} "
            f"faults of {len([kind for kind in faults if faults[kind]])} kinds, {checked['acknowledged starts']:,} "
            f"acknowledged starts, {checked['checkpoints']:,} checkpoints: {violations} violations.**\n",
        ]
    lines += [TRIED]
    rows = [[kind, what, sign, f"{faults[kind]:,}"] for kind, (what, sign) in FAULTS.items()]
    lines += table(["fault", "what happens", "what shows it", "times"], rows, right=(3,))
    lines += [CHECKED]
    lines += table(["promise", "checked by"], [[promise, how] for promise, how in PROMISES.items()])
    if runs:
        lines += ["So far:\n"]
        lines += table(["checked", "number"], [[what, f"{count:,}"] for what, count in checked.items()], right=(1,))
    lines += [PLANTED]
    lines += mutations(runs)
    lines += model(runs)
    lines += ["## The runs\n"]
    lines += table(
        ["when", "seed", "PostgreSQL", "Python", "cores", "minutes", "faults", "starts", "checkpoints", "violations"],
        [
            [
                run["at"], str(run["seed"]), run["run"]["postgresql"].removeprefix("PostgreSQL "), run["run"]["python"],
                str(run["run"]["cores"]), f"{run['run']['seconds of faults'] / 60:.0f}",
                f"{sum(run['run']['faults'].values()):,}", f"{run['run']['checked']['acknowledged starts']:,}",
                f"{run['run']['checked']['checkpoints']:,}", str(len(run["run"]["violations"])),
            ]
            for run in runs
        ],
        right=(4, 5, 6, 7, 8, 9),
    )  # fmt: skip
    lines += [AGAIN]
    if (RESULTS / "soak.json").exists():
        lines += soak(json.loads((RESULTS / "soak.json").read_text()))
    lines += ["## What was found and mended\n"]
    for one in found:
        lines += [f"- **{one['what']}** {one['seen']} {one['mended']} Test: `{one['test']}`."]
    lines += [NOT_SHOWN]
    return "\n".join(lines).rstrip() + "\n"


def mutations(runs: list[dict[str, Any]]) -> list[str]:
    tried: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for name, hunted in run.get("mutations", {}).items():
            tried.setdefault(name, []).append(hunted)
    if not tried:
        return []
    rows = [
        [
            name, ", ".join(hunts[-1]["faults"]), f"{len(hunts)} of {len(hunts)}",
            "; ".join(sorted({promise for hunted in hunts for promise in hunted["violations"]})),
        ]
        for name, hunts in tried.items()
    ]  # fmt: skip
    lines = [SPOILT]
    return lines + table(["taken out", "under these faults", "found", "as violations of"], rows)


def model(runs: list[dict[str, Any]]) -> list[str]:
    checked = [run["model"] for run in runs if "model" in run]
    if not checked:
        return []
    last = checked[-1]
    lines = [
        "## The model\n",
        "Lease, fence and takeover are also a [formal model](model/README.md); every order of events is tried.",
        f"It holds in all of its {last['states']:,} states. It does not hold when\n",
    ]
    return lines + [f"- {what}: `{fails}`" for what, fails in last["mutations"].items()] + [""]


def soak(found: dict[str, Any]) -> list[str]:
    where = found["machine"]
    said = SOAK.format(
        keep=found["keep"], width=found["width"], minutes=found["seconds"] / 60, offered=found["offered"],
        peak=found["peak"] or 2 * found["offered"], instances=found["started"], restarts=found["restarts"],
        verdict="; ".join(found["wrong"]) or "everything is flat", when=found["when"],
        server=f"PostgreSQL {found['server']['server_version']}", python=where["python"], cores=where["cores"],
        cpu=where["cpu"],
    )  # fmt: skip
    rows = [
        [
            one["title"], f"{one['mean'] / one['unit']:,.1f} {one['of']}".strip(), f"{one['of_mean']:+.1%}",
            f"{one['scatter']:.1%}",
        ]
        for one in found["growth"].values()
        if one["mean"] is not None
    ]  # fmt: skip
    return [said, *table(["in the last two thirds", "mean", "growth", "noise"], rows, right=(1, 2, 3))]


def main() -> int:
    text = page(load(), json.loads((RESULTS / "found.json").read_text()))
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text() != text:
            print("docs/reliability.md is out of date: run docs/build_reliability.py")
            return 1
        return 0
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
