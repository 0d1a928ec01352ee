"""One suite for both stores: each scenario is written once and holds on PostgreSQL and in the simulation.

How to add one for your feature: write it in a module `test_<topic>.py` here::

    from .worlds import World, scenario

    @scenario
    async def test_a_signal_wakes_it(world: World) -> None:
        handle = await world.start(waits, "a")
        await handle.signal("go", 1)
        assert await handle.result(timeout=20) == 1

It becomes three tests: `simulation`, `crashes` (in the simulation, again and again, with a crash before and after each
commit) and `postgres` (a real engine on a real server). So:

- Assert what holds whatever crashes: outcomes, the order of history, what a handle tells. How often a step ran is only
  certain without a crash: `@scenario(crashes=False)`, with the reason beside it.
- `await world.crash()` kills the worker (its memory and connections) and lets another go on: on PostgreSQL too.
- `await world.pass_time(0.05)` lets that many seconds pass: really, on PostgreSQL. So keep waits short, and wait for
  conditions (`await world.until(...)`), never for luck. A wait that must not be reached may be long: `timeout=3600`.
- `world.client` is the client of either store: what your feature adds to `Client` is there under its own name, and
  `world.simulated` says which one it is, where a scenario cannot be the same.
- Workflows and steps are defined at module level or in the scenario; pass workflows to `start` as they are.

What the simulation lacks for your feature shows as an error that names the query or the kind of write: its counterpart
is a function in `src/pgdurable/testing/_queries.py` (what clients ask) or `_writes.py` (what rides in a commit).
"""
