"""What the server says is taken at its word only where it makes sense: never a crash, a hang or a wrong fate."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from pgdurable._core import Flusher

from . import fake
from .fake import BIND, IN_TRANSACTION, NO_DATA, READY, FakeServer, Message, done, error, notice, packed

EPOCH_US = 946684800000000
PIPELINE, COPY = 1_000_000, 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    server = FakeServer(tmp_path_factory.mktemp("s"))
    yield server
    server.close()


def filled(copy_from: int = PIPELINE, *, release: bool = False, rows: int = 1) -> Flusher:
    flusher = Flusher(fake.STATEMENTS, copy_from)
    for n in range(rows):
        flusher.add_history(b"x" * 16, n, 0, 7, 0.5, 1, "step", "s", b"1", None, f"step {n}")
    if release:
        flusher.add_release(b"x" * 16, "completed", b"1", None, None, "release")
    return flusher


def pipelined(server: FakeServer, *messages: Message, release: bool = False) -> Any:
    return fake.outcome(server, filled(release=release), packed(messages))


def copied(server: FakeServer, answers: list[list[Message]], *, release: bool = False) -> Any:
    return fake.outcome(server, filled(COPY, release=release), *map(packed, answers))


# --- answers that make sense --------------------------------------------------------------------------------------


def test_the_answers_of_a_real_server(server: FakeServer) -> None:
    kind, batch, at_us, times = pipelined(server, *fake.pipeline(5))
    assert (kind, batch.tags, at_us, times) == ("committed", ["step 0"], 5 + EPOCH_US, None)
    assert pipelined(server, *fake.pipeline(5, rest=1), release=True)[0] == "committed"
    assert copied(server, fake.copy(5))[::2] == ("committed", 5)
    assert copied(server, fake.copy(5, rest=True), release=True)[::2] == ("committed", 5)
    assert [letter for letter, _ in server.heard] == [*server_set_up(), b"Q", b"d", b"c", *([b"B", b"D", b"E"] * 2)]
    refused = pipelined(server, BIND, *fake.times(5), error(), READY)
    assert (refused[0], *refused[2:]) == ("refused", "23505", "there already")


def server_set_up() -> list[bytes]:
    return [b"P", b"S"] * (len([name for name in fake.STATEMENTS if not name.startswith("copy_")]) + 2)


@pytest.mark.parametrize("at_us", [0, -1, 1, 2**62, -(2**62)])
def test_any_time_is_told(server: FakeServer, at_us: int) -> None:
    assert pipelined(server, *fake.pipeline(at_us))[2] == at_us + EPOCH_US


def test_notifications_and_notices_may_come_in_between(server: FakeServer, capfd: pytest.CaptureFixture[str]) -> None:
    said = fake.pipeline(5)
    for place in range(len(said)):
        mixed = [*said[:place], notice(b"\xff\xfe no text"), (b"N", error()[1]), (b"S", b"x\0y\0"), *said[place:]]
        assert pipelined(server, *mixed)[0] == "committed"
    assert capfd.readouterr().err == ""


def test_times_of_a_batch_sent_again(server: FakeServer) -> None:
    flusher = filled(rows=2)
    batch = flusher.take()
    batch.again = True
    server.says = [packed(fake.pipeline(5, again=[3, None]))]
    flusher.connect(server.dsn, 7, [])
    assert fake.sent(flusher, batch)[3] == [3 + EPOCH_US, 5 + EPOCH_US]


# --- answers that make none ---------------------------------------------------------------------------------------

FENCE = [BIND, *fake.times(5)]
ROWS = [BIND, NO_DATA, done(b"INSERT 0 1")]
SPOILT: dict[str, list[Message]] = {
    "nothing": [],
    "the end at once": [READY],
    "no answer to the rows": [*FENCE, READY],
    "no answer to the fence": [*ROWS, READY],
    "the fence twice": [*FENCE, *FENCE, READY],
    "one answer too many": [*FENCE, *ROWS, *ROWS, READY],
    "still in a transaction": [*FENCE, *ROWS, IN_TRANSACTION],
    "in a failed transaction": [*FENCE, *ROWS, (b"Z", b"E")],
    "no time": [BIND, *fake.times(), *ROWS, READY],
    "two times": [BIND, *fake.times(5, 6), *ROWS, READY],
    "a null time": [BIND, *fake.times(None), *ROWS, READY],
    "a time of 7 bytes": [BIND, fake.columns(1184, 8, 1), fake.row(b"7 bytes"), done(b"SELECT 1"), *ROWS, READY],
    "a time out of range": [BIND, *fake.times(2**63 - 1), *ROWS, READY],
    "a row of no columns": [BIND, (b"T", b"\0\0"), (b"D", b"\0\0"), done(b"SELECT 1"), *ROWS, READY],
    "an error without an SQLSTATE": [*FENCE, (b"E", b"SERROR\0Mhm\0\0"), READY],
    "an error of no fields": [*FENCE, (b"E", b"\0"), READY],
    "an error that ends the session": [*FENCE, *ROWS, error(b"57P01", b"going down", b"FATAL"), READY],
    "a pooler's error that ends the session": [
        *FENCE,
        *ROWS,
        (b"E", b"SFATAL\0C08P01\0Mserver conn crashed?\0\0"),
        READY,
    ],
    "a panic": [*FENCE, error(b"XX000", b"oh", b"PANIC"), READY],
    "rows asked for": [*FENCE, (b"G", b"\1\0\0"), READY],
    "rows offered": [*FENCE, (b"H", b"\1\0\0"), READY],
    "replication": [*FENCE, (b"W", b"\1\0\0"), READY],
    "an empty statement": [*FENCE, (b"I", b""), READY],
    "an unknown letter": [*FENCE, (b"?", b"what"), READY],
    "the start over": [*FENCE, (b"R", b"\0\0\0\3"), READY],
}


@pytest.mark.parametrize("what", SPOILT)
def test_an_answer_that_makes_no_sense_leaves_the_fate_unknown(server: FakeServer, what: str) -> None:
    assert isinstance(pipelined(server, *SPOILT[what]), ConnectionError)


@pytest.mark.parametrize("number", [b"", b"x", b"5x", b"9" * 30, b"\xff", b"5\x00"])
def test_a_time_in_letters_that_is_none(server: FakeServer, number: bytes) -> None:
    answers = fake.copy()
    answers[0][1] = fake.row(number)
    found = copied(server, answers)
    assert isinstance(found, ConnectionError) or number.strip(b"\0") == b"5"


def test_copy_that_is_asked_for_twice_or_never(server: FakeServer) -> None:
    query, rows = fake.copy()
    for answers in ([query, query, rows], [[*query[:-1], *rows]], [query, [READY]], [query, query, query, query]):
        assert isinstance(copied(server, answers), ConnectionError)


def test_an_error_after_a_copy_whose_rollback_fails(server: FakeServer) -> None:
    query, rows, tail = fake.copy(rest=True)
    for undone in ([done(b"ROLLBACK"), IN_TRANSACTION], [error(), IN_TRANSACTION], [READY, READY][:0]):
        answers = [query, rows, [BIND, error(), (b"Z", b"E")], undone]
        assert isinstance(copied(server, answers, release=True), ConnectionError)
    answers = [query, rows, [BIND, error(), (b"Z", b"E")], [done(b"ROLLBACK"), READY]]
    assert copied(server, answers, release=True)[0] == "refused"
    assert tail[-1] == READY


def test_an_answer_cut_off_anywhere(server: FakeServer) -> None:
    said = packed(fake.pipeline())
    for end in range(len(said)):
        assert isinstance(fake.outcome(server, filled(), said[:end]), ConnectionError), end


# --- anything at all ----------------------------------------------------------------------------------------------

GOOD = [*fake.pipeline(5), *fake.pipeline(5, again=[3]), *fake.copy()[0], *fake.copy()[1], error(), notice(b"n"),
        error(b"57014", b"m", b"FATAL"), IN_TRANSACTION, (b"Z", b"E"), (b"I", b""), (b"s", b""), (b"N", b"\0"),
        (b"1", b""), (b"3", b""), (b"d", b"x"), (b"c", b""), (b"t", b"\0\0"), (b"V", b"\0\0\0\0")]  # fmt: skip
messages = st.sampled_from(GOOD) | st.tuples(
    st.sampled_from([bytes([letter]) for letter in b"RSKZTDCE12nNAGHWdcIstV3v"]), st.binary(max_size=24)
)


def judged(said: bytes, statements: int) -> set[str]:
    """What may be believed after this answer, told by a second reader of the protocol, who is generous."""
    found, _ = fake.parsed(said)
    letters = [letter for letter, _ in found]
    end = letters.index(b"Z") if b"Z" in letters else None
    allowed = {"lost"}
    if end is None:
        return allowed
    before = found[:end]
    errors = [body for letter, body in before if letter == b"E"]
    if not errors and found[end][1][:1] == b"I" and letters[:end].count(b"C") >= statements:
        allowed.add("committed")
    if any(b"VERROR\0" in body or b"V" not in body for body in errors) and any(b"C" in body for body in errors):
        allowed.add("refused")
    return allowed


def spoil(said: bytes, seed: int) -> bytes:
    """Some bytes changed, added, left out."""
    chance = random.Random(seed)
    data = bytearray(said)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        what = chance.randrange(4)
        if what == 0:
            data[place:place] = chance.randbytes(chance.randint(1, 6))
        elif what == 1:
            del data[place : place + chance.randint(1, 6)]
        elif what == 2 and place < len(data):
            data[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, data[place] ^ 1 << chance.randrange(8)))
        else:
            data[place : place + 4] = struct.pack("!I", chance.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 5)))
    return bytes(data)


def check(server: FakeServer, said: bytes, again: bool) -> str:
    flusher = filled()
    batch = flusher.take()
    batch.again = again
    server.says = [said]
    flusher.connect(server.dsn, 7, [])
    found = fake.sent(flusher, batch)
    fate = "lost" if isinstance(found, ConnectionError) else found[0]
    assert fate in judged(said, 3 if again else 2), (fate, said)
    assert batch.tags == ["step 0"]
    return fate


@settings(max_examples=1000)
@given(said=st.lists(messages, max_size=14), again=st.booleans())
def test_messages_in_any_order(server: FakeServer, said: list[Message], again: bool) -> None:
    check(server, packed(said), again)


@settings(max_examples=1000)
@given(seed=st.integers(0, 2**32), again=st.booleans())
def test_an_answer_with_bytes_spoilt(server: FakeServer, seed: int, again: bool) -> None:
    check(server, spoil(packed(fake.pipeline(5, again=[3] if again else None)), seed), again)


CORPUS = sorted((Path(__file__).parent / "corpus").glob("*"))


@pytest.mark.parametrize("path", CORPUS, ids=[path.name for path in CORPUS])
def test_what_the_fuzzer_found_worth_keeping(server: FakeServer, path: Path) -> None:
    for again in (False, True):
        check(server, path.read_bytes(), again)
