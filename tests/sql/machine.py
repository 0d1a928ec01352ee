"""What the tests of the machine that runs SQL workflows share: defining, starting, running, and what became of it."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from store.namespace import Namespace

QUICK = {"max_attempts": 3, "initial": 0, "jitter": 0}


class Machine:
    """A namespace with a table `ledger` to write to, and pumps."""

    def __init__(self, ns: Namespace) -> None:
        self.ns = ns
        ns.main.execute(f"set search_path = {ns.schema}, public")
        ns.rows(
            "create table @.ledger (id bigint generated always as identity, word text, at timestamptz default now())"
        )

    def define(self, definition: Any, name: str | None = None, **options: Any) -> str:
        """Defines a workflow and returns its name."""
        name = name or f"w_{uuid.uuid4().hex[:8]}"
        given = {"name": name, "definition": Jsonb(definition), **options}
        places = ", ".join(f"{key} => %s" for key in given)
        self.ns.rows(f"select @.define({places})", *given.values())
        return name

    def start(self, workflow: str, input: Any = None, **options: Any) -> str:
        given = {"workflow": workflow, "input": Jsonb(input or {}), **options}
        places = ", ".join(f"{key} => %s" for key in given)
        id = self.ns.one(f"select @.start({places})", *given.values())
        return str(self.ns.one("select @.find_instance(%s)", id))

    def work(self, on: psycopg.Connection | None = None, **options: Any) -> None:
        given = {"max_time": "20 s", **options}
        places = ", ".join(f"{key} => %s" for key in given)
        self.ns.rows(f"call @.work({places})", *given.values(), on=on)

    def run(self, definition: Any, input: Any = None, **options: Any) -> str:
        """Defines, starts and pumps until nothing is due; returns the instance."""
        id = self.start(self.define(definition, **options), input)
        self.work()
        return id

    def status(self, id: str) -> str:
        return str(self.ns.one("select status from @.instances where id = %s", id))

    def workflow_of(self, id: str) -> str:
        return str(self.ns.one("select workflow from @.instances where id = %s", id))

    def output(self, id: str) -> Any:
        status, output, error = self.ns.rows("select status, output, error from @.instances where id = %s", id)[0]
        assert status == "completed", (status, error)
        return output

    def error(self, id: str, status: str = "failed") -> dict[str, Any]:
        found, error = self.ns.rows("select status, error from @.instances where id = %s", id)[0]
        assert found == status, (found, error)
        return dict(error)

    def history(self, id: str) -> list[tuple[str, str]]:
        return [
            (k, n)
            for k, n in self.ns.rows("select kind, name from @.history where instance_id = %s order by event_id", id)
        ]

    def ledger(self) -> list[str]:
        return [word for (word,) in self.ns.rows("select word from @.ledger order by id")]

    def clean(self) -> None:
        """Nothing is left over that an ended instance should have taken along."""
        left = self.ns.rows("""
            select 'task', instance_id::text from @.tasks
            union all select 'event', instance_id::text from @.events
            union all select 'run', r.instance_id::text from @.sql_runs r join @.instances i on i.id = r.instance_id
                       where i.status in ('completed', 'cancelled')
            union all select 'pump', id::text from @.workers where name like 'pump %%' and state = 'alive'""")
        assert left == []


def note(word: str) -> str:
    """A step that writes a word (which may hold references) to the ledger."""
    return f"insert into ledger (word) values ('{word}') returning word"
