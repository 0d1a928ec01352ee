#!/usr/bin/env bash
# Builds the libpq that wheels carry: with TLS, without LDAP, Kerberos, OAuth and translations.
#
#   wheels/libpq.sh PREFIX      PREFIX/bin/pg_config is then what $PG_CONFIG names to build the core
#
# OpenSSL is built first, so that every platform has the same one. Sources are downloaded and compared with the
# digests in versions.env. Instead of a download:
#   PGSRC=FILE            a tarball of PostgreSQL's source; one of another release needs PGSRC_SHA256=DIGEST too
#   OPENSSL_SRC=FILE      the same for OpenSSL, with OPENSSL_SRC_SHA256=DIGEST
#   OPENSSL_SRC=system    no build of OpenSSL: link the machine's, 1.1.1 or newer
# A PREFIX that this script has already filled from the same inputs is left as it is. Exit status 3: a source could
# not be downloaded.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=wheels/versions.env
. "$here/versions.env"

say() { printf 'libpq: %s\n' "$*"; }
fail() { printf 'libpq: %s\n' "$1" >&2; exit "${2:-1}"; }
sha256() { if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi | cut -d ' ' -f 1; }

[ $# = 1 ] || fail "usage: wheels/libpq.sh PREFIX"
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
work=$prefix/build
jobs=$(getconf _NPROCESSORS_ONLN)  # and ${x[@]+"${x[@]}"} below: macOS has a bash that takes an empty array for unset
system=$(uname -s)

# What lies in PREFIX depends on nothing but these.
inputs=$(cat "$here/versions.env" "$0" | sha256)
inputs="$inputs ${PGSRC_SHA256:-} ${OPENSSL_SRC_SHA256:-} $([ "${OPENSSL_SRC:-}" != system ] || echo system)"
inputs="$inputs ${CC:-cc} ${CFLAGS:-} ${MACOSX_DEPLOYMENT_TARGET:-} $prefix"
if [ "$(cat "$prefix/inputs" 2>/dev/null)" = "$inputs" ]; then
    say "$("$prefix/bin/pg_config" --version) is built already in $prefix"
    exit
fi

# In the containers and machines of cibuildwheel, what the two builds need is added here; elsewhere it is only named.
if [ "${CIBUILDWHEEL:-}" = 1 ]; then
    if command -v dnf >/dev/null; then dnf -q -y install perl-core bison flex; fi
    if command -v apk >/dev/null; then apk add --quiet perl bison flex linux-headers; fi
fi
for tool in "${CC:-cc}" make perl bison flex tar; do
    command -v "$tool" >/dev/null || fail "$tool is needed to build libpq, and is not here (Debian: apt-get install gcc make perl bison flex tar)"
done

# source_of NAME URL DIGEST [FILE [ITS_DIGEST]] prints the path of a tarball whose digest is right.
source_of() {
    local name=$1 url=$2 digest=$3 file=${4:-} found
    if [ -n "$file" ]; then
        digest=${5:-$digest}
    else
        file=$work/${url##*/}
        if [ ! -f "$file" ]; then
            say "downloading $url" >&2
            curl --fail --silent --show-error --location --retry 2 --connect-timeout 15 --output "$file.part" "$url" ||
                fail "could not download the source of $name; a file of yours will do: see the head of wheels/libpq.sh" 3
            mv "$file.part" "$file"
        fi
    fi
    [ -f "$file" ] || fail "$file: there is no such file"
    found=$(sha256 "$file")
    [ "$found" = "$digest" ] ||
        fail "$file has not the digest that is expected of $name's source: $found instead of $digest"
    printf '%s\n' "$file"
}

# unpack FILE FOLDER unpacks a tarball so that FOLDER is its top.
unpack() {
    rm -rf "$2"
    mkdir -p "$2"
    tar -xf "$1" -C "$2" --strip-components 1
}

# logged NAME COMMAND... keeps what a command says in a file and shows its end when it fails.
logged() {
    local log=$work/$1.log
    shift
    "$@" >>"$log" 2>&1 </dev/null || { tail -n 40 "$log" >&2; fail "failed: $* (the whole log: $log)"; }
}

build_openssl() {
    unpack "$1" "$work/openssl"
    cd "$work/openssl"
    local rpath=()
    [ "$system" = Darwin ] || rpath=("-Wl,-rpath,$prefix/lib")
    # openssldir is where sslrootcert=system looks for certificates: the one folder that most systems have.
    # No modules and no openssl.cnf: the host's are for the host's own OpenSSL, and may ask for what this one lacks.
    logged openssl ./config shared no-tests no-docs no-apps no-module no-legacy no-autoload-config \
        --prefix="$prefix" --libdir=lib --openssldir=/etc/ssl ${rpath[@]+"${rpath[@]}"}
    logged openssl make -s -j "$jobs"
    logged openssl make -s install_sw
}

build_libpq() {
    unpack "$1" "$work/postgresql"
    shift
    cd "$work/postgresql"
    # A DSN without a host means the same socket here as with psycopg's wheels and with the distributions' libpq.
    local manual=src/include/pg_config_manual.h
    perl -pi -e 's|(define DEFAULT_PGSOCKET_DIR\s+)"/tmp"|$1"/var/run/postgresql"|' $manual
    grep -q '"/var/run/postgresql"' $manual || fail "PostgreSQL $POSTGRESQL_VERSION names its socket folder elsewhere"
    logged postgresql ./configure --prefix="$prefix" --sysconfdir=/etc/postgresql-common --with-ssl=openssl \
        --without-ldap --without-gssapi --without-libcurl --without-icu --without-readline --without-zlib "$@"
    logged postgresql make -s -j "$jobs" -C src/backend generated-headers
    local part
    for part in include common port interfaces/libpq bin/pg_config; do
        logged postgresql make -s -j "$jobs" -C "src/$part"
    done
    for part in include interfaces/libpq bin/pg_config; do
        logged postgresql make -s -C "src/$part" install
    done
}

rm -f "$prefix/inputs"
mkdir -p "$work"
rm -f "$work"/*.log
postgresql=$(source_of PostgreSQL "$POSTGRESQL_URL" "$POSTGRESQL_SHA256" "${PGSRC:-}" "${PGSRC_SHA256:-}")
options=()
if [ "${OPENSSL_SRC:-}" != system ]; then
    openssl=$(source_of OpenSSL "$OPENSSL_URL" "$OPENSSL_SHA256" "${OPENSSL_SRC:-}" "${OPENSSL_SRC_SHA256:-}")
    say "building OpenSSL from ${openssl##*/}"
    (build_openssl "$openssl")
    options=(--with-includes="$prefix/include" --with-libraries="$prefix/lib")
fi
say "building libpq from ${postgresql##*/}"
(build_libpq "$postgresql" ${options[@]+"${options[@]}"})
rm -rf "$work/openssl" "$work/postgresql"
printf '%s\n' "$inputs" >"$prefix/inputs"
say "$("$prefix/bin/pg_config" --version) is in $prefix"
