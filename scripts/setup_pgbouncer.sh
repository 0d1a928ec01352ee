#!/usr/bin/env bash
# Puts the two PgBouncers that the tests of poolers need into .test-servers: Debian 12's 1.18, which knows nothing of
# prepared statements, and Debian 13's 1.24, which does. Run by `make test`; the second time it has nothing to do.
#
# Nothing on the system changes, and it need not be root: the packages, with the libraries and the loader that belong
# to them, are fetched from the mirror this system uses and unpacked there. What cannot be had is said; the tests then
# say so too (in CI by failing). PGDURABLE_TEST_PGBOUNCER=/path/one:/path/two names programs of your own instead.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'set-up: %s\n' "$*"; }
without() { say "no PgBouncer $1 for the tests: $2"; exit 0; }

[ -z "${PGDURABLE_TEST_PGBOUNCER:-}" ] || exit 0

declare -A suites=([1.18]=bookworm [1.24]=trixie) packages=(
    [1.18]='libc-ares2 libevent-2.1-7 libssl3 liblz4-1 liblzma5 libgcrypt20 libgpg-error0'
    [1.24]='libcares2 libevent-2.1-7t64 libssl3t64 zlib1g'
)
needed='pgbouncer libc6 libpam0g libsystemd0 libaudit1 libcap-ng0 libcap2 libzstd1'

# Where this system's own packages come from, when it is a Debian. Asked in a way that needs no lists to be there yet.
mirror() (
    # shellcheck disable=SC1091  # the system's
    . /etc/os-release
    [ "${ID:-}" = debian ] || exit 0
    local found
    found=$(apt-get -o Dir::State::lists="$1" update --print-uris 2>/dev/null) || true
    sed -n "s|^'\\(.*\\)/dists/${VERSION_CODENAME:-}/InRelease'.*|\\1|p;T;q" <<<"$found"
)

fetch() {
    local version=$1 folder=.test-servers/pgbouncer-$1
    [ ! -x "$folder/pgbouncer" ] || return 0
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || without "$version" "they are Debian's packages"
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirror work=$PWD/$folder.new
    rm -rf "$folder" "$work"
    mkdir -p "$work"/{lists,cache/archives}/partial "$work/files"
    mirror=$(mirror "$work/lists")
    if [ ! -f "$keyring" ] || [ -z "$mirror" ]; then
        rm -rf "$work"
        without "$version" "this system has no mirror of Debian's"
    fi
    say "fetching PgBouncer $version of Debian's ${suites[$version]}"
    echo "deb [signed-by=$keyring] $mirror ${suites[$version]} main" > "$work/sources.list"
    local apt=(apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=-
        -o Dir::State::lists="$work/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache"
        -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::Languages=none
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
    [ "$(id -u)" != 0 ] || apt+=(-o APT::Sandbox::User=root)
    # shellcheck disable=SC2086  # one word per package
    if ! { "${apt[@]}" update && (cd "$work/cache" && "${apt[@]}" download $needed ${packages[$version]}); } \
        </dev/null >"$work/log" 2>&1; then
        tail -5 "$work/log" >&2
        rm -rf "$work"
        without "$version" "the packages cannot be fetched; the lines above say why"
    fi
    local package
    for package in "$work"/cache/*.deb; do dpkg -x "$package" "$work/files"; done
    rm -rf "$work"/{cache,lists,log,sources.list}
    local loader
    loader=$(cd "$work" && find files -name 'ld-linux*.so*' | sort | head -1)
    cat > "$work/pgbouncer" <<WRAPPER
#!/bin/sh
# Its own loader and libraries, not the system's: made by scripts/setup_pgbouncer.sh.
here=\$(cd "\$(dirname "\$0")" && pwd)
libs=\$(printf '%s:' "\$here"/files/lib/*-linux-gnu "\$here"/files/usr/lib/*-linux-gnu)
exec "\$here/$loader" --library-path "\$libs" "\$here/files/usr/sbin/pgbouncer" "\$@"
WRAPPER
    chmod +x "$work/pgbouncer"
    "$work/pgbouncer" -V >/dev/null || { rm -rf "$work"; without "$version" 'it does not run here'; }
    mv "$work" "$folder"
}

mkdir -p .test-servers
if command -v flock >/dev/null; then
    exec 9>.test-servers/.lock
    flock 9
fi
(fetch 1.18)
(fetch 1.24)
