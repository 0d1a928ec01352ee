#!/usr/bin/env bash
# Builds the core in a folder of its own and runs its tests where a mistake with memory shows: `asan`, `valgrind`, `fuzz`.
#
#   asan [pytest arguments]      AddressSanitizer and UBSan
#   valgrind [pytest arguments]  memcheck, with CPython's own habits suppressed; leaks of the core's own allocations fail
#   fuzz [seconds]               spoils a server's answers, guided by the code they reach; default 60
set -euo pipefail
cd "$(dirname "$0")/.."

what=$1; shift
home=$PWD/build/$what
python=$PWD/.venv/bin/python
seconds=${SANITIZE_SECONDS:-600}

build() {  # flags for compiler and linker
    local source=(src/pgdurable/*.p* src/pgdurable/*/*.p* setup.py "$0" tests/sanitize/*.c)
    local want; want=$(cat "${source[@]}" | sha256sum)$*
    if [ "$(cat "$home/stamp" 2>/dev/null)" != "$want" ]; then
        echo "$what: building the core into build/$what"
        rm -rf "$home"; mkdir -p "$home"
        PGDURABLE_OPTIMIZE=-O1 CFLAGS="$*" LDFLAGS="$*" "$python" setup.py --quiet build --parallel 2 --build-base "$home" --build-lib "$home/lib" \
            >"$home/build.log" 2>&1 || { cat "$home/build.log" >&2; exit 1; }
        printf '%s' "$want" >"$home/stamp"
    fi
    export PYTHONPATH=$home/lib PYTHONMALLOC=malloc
}

runtime() { "${CC:-gcc}" -print-file-name="$1"; }

# Only this process and the Python children that tests start for the purpose run with the runtime, not the servers.
with_runtime() {
    export PGDURABLE_TEST_PRELOAD=$1; shift
    rm -f "$home"/report.*
    local status=0
    LD_PRELOAD=$PGDURABLE_TEST_PRELOAD timeout "$seconds" "$python" -c '
import os, runpy, sys
os.environ.pop("LD_PRELOAD")
import pgdurable._core
print(sys.argv[1] + ": the core is", os.path.relpath(pgdurable._core.__file__))
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__") if not sys.argv[0].endswith(".py") else runpy.run_path(
    sys.argv[0], run_name="__main__")' "$what" "$@" || status=$?
    # Written to files: pytest holds what is written to stderr, and loses it when the process aborts.
    cat "$home"/report.* >&2 2>/dev/null && return 1
    [ $status = 0 ] || echo "$what: exit status $status" >&2
    return $status
}

sanitizers="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
# Leaks are valgrind's business: LeakSanitizer cannot tell CPython's from ours.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1:handle_segv=1:log_path=$home/report
export UBSAN_OPTIONS=print_stacktrace=0:log_path=$home/report:suppressions=$PWD/tests/sanitize/ubsan.supp
some_tests="tests/core tests/e2e/test_contract.py"

case $what in
asan)
    build "$sanitizers"
    # shellcheck disable=SC2086,SC2068
    with_runtime "$(runtime libasan.so):$(runtime libubsan.so)" pytest -q --capture=sys -p no:cacheprovider ${@:-$some_tests}
    ;;
valgrind)
    command -v valgrind >/dev/null || { echo "valgrind: not installed (Debian: apt-get install valgrind)" >&2; exit 1; }
    build "-O1"
    status=0
    rm -f "$home"/memcheck.*.log
    # shellcheck disable=SC2086,SC2068
    timeout "$seconds" valgrind --tool=memcheck --leak-check=full --show-leak-kinds=definite --num-callers=30 \
        --suppressions=tests/sanitize/valgrind.supp --log-file="$home/memcheck.%p.log" --error-limit=no \
        "$python" -m pytest -q -p no:cacheprovider -p no:faulthandler -o timeout=0 \
        -k "not any_order and not bytes_spoilt and not anywhere" \
        ${@:-tests/core/test_decoder.py tests/core/test_again.py} || status=$?
    "$python" tests/sanitize/memcheck.py "$home"/memcheck.*.log || status=1
    exit $status
    ;;
fuzz)
    build "$sanitizers -fsanitize-coverage=trace-pc -DPGDURABLE_COVERAGE"
    "${CC:-gcc}" -shared -fPIC -O2 -o "$home/cover.so" tests/sanitize/cover.c
    with_runtime "$(runtime libasan.so):$(runtime libubsan.so):$home/cover.so" tests/sanitize/fuzz.py \
        "$home/cover.so" "${1:-60}"
    ;;
*)
    sed -n '2,7p' "$0" >&2; exit 2 ;;
esac
