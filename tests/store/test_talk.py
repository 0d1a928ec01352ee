"""The SQL of states, updates, streams and queries: what each write does, and that a second time changes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgdurable._store.migrations import migrate


class Talk:
    def __init__(self, conn: psycopg.Connection[Any], schema: str) -> None:
        self.conn = conn
        self.schema = schema
        self.id = self.start()
        self.worker = self.one("select @.join_worker('w', '[]', '1 hour')")

    def rows(self, text: str, *args: Any) -> list[Any]:
        cursor = self.conn.execute(text.replace("@", self.schema), args)
        return cursor.fetchall() if cursor.description else []

    def one(self, text: str, *args: Any) -> Any:
        ((value,),) = self.rows(text, *args)
        return value

    def start(self, key: str | None = None) -> uuid.UUID:
        return self.one("select @.find_instance(%s)", self.one("select @.start('w', id => %s)", key))

    def write(self, *writes: tuple[str, int, Any]) -> None:
        kinds, places, bodies = zip(*writes, strict=True)
        self.rows(
            "call @.apply_writes(%s, %s::uuid[], %s::text[], %s::int[], %s::jsonb[])",
            self.worker, [self.id] * len(writes), list(kinds), list(places), [Jsonb(body) for body in bodies],
        )  # fmt: skip

    def items(self, stream: str = "s") -> list[tuple[int, Any]]:
        return self.rows(
            "select position, coalesce(item, to_jsonb(kind)) from @.stream_items"
            " where instance_id = %s and stream = %s order by position",
            self.id, stream,
        )  # fmt: skip


@pytest.fixture
def talk(dsn: str, schema: str) -> Iterator[Talk]:
    migrate(dsn, schema)
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield Talk(conn, schema)


def part(*items: Any, n: int = 0, stream: str = "s", attempt: int | None = 1, **more: Any) -> dict[str, Any]:
    return {"stream": stream, "n": n, "attempt": attempt, "items": list(items), **more}


def test_positions_go_on_whoever_writes(talk: Talk) -> None:
    talk.write(("stream", 3, part("a", "b")), ("stream", 5, part("x")), ("stream", 3, part("c", n=2)))
    talk.write(("stream", 9, part("other", stream="t")), ("stream", 5, part("y", n=1, end=True)))
    assert talk.items() == [(0, "a"), (1, "b"), (2, "x"), (3, "c"), (4, "y"), (5, "end")]
    assert talk.items("t") == [(0, "other")]


def test_written_again_nothing_changes(talk: Talk) -> None:
    writes = [
        ("stream", 3, part("a", "b")),
        ("stream", 5, part(None, {"k": 1})),
        ("stream", 3, part("c", n=2, end=True)),
    ]
    talk.write(*writes)
    before = talk.rows("select *, xmin from @.stream_items order by position")
    talk.write(*writes)
    assert talk.rows("select *, xmin from @.stream_items order by position") == before


def test_another_attempt_replaces_item_by_item_and_goes_on(talk: Talk) -> None:
    talk.write(("stream", 3, part("a1", "b1")), ("stream", 5, part("x")), ("stream", 3, part("c1", n=2)))
    talk.write(("stream", 3, part("a2", attempt=2)))
    assert talk.items() == [(0, "a2"), (1, "b1"), (2, "x"), (3, "c1")]
    talk.write(("stream", 3, part("b2", "c2", "d2", n=1, attempt=2, end=True)))
    assert talk.items() == [(0, "a2"), (1, "b2"), (2, "x"), (3, "c2"), (4, "d2"), (5, "end")]
    assert talk.rows("select distinct attempt from @.stream_items where writer = 3") == [(2,)]


def test_an_attempt_that_wrote_fewer_leaves_voids_whose_positions_are_not_used_again(talk: Talk) -> None:
    talk.write(("stream", 3, part("a", "b", "c", end=True)))
    talk.write(("stream", 3, part("A", attempt=2)), ("cut_stream", 3, {"keep": {"s": 1}}))
    assert talk.items() == [(0, "A"), (1, "void"), (2, "void"), (3, "void")]
    talk.write(("stream", 7, part("next")), ("cut_stream", 3, {"keep": {"s": 1}}))
    assert talk.items()[4:] == [(4, "next")]
    # A void may be filled again: the process died before the step's end was recorded, and it wrote more this time.
    talk.write(("stream", 3, part("B", n=1, attempt=2)))
    assert talk.items() == [(0, "A"), (1, "B"), (2, "void"), (3, "void"), (4, "next")]


def test_the_latest_command_s_value_is_the_state(talk: Talk) -> None:
    talk.write(("state", 4, {"key": "k", "value": 1}), ("state", 9, {"key": "k", "value": None}))
    talk.write(("state", 4, {"key": "k", "value": 1}), ("state", 2, {"key": "other", "value": [1]}))
    assert talk.rows("select key, place, value from @.states order by key") == [("k", 9, None), ("other", 2, [1])]
    assert talk.one("select @.state(%s, 'other')", str(talk.id)) == [1]
    assert talk.one("select @.state(%s, 'absent')", str(talk.id)) is None


def test_an_update_is_requested_once_and_answered_once(talk: Talk) -> None:
    key = uuid.uuid4()
    for _ in range(2):
        asked = talk.rows("select * from @.request_update(%s, 'add', '[1]', %s)", str(talk.id), key)
        assert asked == [(talk.id, key)]
    assert talk.rows("select kind, name, payload from @.events") == [("update", "add", {"key": str(key), "input": [1]})]
    with pytest.raises(psycopg.Error, match="is that of an update 'add', not 'drop'") as refused:
        talk.rows("select @.request_update(%s, 'drop', '[]', %s)", str(talk.id), key)
    assert refused.value.sqlstate == "PGD05"
    reply = "select status, result, answered_at is not null from @.updates"
    talk.write(("update", 0, {"key": str(key), "status": "accepted"}))
    assert talk.rows(reply) == [("accepted", None, False)]
    talk.write(("update", 0, {"key": str(key), "status": "completed", "result": 7}))
    for late in ({"status": "accepted"}, {"status": "failed", "error": {}}, {"status": "completed", "result": 8}):
        talk.write(("update", 0, {"key": str(key), **late}))
    assert talk.rows(reply) == [("completed", 7, True)]


def test_a_rejected_update_leaves_the_queue(talk: Talk) -> None:
    key = talk.one("select update_key from @.request_update(%s, 'add')", str(talk.id))
    seq = talk.one("select seq from @.events")
    talk.write(("update", 0, {"key": str(key), "status": "rejected", "error": {"message": "no"}, "event": seq}))
    assert talk.rows("select status, error from @.updates") == [("rejected", {"message": "no"})]
    assert talk.rows("select 1 from @.events") == []


def test_an_ended_instance_takes_no_update_but_gives_the_old_reply(talk: Talk) -> None:
    key = talk.one("select update_key from @.request_update(%s, 'add')", str(talk.id))
    talk.rows("update @.instances set status = 'completed', finished_at = now()")
    assert talk.rows("select update_key from @.request_update(%s, 'add', '[]', %s)", str(talk.id), key) == [(key,)]
    with pytest.raises(psycopg.Error, match="takes no more updates") as refused:
        talk.rows("select @.request_update(%s, 'add')", str(talk.id))
    assert refused.value.sqlstate == "PGD03"
    assert talk.one("select count(*) from @.updates") == 1


TAKE = "select key, held from @.take_queries(%s, '{w}', '{1}', '{t}', 10)"


def test_a_question_is_taken_by_one_and_answered_once(talk: Talk) -> None:
    other = talk.one("select @.join_worker('v', '[]', '1 hour')")
    key = uuid.uuid4()
    assert talk.one("select @.ask(%s, 'total', '[]', %s)", str(talk.id), key) == talk.id
    talk.rows("update @.instances set owner = %s, status = 'running'", talk.worker)
    assert talk.rows(TAKE, other) == []
    assert talk.rows("select gone from @.answers(%s)", [key]) == []
    assert talk.rows(TAKE, talk.worker) == [(key, True)]
    assert talk.rows(TAKE, talk.worker) == []
    assert talk.one("select @.answer_query(%s, '7', null)", key) is True
    assert talk.one("select @.answer_query(%s, '8', null)", key) is False
    assert talk.rows("select gone, answer from @.answers(%s)", [key, uuid.uuid4()]) == [(False, "7"), (True, None)]
    assert talk.rows("select gone from @.answers(%s)", [key]) == [(True,)]


def test_what_nobody_holds_or_its_owner_does_not_answer_is_anybody_s(talk: Talk) -> None:
    key = uuid.uuid4()
    talk.one("select @.ask(%s, 'total', '[]', %s)", str(talk.id), key)
    assert talk.rows("select key from @.take_queries(%s, '{v}', '{1}', '{t}', 10)", talk.worker) == []
    assert talk.rows(TAKE, talk.worker) == [(key, False)]
    talk.rows("update @.queries set taken_at = now() - interval '4 s'")
    talk.rows("update @.instances set owner = 77, status = 'running'")
    assert talk.rows(TAKE, talk.worker) == []
    talk.rows("update @.queries set asked_at = now() - interval '3 s'")
    assert talk.rows(TAKE, talk.worker) == [(key, False)]
    talk.rows("update @.queries set asked_at = now() - interval '2 min'")
    assert talk.rows(TAKE, talk.worker) == []
    assert talk.one("select count(*) from @.queries") == 0


def test_all_of_it_goes_with_the_instance(talk: Talk) -> None:
    kept = talk.id
    for id in (talk.start("gone"), kept):
        talk.id = id
        talk.write(("state", 1, {"key": "k", "value": 1}), ("stream", 2, part("a")))
        talk.rows("select @.request_update(%s, 'add')", str(id))
    talk.rows("update @.instances set status = 'completed', finished_at = now() - interval '90 d' where id <> %s", kept)
    talk.rows("select @.sweep('00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 500)")
    for table in ("instances", "states", "updates", "stream_items"):
        column = "id" if table == "instances" else "instance_id"
        assert talk.rows(f"select {column} from @.{table}") == [(kept,)], table


def test_a_copy_has_what_there_was_up_to_an_event(talk: Talk) -> None:
    source, target = talk.id, talk.start()
    talk.write(
        ("state", 0, {"key": "k", "value": 1}), ("stream", 1, part("a")), ("stream", 2, part("w", attempt=None)),
        ("state", 3, {"key": "k", "value": 2}), ("stream", 4, part("later")),
    )  # fmt: skip
    for event, (kind, seq, name, payload) in enumerate(
        [
            ("state", 0, "k", 1),
            ("step", 1, "f", 1),
            ("stream", 2, "s", None),
            ("state", 3, "k", 2),
            ("step", 4, "f", 1),
        ],
        1,
    ):
        talk.rows(
            "insert into @.history (instance_id, event_id, kind, seq, name, payload) values (%s, %s, %s, %s, %s, %s)",
            source, event, kind, seq, name, Jsonb(payload),
        )  # fmt: skip
    talk.rows("select @.copy_history(%s, %s, 4)", source, target)
    assert talk.rows("select key, place, value from @.states where instance_id = %s", target) == [("k", 0, 1)]
    talk.id = target
    assert talk.items() == [(0, "a"), (1, "w")]
