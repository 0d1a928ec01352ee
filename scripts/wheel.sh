#!/usr/bin/env bash
# Builds the source distribution and, from it, the wheel; puts libpq inside; checks both; tries the wheel.
#
#   make wheel                           libpq: the one of wheels/libpq.sh, which downloads its sources or takes
#                                        PGSRC=... and OPENSSL_SRC=...; where neither can be had, the machine's own
#   make wheel PG_CONFIG=/path/pg_config libpq: that one
#   make wheel RELEASE=1                 no libpq but that of wheels/libpq.sh will do
#   SMOKE_ARGS=--without-tls-server      where no PostgreSQL with TLS is installed to try the wheel with
#
# The results are in dist/. What is on the way lies in build/wheel/.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'wheel: %s\n' "$*"; }
fail() { printf 'wheel: %s\n' "$*" >&2; exit 1; }

python=${PYTHON:-.venv/bin/python}
work=$PWD/build/wheel
tools=$work/tools
mkdir -p "$work"

want=$(cat wheels/tools.txt <("$python" -V) | sha256sum)
if [ "$(cat "$tools/stamp" 2>/dev/null)" != "$want" ]; then
    say "installing the tools of wheels/tools.txt"
    rm -rf "$tools"
    "$python" -m venv "$tools"
    "$tools/bin/python" -m pip --quiet --disable-pip-version-check install -r wheels/tools.txt
    printf '%s' "$want" >"$tools/stamp"
fi
PATH=$tools/bin:$PATH

if [ -z "${PG_CONFIG:-}" ]; then
    status=0
    wheels/libpq.sh "$work/libpq" || status=$?
    if [ "$status" = 0 ]; then
        export PG_CONFIG=$work/libpq/bin/pg_config
    elif [ "$status" = 3 ] && [ -z "${RELEASE:-}" ]; then
        PG_CONFIG=$(command -v pg_config) || fail "and there is no pg_config on the PATH either"
        export PG_CONFIG
        say "so the wheel gets the machine's own libpq, and all that this one needs: not a wheel to publish"
    else
        exit "$status"
    fi
fi

# A Python of one's own building may want its own folder searched at run time: that is no business of the wheel's.
LDSHARED=${LDSHARED:-$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("LDSHARED"))')}
LDSHARED=$(sed -E 's/ -Wl,(-rpath|-R)[,=][^ ]+//g' <<<"$LDSHARED")
export LDSHARED

rm -rf dist "$work/raw"
say "building the source distribution, and the wheel from it"
if ! python -m build --outdir "$work/raw" . >"$work/build.log" 2>&1; then
    tail -n 40 "$work/build.log" >&2
    fail "the build failed; all it said is in $work/build.log"
fi
sed -n 's/^ *pgdurable: building/wheel: building/p' "$work/build.log"

mkdir -p dist
mv "$work"/raw/*.tar.gz dist/
case $(uname -s) in
    Linux) auditwheel --verbose repair --wheel-dir dist "$work"/raw/*.whl >"$work/repair.log" 2>&1 ;;
    Darwin) delocate-wheel --wheel-dir dist "$work"/raw/*.whl >"$work/repair.log" 2>&1 ;;
    *) fail "nothing is known here of how to repair a wheel" ;;
esac || { tail -n 40 "$work/repair.log" >&2; fail "the repair failed"; }
wheel=$(echo dist/*.whl)
say "repaired: ${wheel#dist/}"
python -m zipfile -l "$wheel" | awk '/(\.libs|\.dylibs)\/[^ ]/ {printf "wheel:   carries %s, %d kB\n", $1, $NF / 1024}'

python scripts/check_wheel.py dist/*.tar.gz "$wheel"
check-wheel-contents "$wheel"
twine check --strict dist/*
if command -v cibuildwheel >/dev/null; then
    python scripts/check_matrix.py
fi
# shellcheck disable=SC2086  # one word per argument
python scripts/smoke_wheel.py "$wheel" --cover "$PG_CONFIG" "$("$PG_CONFIG" --libdir)"/libpq.* ${SMOKE_ARGS:-}
say "done: $(cd dist && echo *)"
