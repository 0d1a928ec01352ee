#!/usr/bin/env bash
# Puts what the external worker in Node needs into .test-servers/node, for its test. Run by `make test`; the second time it
# has nothing to do. Where there is no Node, or its registry cannot be reached, the test says so (in CI by failing).
set -euo pipefail
cd "$(dirname "$0")/.."

folder=.test-servers/node
say() { printf 'set-up: %s\n' "$*"; }
command -v node >/dev/null && command -v npm >/dev/null || { say "no Node here: its worker is not tested"; exit 0; }
want=$(sha256sum examples/external/node/package.json | cut -c1-16)
[ "$(cat "$folder/.stamp" 2>/dev/null)" != "$want" ] || exit 0
mkdir -p "$folder"
cp examples/external/node/package.json "$folder/"
say "fetching the library that the worker in Node needs"
if ! (cd "$folder" && npm install --silent --no-audit --no-fund --ignore-scripts) >"$folder/log" 2>&1; then
    tail -5 "$folder/log" >&2
    say "it cannot be fetched; the lines above say why"
    exit 0
fi
printf '%s' "$want" > "$folder/.stamp"
