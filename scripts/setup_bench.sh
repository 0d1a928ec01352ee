#!/usr/bin/env bash
# Installs into .venv what the benchmarks need besides: numpy, matplotlib, and the libraries they compare with.
# Run by `make bench` and `make bench-quick`, after scripts/setup.sh; the second time it has nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.stamp-benchmarks
want=$(sha256sum pyproject.toml | cut -c1-16)
[ "$(cat "$stamp" 2>/dev/null)" != "$want" ] || exit 0
echo 'set-up: installing what the benchmarks need'
export PGDURABLE_BUILD_CORE=0
pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check --no-input install --no-build-isolation --editable)
"${pip[@]}" '.[bench]' || { echo 'set-up: pip could not install them; the lines above say why' >&2; exit 1; }
"${pip[@]}" '.[peers]' || echo 'set-up: no libraries to compare with here; the benchmarks leave them out' >&2
printf '%s' "$want" > "$stamp"
