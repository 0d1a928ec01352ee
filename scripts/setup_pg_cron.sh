#!/usr/bin/env bash
# Puts a PostgreSQL 15 with pg_cron, Debian 12's, into .test-servers for the test of workflows in SQL that pg_cron drives.
# Run by `make test`; the second time it has nothing to do. As setup_pgbouncer.sh: nothing is installed, it need not be
# root, and what cannot be had is said; the test then says so too (in CI by failing).
# PGDURABLE_TEST_PG_CRON=/usr/lib/postgresql/17/bin names a server of your own that has the extension.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'set-up: %s\n' "$*"; }
without() { say "no pg_cron for the tests: $1"; exit 0; }

[ -z "${PGDURABLE_TEST_PG_CRON:-}" ] || exit 0
folder=.test-servers/pg_cron
[ ! -x "$folder/usr/lib/postgresql/15/bin/postgres" ] || exit 0
command -v apt-get >/dev/null && command -v dpkg >/dev/null || without "it is a package of Debian's"

mirror() (
    # shellcheck disable=SC1091  # the system's
    . /etc/os-release
    [ "${ID:-}" = debian ] || exit 0
    local found
    found=$(apt-get -o Dir::State::lists="$1" update --print-uris 2>/dev/null) || true
    sed -n "s|^'\\(.*\\)/dists/${VERSION_CODENAME:-}/InRelease'.*|\\1|p;T;q" <<<"$found"
)

mkdir -p .test-servers
if command -v flock >/dev/null; then
    exec 9>.test-servers/.lock-pg-cron
    flock 9
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg work=$PWD/$folder.new
rm -rf "$folder" "$work"
mkdir -p "$work"/{lists,cache/archives}/partial
mirror=$(mirror "$work/lists")
[ -f "$keyring" ] && [ -n "$mirror" ] || { rm -rf "$work"; without "this system has no mirror of Debian's"; }
say "fetching PostgreSQL 15 with pg_cron of Debian's bookworm"
echo "deb [signed-by=$keyring] $mirror bookworm main" > "$work/sources.list"
apt=(apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=-
    -o Dir::State::lists="$work/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache"
    -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::Languages=none
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
[ "$(id -u)" != 0 ] || apt+=(-o APT::Sandbox::User=root)
needed='postgresql-15 postgresql-client-15 postgresql-15-cron libpq5 libicu72 libxml2 libldap-2.5-0 libssl3 liblz4-1 libsasl2-2'
# shellcheck disable=SC2086  # one word per package
if ! { "${apt[@]}" update && (cd "$work/cache" && "${apt[@]}" download $needed); } </dev/null >"$work/log" 2>&1; then
    tail -5 "$work/log" >&2
    rm -rf "$work"
    without "the packages cannot be fetched; the lines above say why"
fi
for package in "$work"/cache/*.deb; do dpkg -x "$package" "$work"; done
rm -rf "$work"/{cache,lists,log,sources.list}
LD_LIBRARY_PATH=$(printf '%s:' "$work"/usr/lib/*-linux-gnu) "$work/usr/lib/postgresql/15/bin/postgres" -V >/dev/null ||
    { rm -rf "$work"; without 'it does not run here'; }
mv "$work" "$folder"
