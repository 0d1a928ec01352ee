#!/usr/bin/env bash
# Puts the library as it was at schema version 9 into .test-servers/library-9, for the tests of rolling deploys: its
# source as git has it, with its core built in place. Run by `make test`; the second time it has nothing to do. Where
# the clone has no history that reaches so far, the tests say so (in CI by failing).
set -euo pipefail
cd "$(dirname "$0")/.."

COMMIT=68322283b2f50360d9e8cca5da0607eefe6ce3f0
folder=.test-servers/library-9
say() { printf 'set-up: %s\n' "$*"; }

[ ! -f "$folder/built" ] || exit 0
git cat-file -e "$COMMIT^{commit}" 2>/dev/null || { say "no library of schema version 9: git has no $COMMIT here"; exit 0; }
say "building the library of schema version 9"
rm -rf "$folder"
mkdir -p "$folder"
git archive "$COMMIT" setup.py pyproject.toml README.md MANIFEST.in src sql | tar -x -C "$folder"
(cd "$folder" && "$OLDPWD/.venv/bin/python" setup.py --quiet build_ext --inplace --parallel 2 >build.log 2>&1) ||
    { cat "$folder/build.log" >&2; exit 1; }
touch "$folder/built"
