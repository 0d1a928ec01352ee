"""What the tests of tasks share: an instance that waits for a step, and how that step has ended."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from e2e.namespace import Namespace, until
from psycopg.types.json import Jsonb


def ask(
    ns: Namespace, kind: str, name: str, request: dict[str, Any] | None = None, *, seq: int = 1,
    instance: uuid.UUID | None = None, **columns: Any,
) -> uuid.UUID:  # fmt: skip
    """Puts a task beside an instance of a workflow in SQL, as the machine does. Returns the instance."""
    if instance is None:
        instance = ns.one("select @.new_id()")
        ns.sql(
            "insert into @.instances (id, workflow, version, status, wake_at, started_at, input)"
            " values (%s, 'sql tasks', '1', 'waiting', null, now(), '{}')",
            instance,
        )
    row = {
        "instance_id": instance, "seq": seq, "kind": kind, "name": name, "submitted_by": "nobody",
        "request": Jsonb(request or {}), **columns,
    }  # fmt: skip
    ns.sql(
        f"insert into @.tasks ({', '.join(row)}) values ({', '.join(['%s'] * len(row))})",
        *row.values(),
    )
    ns.sql("select pg_notify(@.channel(), 'task')")
    return instance


def ends(ns: Namespace, instance: uuid.UUID) -> list[dict[str, Any]]:
    """The payloads of the events that told the instance of ends."""
    rows = ns.sql("select payload from @.events where instance_id = %s and kind = 'task' order by seq", instance)
    return [payload for (payload,) in rows]


async def ending(ns: Namespace, instance: uuid.UUID, seq: int = 1) -> dict[str, Any]:
    """How that task has ended, when it has."""

    def there() -> list[dict[str, Any]]:
        return [end for end in ends(ns, instance) if end["seq"] == seq]

    (found,) = await until(there, f"task {seq} of {instance} has ended")
    assert not ns.one("select count(*) from @.tasks where instance_id = %s and seq = %s", instance, seq)
    return found


async def owned(ns: Namespace, instance: uuid.UUID) -> int:
    """The worker that has the instance's task, when one has."""
    return await until(
        lambda: ns.one("select max(owner) from @.tasks where instance_id = %s", instance), "a worker has the task"
    )


async def all_of(*waits: Any) -> list[Any]:
    return list(await asyncio.gather(*waits))
