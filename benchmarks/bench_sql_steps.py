"""Steps of SQL workflows per second, executed in the database by pumps: at first, and after many.

Each instance runs ten steps, each an UPDATE of one row by primary key, with a reference to its input; pumps are
sessions in `call durable.work`. Instances are started in rounds; the rate of each is printed, so what wears out shows.

    python benchmarks/bench_sql_steps.py [--pumps 2] [--rounds 10] [--instances 2000] [--dsn ...]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import threading
import time
from collections.abc import Iterator

import psycopg

from pgdurable._store.migrations import migrate
from pgdurable.embedded import EmbeddedServer

STEPS = 10
ROWS = 100_000
SCHEMA = "bench_sql_steps"


def prepare(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"drop schema if exists {SCHEMA} cascade")
        migrate(dsn, SCHEMA)
        conn.execute(f"set search_path = {SCHEMA}, public")
        conn.execute("create table accounts (id int primary key, balance bigint not null) with (fillfactor = 50)")
        conn.execute("insert into accounts select n, 0 from generate_series(1, %s) n", (ROWS,))
        conn.execute("vacuum analyze accounts")
        steps = [f"update accounts set balance = balance + {n} where id = $account" for n in range(1, STEPS + 1)]
        conn.execute("select define('ten_steps', %s::jsonb)", (json.dumps(steps),))


def one_round(dsn: str, pumps: int, instances: int, done: int) -> float:
    """Starts instances, runs them, and returns steps per second from the first pump's call to the last's end."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            f"""select {SCHEMA}.start_many(array_agg({SCHEMA}.new_id()), 'ten_steps', null, 'default',
                       array_agg(jsonb_build_object('account', 1 + (n * 7919 + %s) %% %s)::text))
                  from generate_series(1, %s) n""",
            (done, ROWS, instances),
        )

    def pump() -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"set search_path = {SCHEMA}, public")
            conn.execute(f"call {SCHEMA}.work(max_time => '10 min')")

    threads = [threading.Thread(target=pump) for _ in range(pumps)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return instances * STEPS / (time.perf_counter() - began)


@contextlib.contextmanager
def server(dsn: str | None) -> Iterator[str]:
    if dsn:
        yield dsn
    else:
        with EmbeddedServer(settings={"shared_buffers": "512MB"}) as embedded:
            yield embedded.dsn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pumps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--instances", type=int, default=2000, help="per round")
    parser.add_argument("--dsn", help="default: an embedded server")
    args = parser.parse_args()
    with server(args.dsn) as dsn:
        prepare(dsn)
        rates = []
        for number in range(args.rounds):
            rates.append(one_round(dsn, args.pumps, args.instances, number * args.instances))
            print(f"after {(number + 1) * args.instances * STEPS:>10,} steps: {rates[-1]:>8,.0f} steps/s", flush=True)
        with psycopg.connect(dsn) as conn:
            rows = conn.execute(f"select status, count(*) from {SCHEMA}.instances group by 1").fetchall()
            total = conn.execute(f"select sum(balance) from {SCHEMA}.accounts").fetchone()
        assert rows == [("completed", args.rounds * args.instances)], rows
        assert total == (args.rounds * args.instances * sum(range(1, STEPS + 1)),)
        third = max(1, args.rounds // 3)
        first, last = statistics.median(rates[:third]), statistics.median(rates[-third:])
        print(f"first third {first:,.0f} steps/s, last third {last:,.0f}: {last / first:.2f}")


if __name__ == "__main__":
    main()
