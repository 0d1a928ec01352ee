"""The comparison with peers believes nothing it is told: counts and fsyncs are looked up in the server."""

from __future__ import annotations

import re

import psycopg
import pytest

from benchmarks.peers import Checked, PeerFailed, PeerMissing, check_counts, check_durable, run_peer
from benchmarks.peers import run as harness

COMMITS = 300


@pytest.fixture
def table(dsn: str, schema: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"create schema {schema}")
        conn.execute(f"create table {schema}.steps (n int)")
    return f"{schema}.steps"


def commit_rows(dsn: str, table: str, synchronous_commit: str) -> None:
    with psycopg.connect(dsn, autocommit=True, options=f"-csynchronous_commit={synchronous_commit}") as conn:
        for n in range(COMMITS):
            conn.execute(f"insert into {table} values (%s)", (n,))


@pytest.mark.parametrize("stored", [COMMITS - 1, COMMITS + 1])
def test_a_checkpoint_too_few_or_too_many_is_found(dsn: str, table: str, stored: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"insert into {table} select i from generate_series(1, {stored}) i")
    done = [Checked(200, 1), Checked(90, 4)]
    with pytest.raises(PeerFailed, match=f"300 steps were acknowledged, but the server has {stored}"):
        check_counts(dsn, f"select count(*) from {table}", done, warmed=10)


def test_counts_that_agree_are_reported(dsn: str, table: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"insert into {table} select i from generate_series(1, {COMMITS}) i")
    assert check_counts(dsn, f"select count(*) from {table}", [Checked(COMMITS, 7)]) == {"checkpoints": COMMITS}


def test_durable_commits_pass(dsn: str, table: str) -> None:
    before = harness._wal_syncs(dsn)
    commit_rows(dsn, table, "on")
    checked = check_durable(dsn, before, [Checked(COMMITS, 1)])
    assert checked["wal_syncs"] >= checked["wal_syncs_needed"] == COMMITS


def test_commits_that_do_not_wait_for_the_disk_are_found_out(dsn: str, table: str) -> None:
    before = harness._wal_syncs(dsn)
    commit_rows(dsn, table, "off")
    with pytest.raises(PeerFailed, match="at least 300 were needed"):
        check_durable(dsn, before, [Checked(COMMITS, 1)])


def test_a_server_without_durable_commits_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn, options="-csynchronous_commit=off") as conn:
        loose = conn.info.dsn + " options='-csynchronous_commit=off'"
    with pytest.raises(PeerFailed, match="say nothing about durable steps"):
        harness._wal_syncs(loose)


def test_a_peer_that_is_not_installed_says_how_to_get_it(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = harness.Peer(("no_such_package_here",), "select 1", (harness.Trial(1),))
    monkeypatch.setitem(harness.PEERS, "absent", peer)
    with pytest.raises(PeerMissing, match=re.escape("pip install 'pgdurable[peers]'")):
        run_peer("absent", dsn, 1.0)


def test_every_peer_starts_with_one_caller_alone() -> None:
    for name, peer in harness.PEERS.items():
        assert peer.trials[0].concurrency == 1, name
        assert all(trial.concurrency % trial.processes == 0 for trial in peer.trials), name
