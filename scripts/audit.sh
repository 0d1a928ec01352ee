#!/usr/bin/env bash
# Asks the advisory database of PyPI for everything that pgdurable installs, extras for running it included.
# Exit code 1: a known vulnerability. 2: something could not be looked up, so nothing is known.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# What would be installed, and the tool that looks, are kept apart.
"$python" -m venv "$folder/audited"
"$python" -m venv "$folder/tool"
"$folder/tool/bin/pip" --quiet --disable-pip-version-check install 'pip-audit>=2.7'
"$folder/tool/bin/python" - >"$folder/requirements.txt" <<'PY'
import pathlib, re
text = pathlib.Path("pyproject.toml").read_text()
for head in ("dependencies", "embedded", "pydantic", "crypto"):
    block = re.search(rf"^{head} = \[(.*?)\]\s*$", text, re.M | re.S)[1]
    for name in re.findall(r'"([^"]+)"', block):
        print(name)
PY
"$folder/audited/bin/pip" --quiet --disable-pip-version-check install -r "$folder/requirements.txt"
packages=("$folder"/audited/lib/python*/site-packages)
"$folder/tool/bin/pip-audit" --path "${packages[0]}" --format json --output "$folder/found.json" || true
"$folder/tool/bin/python" - "$folder/found.json" <<'PY'
import json, pathlib, sys
file = pathlib.Path(sys.argv[1])
if not file.exists():
    print("audit: the advisory database cannot be reached: nothing is known", file=sys.stderr)
    sys.exit(2)
packages = [p for p in json.loads(file.read_text())["dependencies"] if p["name"] not in ("pip", "setuptools")]
skipped = [p["name"] for p in packages if "skip_reason" in p]
bad = [(p["name"], p["version"], v["id"], v.get("fix_versions")) for p in packages for v in p.get("vulns", ())]
for name, version, advisory, fixed in bad:
    print(f"audit: {name} {version}: {advisory}, mended in {', '.join(fixed or []) or 'no version yet'}")
if skipped:
    print(f"audit: {len(skipped)} of {len(packages)} packages are unknown to the database: {', '.join(skipped)}")
print(f"audit: {len(bad)} known vulnerabilities in {len(packages) - len(skipped)} packages")
sys.exit(1 if bad else 2 if skipped else 0)
PY
