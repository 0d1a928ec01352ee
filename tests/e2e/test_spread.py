"""What a dead worker held goes to all the living, as far as each has room; nobody's is touched."""

from __future__ import annotations

from typing import Any

import pgdurable as pgd

from .namespace import Namespace, until


async def waits() -> Any:
    return await pgd.wait_signal("go")


WAITS = pgd.Workflow(waits)


async def test_the_living_share_what_a_dead_worker_held(ns: Namespace) -> None:
    """Polling alone would come 20 s later: it is the hint of the takeover that makes all of them look."""
    options: dict[str, Any] = {"poll_interval": 20, "park_after": 60}
    async with (
        ns.engine(WAITS, **options) as one,
        ns.engine(WAITS, **options) as two,
        ns.engine(WAITS, max_instances=100, **options) as small,
    ):
        mine = [await one.start("waits") for _ in range(20)]
        await until(lambda: one.metrics()["instances"] == 20, "its own instances run")
        owner = ns.instance(mine[0], "owner")
        dead = ns.one("select @.join_worker('killed', '[]', '1 min')")
        ns.sql(
            "insert into @.instances (id, workflow, version, input, status, owner, wake_at)"
            " select @.new_id(), 'waits', '1', '[]', 'running', %s, null from generate_series(1, 6000)",
            dead,
        )
        await until(lambda: ns.one("select count(*) from @.instances where owner = %s", dead) == 0, "all are taken")
        shares = dict(ns.sql("select w.name || w.id, count(*) from @.instances i join @.workers w on w.id = i.owner"
                             " where i.takeovers = 1 group by 1"))  # fmt: skip
        assert sum(shares.values()) == 6000
        taken = sorted(shares.values())
        assert taken[0] == 100  # as much as it has room for
        assert taken[1] > 1000
        assert ns.sql("select distinct owner, takeovers from @.instances where id = any(%s)",
                      [handle.instance_id for handle in mine]) == [(owner, 0)]  # fmt: skip
        await until(
            lambda: (
                small.metrics()["instances"] == 100 and one.metrics()["instances"] + two.metrics()["instances"] == 5920
            ),
            "each has them in memory",
        )
