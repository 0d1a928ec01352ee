"""Checks what is inside a source distribution and the wheels made of it, against the folder they were made of.

    python scripts/check_wheel.py dist/pgdurable-1.0.tar.gz dist/*.whl

A wheel holds the modules, their types, the SQL and the compiled modules, and nothing else; its tags say what its
compiled modules are; on Linux libpq is inside, and only the core asks for it. Needs `packaging`, and `pyelftools`
for a repaired Linux wheel (auditwheel brings both). `--unrepaired` leaves out what auditwheel is yet to do.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
# What the source distribution takes along, and the parts of a checkout that are of no use in it.
SHIPPED_FOLDERS = ("src", "sql", "tests", "examples", "benchmarks", "scripts", "docs", "wheels")
SHIPPED_FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "Makefile", "README.md", "LICENSE", "CHANGELOG.md")
BUILT = re.compile(
    r"\.(so|py[cod]|o|a)$|^src/.*\.(c|cpp|html)$|(^|/)(__pycache__|build|dist|\.\w+_cache)(/|$)|egg-info"
)
# A compiled module's name ends as its interpreter says: .cpython-311-x86_64-linux-gnu.so, .cpython-314t-darwin.so.
COMPILED = re.compile(r"\.cpython-(?P<version>\d+t?)-(?P<machine>[\w-]+)\.so$")
OF_A_WHEEL = re.compile(r"(\.py|\.pyi|\.sql|/py\.typed|/_sql/extension/(Makefile|pgdurable\.control))$")
SYSTEM_PLATFORM = re.compile(r"(manylinux_2_\d+|manylinux2014|musllinux_1_\d+|macosx_\d+_\d+)_(x86_64|aarch64|arm64)$")


def shipped(root: Path) -> Iterator[PurePosixPath]:
    """The files of a checkout that belong into its source distribution."""
    for folder in SHIPPED_FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and not BUILT.search(name):
                yield PurePosixPath(name)
    yield from map(PurePosixPath, SHIPPED_FILES)


def complaints_about_sdist(path: Path, root: Path = ROOT) -> list[str]:
    """What is wrong with a source distribution, one line each."""
    found = []
    with tarfile.open(path) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers() if not member.isdir()}
        for name, member in members.items():
            if not member.isfile():
                found.append(f"{name} is a link")
            if BUILT.search(name) and "egg-info" not in name:
                found.append(f"{name} is a built file")
        for name in map(str, shipped(root)):
            if name not in members:
                found.append(f"{name} is missing")
        for source in sorted((root / "sql").rglob("*.sql")):
            name = source.relative_to(root).as_posix()
            for copy in (name, f"src/pgdurable/_{name}"):
                content = archive.extractfile(members[copy]) if copy in members else None
                if content is None or content.read() != source.read_bytes():
                    found.append(f"{copy} is not the checkout's {name}")
    return [f"{path.name}: {complaint}" for complaint in found]


def complaints_about_wheel(path: Path, root: Path = ROOT, *, repaired: bool = True) -> list[str]:
    """What is wrong with a wheel, one line each. `repaired`: libpq must be inside, and the platform a shared one."""
    with zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        found = _strangers(names) + _missing(archive, names, root) + _tags(archive, path, names, repaired)
        if repaired and "linux" in path.stem.rpartition("-")[2]:
            found += _libraries(archive, names)
    return [f"{path.name}: {complaint}" for complaint in found]


# What pytest loads by its entry point: beside the package, so that it need not be imported.
PLUGIN = "pytest_pgdurable.py"


def _strangers(names: list[str]) -> list[str]:
    found = []
    for name in names:
        top = PurePosixPath(name).parts[0]
        if top == "pgdurable.libs" or name.startswith("pgdurable/.dylibs/"):
            if not re.search(r"\.(so[.\d]*|dylib)$", name):
                found.append(f"{name} is no library")
        elif top == "pgdurable":
            if not OF_A_WHEEL.search(name) and not COMPILED.search(name):
                found.append(f"{name} does not belong into a wheel")
        elif name != PLUGIN and not re.fullmatch(r"pgdurable-[^/]+\.dist-info", top):
            found.append(f"{name} is outside the package")
        if {"tests", "conftest.py"} & set(PurePosixPath(name).parts):
            found.append(f"{name} is a test")
    return found


def _missing(archive: zipfile.ZipFile, names: list[str], root: Path) -> list[str]:
    package = root / "src" / "pgdurable"
    wanted = {
        path.relative_to(root / "src").as_posix(): path for path in package.rglob("*.py*") if path.suffix != ".pyc"
    }
    wanted = {name: path for name, path in wanted.items() if path.suffix in (".py", ".pyi")}
    wanted["pgdurable/py.typed"] = package / "py.typed"
    wanted |= {f"pgdurable/_{path.relative_to(root).as_posix()}": path for path in (root / "sql").rglob("*.sql")}
    found = [f"{name} is missing" for name in sorted(wanted) if name not in names]
    found += [
        f"{name} differs from the checkout's"
        for name, path in sorted(wanted.items())
        if name in names and archive.read(name) != path.read_bytes()
    ]
    return found + ["the licence is missing"] * (
        not any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    )


def _tags(archive: zipfile.ZipFile, path: Path, names: list[str], repaired: bool) -> list[str]:
    from packaging.utils import parse_wheel_filename

    found = []
    *_, tags = parse_wheel_filename(path.name)
    (wheel_file,) = [name for name in names if name.endswith(".dist-info/WHEEL")]
    says = Parser().parsestr(archive.read(wheel_file).decode())
    if set(says.get_all("Tag", [])) != set(map(str, tags)):
        found.append(f"WHEEL says {says.get_all('Tag')}, the name {sorted(map(str, tags))}")
    if says["Root-Is-Purelib"] != "false":
        found.append("WHEEL takes a wheel with compiled modules for a pure one")
    compiled = {name: match for name in names if (match := COMPILED.search(name)) and name.startswith("pgdurable/")}
    if not any(name.startswith("pgdurable/_core.") for name in compiled):
        found.append("there is no compiled core")
    for tag in tags:
        # Not the stable ABI: a compiled module is for one version, free-threaded or not.
        if tag.interpreter != tag.abi.removesuffix("t"):
            found.append(f"{tag}: no CPython has these two")
        for name, match in compiled.items():
            if f"cp{match['version']}" != tag.abi:
                found.append(f"{name} is not for {tag.abi}")
        machine = SYSTEM_PLATFORM.search(tag.platform)
        if machine is None:
            if repaired:
                found.append(f"{tag.platform} is no platform that others can install on")
        elif "linux" in tag.platform:
            found += [f"{n} is not for {machine[2]}" for n, m in compiled.items() if machine[2] not in m["machine"]]
            found += [
                f"{n} is not for {machine[1]}"
                for n, m in compiled.items()
                if ("musl" in m["machine"]) != ("musl" in machine[1])
            ]
    for name in compiled:
        source = name[: name.index(".")] + ".py"
        if source not in names and f"{source}i" not in names:  # of a .pyx, the .pyi is what can be read
            found.append(f"{name} is there without {source} or its .pyi")
    return found


def _libraries(archive: zipfile.ZipFile, names: list[str]) -> list[str]:
    """Follows what the compiled modules ask for: libpq from inside, the C library from outside, nothing else."""
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    found = []
    inside = {PurePosixPath(name).name for name in names if name.startswith("pgdurable.libs/")}
    outside = re.compile(r"(libc|libm|libpthread|libdl|librt|libresolv|ld-linux[\w-]*|libc\.musl-\w+)\.so(\.\d+)?$")
    for name in names:
        if not re.search(r"\.so[.\d]*$", name):
            continue
        file = ELFFile(io.BytesIO(archive.read(name)))
        dynamic = next(section for section in file.iter_sections() if isinstance(section, DynamicSection))
        needed = [tag.needed for tag in dynamic.iter_tags("DT_NEEDED")]
        found += [f"{name} asks for {n}" for n in needed if n not in inside and not outside.match(n)]
        paths = [
            p for tag in dynamic.iter_tags() for p in (getattr(tag, "runpath", ""), getattr(tag, "rpath", "")) if p
        ]
        found += [
            f"{name} looks for libraries in {p}"
            for p in paths
            if not all(q.startswith("$ORIGIN") for q in p.split(":"))
        ]
        asks_libpq = any(n.startswith("libpq") for n in needed)
        if name.startswith("pgdurable/") and asks_libpq != name.startswith("pgdurable/_core."):
            found.append(f"{name} {'asks' if asks_libpq else 'does not ask'} for libpq")
    if not any(name.startswith("libssl") for name in inside):
        found.append("the libpq inside has no TLS")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Check what is inside source distributions and wheels.")
    parser.add_argument("files", nargs="+", type=Path, help="*.tar.gz and *.whl")
    parser.add_argument("--unrepaired", action="store_true", help="the wheels have not seen auditwheel yet")
    options = parser.parse_args()
    found = []
    for file in options.files:
        if file.suffix == ".whl":
            found += complaints_about_wheel(file, repaired=not options.unrepaired)
        else:
            found += complaints_about_sdist(file)
    print("\n".join(found) or f"contents: {len(options.files)} files as they should be")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
