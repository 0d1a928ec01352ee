"""Options, fixtures and the result's table. `pytest benchmarks` runs everything; see docs/benchmarks.md."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import claims
from benchmarks import server as servers
from benchmarks.figures import Figures, as_json, text_table
from benchmarks.lab import Lab

_figures = Figures()
_ran: set[str] = set()
_settings: dict[str, str] = {}
_began = time.time()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pgdurable")
    group.addoption(
        "--target", action="store_true", help="fail where a ratio is below the README's claim (benchmarks/claims.py)"
    )
    group.addoption("--short", action="store_true", help="one small round of each: to try things, not for figures")
    group.addoption("--slow", action="store_true", help="also what takes many minutes")
    group.addoption("--figures", metavar="FILE", help="write the figures, the settings and the machine to this JSON")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """The server: PGDURABLE_BENCH_DSN, else an embedded one."""
    with servers.server() as dsn:
        _settings.update(servers.describe(dsn))
        yield dsn


@pytest.fixture
def lab(request: pytest.FixtureRequest, dsn: str) -> Iterator[Lab]:
    """A schema of its own, an event loop, and a place for figures: see `benchmarks.lab.Lab`."""
    benchmark = request.getfixturevalue("benchmark") if "benchmark" in request.fixturenames else None
    if benchmark is not None:
        benchmark.extra_info["server"] = dict(_settings)
    found = Lab(
        dsn, f"bench_{uuid.uuid4().hex[:8]}", _figures, short=request.config.getoption("--short"), benchmark=benchmark
    )
    try:
        yield found
    finally:
        found.close()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    output_json["pgdurable"] = _result()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _ran.add(Path(report.location[0]).name)


def _result() -> dict[str, Any]:
    return {
        "machine": servers.machine(),
        "settings": dict(_settings),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_began)),
        "seconds": round(time.time() - _began, 1),
        "figures": [figure.as_dict() for figure in _figures.all],
        "claims": [
            {"figure": claim.figure, "meaning": claim.meaning, "at_most": claim.at_most, "at_least": claim.at_least}
            for claim in claims.CLAIMS
        ],
    }


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path = session.config.getoption("--figures")
    if path:
        Path(path).write_text(as_json(_result()), encoding="utf-8")
    if session.config.getoption("--target") and exitstatus == 0 and claims.violations(_figures.ratios(), _ran):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not _figures.all:
        return
    out = terminalreporter
    out.section("figures")
    for line in servers.lines(_settings):
        out.line(line)
    for line in text_table(_figures.all).splitlines():
        out.line(line)
    if config.getoption("--target"):
        found = claims.violations(_figures.ratios(), _ran)
        out.section("claims")
        for line in found:
            out.line(f"NOT HELD  {line}", red=True)
        if not found:
            judged = sum(claim.file in _ran for claim in claims.CLAIMS)
            out.line(f"every claim that was measured holds ({judged} of {len(claims.CLAIMS)})", green=True)
