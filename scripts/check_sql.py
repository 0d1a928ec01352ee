"""Looks for what a hostile role could subvert in the SQL that is installed; pgspot does the looking.

That is: names and operators resolved by the caller's search_path, `security definer` without a path of its own, SQL
built from texts. `pgdurable migrate` runs under `search_path = pg_catalog, pg_temp`, so the scripts are checked under
it. Left out: PS002 and PS015, `create or replace` of what somebody else may have put there before, since migrate
refuses a schema that is not empty.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
IGNORED = ("PS002", "PS015")
# Procedures that commit can have no search_path of their own; they name everything in full.
WITHOUT_PATH = (
    "durable.prune(older_than interval)",
    "durable.bulk(operation text,fits jsonb,options jsonb,older_than interval,newer_than interval,INOUT done bigint,"
    "INOUT held bigint)",
    "durable.watch(max_time interval)",
    "durable.wait_for_end(id text,timeout interval,INOUT status text)",
    "durable.work(max_time interval,max_steps bigint,wait boolean,queues text[])",
)


def main() -> int:
    texts = ["set search_path = pg_catalog, pg_temp;"]
    for folder in ("migrations", "functions", "views"):
        texts += [file.read_text() for file in sorted((ROOT / "sql" / folder).glob("*.sql"))]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "installed.sql"
        script.write_text("\n".join(texts).replace("@extschema@", "durable"))
        pgspot = Path(sys.executable).with_name("pgspot")
        words = [word for code in IGNORED for word in ("--ignore", code)]
        words += [word for name in WITHOUT_PATH for word in ("--proc-without-search-path", name)]
        done = subprocess.run([pgspot, *words, script], capture_output=True, text=True)
    if done.returncode or "Errors: 0 Warnings: 0 Unknown: 0" not in done.stdout:
        sys.stdout.write(done.stdout + done.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
