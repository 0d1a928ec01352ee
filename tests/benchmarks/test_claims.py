"""`pytest benchmarks --target` fails where a claim does not hold; figures, settings and comparison are as promised."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.claims import CLAIMS, Claim, violations
from benchmarks.figures import Beside, Figure, Figures, as_json, latency, text_table

ROOT = Path(__file__).resolve().parents[2]
MOST = Claim("a.latency", "bench_a.py", "it is quick", at_most=1.3)
LEAST = Claim("b.rate", "bench_b.py", "it is much", at_least=0.5)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    ("ratios", "ran", "complaint"),
    [
        ({"a.latency": 1.31}, {"bench_a.py"}, "a.latency: ratio 1.31, claimed at most 1.3: it is quick"),
        ({"b.rate": 0.49}, {"bench_b.py"}, "b.rate: ratio 0.49, claimed at least 0.5: it is much"),
        ({"a.latency": float("nan")}, {"bench_a.py"}, "claimed at most"),
        ({"b.rate": float("nan")}, {"bench_b.py"}, "claimed at least"),
        ({"a.latency": None}, {"bench_a.py"}, "nothing was measured beside it"),
        ({}, {"bench_a.py"}, "bench_a.py ran, but gave no such figure"),
        ({"b.rate": 0.7}, {"bench_a.py", "bench_b.py"}, "bench_a.py ran, but gave no such figure"),
    ],
)
def test_a_claim_that_does_not_hold_is_told(ratios: dict, ran: set, complaint: str) -> None:
    (found,) = violations(ratios, ran, (MOST, LEAST))
    assert complaint in found


@pytest.mark.parametrize(
    ("ratios", "ran"),
    [
        ({"a.latency": 1.3, "b.rate": 0.5}, {"bench_a.py", "bench_b.py"}),
        ({"a.latency": 1.0}, {"bench_a.py"}),
        ({}, set()),
    ],
)
def test_a_claim_that_holds_or_was_not_measured_is_not(ratios: dict, ran: set) -> None:
    assert violations(ratios, ran, (MOST, LEAST)) == []


def test_a_claim_has_one_bound() -> None:
    for bounds in ({}, {"at_most": 1.0, "at_least": 1.0}):
        with pytest.raises(ValueError, match="one bound"):
            Claim("x", "bench_x.py", "", **bounds)


def test_every_claim_is_about_a_benchmark_that_is_there() -> None:
    files = {path.name for path in (ROOT / "benchmarks").rglob("bench_*.py")}
    assert [claim for claim in CLAIMS if claim.file not in files] == []
    assert len({claim.figure for claim in CLAIMS}) == len(CLAIMS)


# -- figures --------------------------------------------------------------------------------------------------------


def test_a_throughput_needs_its_latency() -> None:
    with pytest.raises(ValueError, match="p99"):
        Figure("x", 1.0, "steps/s")
    assert Figure("x", 1.0, "ms", Beside("floor", 0.5)).ratio == 2.0


def test_two_figures_of_one_name_are_refused() -> None:
    figures = Figures()
    figures.add(Figure("x", 1.0, "ms"))
    with pytest.raises(ValueError, match="already"):
        figures.add(Figure("x", 2.0, "ms"))


def test_quantiles_are_samples_of_all_rounds() -> None:
    found = latency([0.001] * 98, [0.002, 0.003])
    assert (found.p50_ms, found.p99_ms, found.p999_ms, found.count) == (1.0, 2.0, 3.0, 100)
    with pytest.raises(ValueError, match="no samples"):
        latency([])


def test_the_json_reads_back() -> None:
    result = {"figures": [{"series": {"s": [[0.0, 1.5], [0.5, 2.0], [0.999, 1e-05]]}, "n": [1, 2], "none": None}]}
    assert json.loads(as_json(result)) == result
    assert len(as_json(result).splitlines()) < 20


def test_the_table_shows_what_stands_beside() -> None:
    text = text_table([Figure("a.b", 12_345.6, "steps/s", Beside("COPY", 24_691.2), latency([0.001]))])
    assert "12,346 steps/s" in text
    assert text.splitlines()[1].split()[-1] == "0.50"


# -- the options of `pytest benchmarks` -----------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path, dsn: str) -> Run:
    """Runs pytest on a planted benchmark whose claim is a ratio of at most 1.5."""
    (tmp_path / "pytest.ini").write_text((ROOT / "benchmarks" / "pytest.ini").read_text())
    (tmp_path / "conftest.py").write_text(
        "import benchmarks.claims as claims\n"
        "claims.CLAIMS = (claims.Claim('planted', 'bench_planted.py', 'it is planted', at_most=1.5),)\n"
        "from benchmarks.conftest import *\n"
    )

    def run(value: float | None, *options: str) -> subprocess.CompletedProcess[str]:
        body = "pass" if value is None else f"lab.figure('planted', {value}, 'ms', beside=('floor', 1.0))"
        (tmp_path / "bench_planted.py").write_text(
            f"def bench_planted(benchmark, lab):\n    benchmark.pedantic(lambda: 1, rounds=2)\n    {body}\n"
        )
        return subprocess.run(
            [sys.executable, "-m", "pytest", str(tmp_path), *options], cwd=ROOT, capture_output=True, text=True,
            # Not as a part of a run with xdist, under which pytest-benchmark measures nothing.
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")},
                "PGDURABLE_BENCH_DSN": dsn, "PYTHONDONTWRITEBYTECODE": "1",
            },
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("value", "options", "code", "said"),
    [
        (1.2, ["--target"], 0, "every claim that was measured holds (1 of 1)"),
        (2.0, ["--target"], 1, "NOT HELD  planted: ratio 2.00, claimed at most 1.5: it is planted"),
        (None, ["--target"], 1, ""),
        (2.0, [], 0, "fsync on"),
    ],
    ids=["holds", "does not hold", "no figure", "not asked"],
)
def test_target_fails_where_a_claim_does_not_hold(
    bench: Run, value: float | None, options: list[str], code: int, said: str
) -> None:
    done = bench(value, *options)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout


def test_figures_and_settings_are_recorded(bench: Run, tmp_path: Path) -> None:
    done = bench(1.2, f"--figures={tmp_path}/figures.json", f"--benchmark-json={tmp_path}/benchmark.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())
    assert [(figure["name"], figure["ratio"]) for figure in found["figures"]] == [("planted", 1.2)]
    assert found["settings"]["fsync"] == "on"
    assert found["machine"]["cores"] == os.cpu_count()
    record = json.loads((tmp_path / "benchmark.json").read_text())
    extra = record["benchmarks"][0]["extra_info"]
    assert extra["planted"]["ratio"] == 1.2
    assert extra["server"]["synchronous_commit"] == "on"
    assert record["pgdurable"]["figures"][0]["name"] == "planted"


def test_benchmark_compare_works(bench: Run, tmp_path: Path) -> None:
    storage = f"--benchmark-storage={tmp_path}/runs"
    assert bench(1.2, storage, "--benchmark-save=first").returncode == 0
    done = bench(1.2, storage, "--benchmark-compare")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bench_planted (NOW)" in done.stdout
    assert "0001_first" in done.stdout


if importlib.util.find_spec("matplotlib"):  # comes with the extra `bench`

    def test_the_same_figures_give_the_same_pictures(tmp_path: Path) -> None:
        from benchmarks.plots import draw

        quantiles = {"p50_ms": 1.0, "p99_ms": 2.0, "p999_ms": 3.0, "count": 9}
        shared = {"unit": "steps/s", "latency": quantiles, "series": {}, "beside": {"name": "COPY", "value": 9e4}}
        figures = [
            {"name": f"throughput.{n}", "value": 1e4 * n, "params": {"concurrent": n}, **shared} for n in (1, 10)
        ]
        figures += [{"name": f"growth.{n}", "value": 1e4, "params": {"rows_behind": n}, **shared} for n in (0, 10**6)]
        figures += [{"name": f"peers.{n}", "value": 1e4, "params": {}, **shared} for n in ("pgdurable", "other")]
        curves = {"transition": [[0.0, 0.1], [0.99, 1.0]], "bare insert": [[0.0, 0.1], [0.99, 0.9]]}
        figures += [{"name": "transition.idle", "value": 0.2, "params": {}, **shared, "series": curves}]
        results = {
            "figures": figures,
            "machine": {"cores": 2, "python": "3.11", "commit": "0"},
            "settings": {"server_version": "18.1", "fsync": "on", "synchronous_commit": "on"},
        }
        first, second = draw(results, tmp_path / "1"), draw(results, tmp_path / "2")
        assert [path.name for path in first] == ["latency.svg", "throughput.svg", "growth.svg", "peers.svg"]
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
        for path in first:
            text = path.read_text()
            assert text.startswith("<svg")
            assert len(text) < 60_000
            assert "fsync on" in text
