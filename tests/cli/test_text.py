from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from pgdurable.cli.options import json_argument
from pgdurable.cli.text import clean, one_line_json, short_clock, shorten, span
from pgdurable.errors import InvalidInput


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (1, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (90000, "25 h 0 min"),
        (200000, "2 d 7 h"),
        (-5, "-5.0 s"),
        (timedelta(minutes=2), "2 min 0 s"),
    ],
)
def test_span(seconds: float | timedelta, text: str) -> None:
    assert span(seconds) == text


def test_short_clock_leaves_today_out() -> None:
    now = datetime(2026, 11, 23, 18, 0, 0).astimezone()
    assert short_clock(datetime(2026, 11, 23, 8, 53, 20).astimezone(), now) == "08:53:20"
    assert short_clock(datetime(2026, 11, 22, 8, 53, 20).astimezone(), now) == "2026-11-22 08:53:20"
    assert short_clock(None, now) == ""


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert clean("a\x1b[31mb\rc\x07\x9bd\te\nf") == "a\\x1b[31mb\\x0dc\\x07\\x9bd\te\nf"


def test_shorten_is_one_line_and_never_longer() -> None:
    assert shorten("one\ntwo", 20) == "one two"
    assert shorten("x" * 21, 20) == "x" * 19 + "…"
    assert shorten("x" * 20, 20) == "x" * 20


def test_json_keeps_letters_readable() -> None:
    assert one_line_json({"straße": [1, None]}) == '{"straße": [1, null]}'


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"a": }', "line 1, column 7"),
        ('{"a": 1', "line 1, column 8"),
        ('{\n "a": nope}', "line 2, column 7"),
        ("", "line 1, column 1"),
        ("[1] 2", "line 1, column 5"),
    ],
)
def test_bad_json_is_shown_its_place(text: str, where: str) -> None:
    with pytest.raises(InvalidInput, match="PAYLOAD is not valid JSON") as error:
        json_argument(text, "PAYLOAD")
    assert where in error.value.message
    assert error.value.hint


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", "[" * 100_000, "1" * 10_000])
def test_what_only_python_takes_for_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not valid JSON"):
        json_argument(text, "INPUT")


def test_json_stays_json_and_steers_no_terminal() -> None:
    value = {"a": "\x9b31m\u202e\U000e0041\x7f\ufeff", "é": "ü"}
    text = one_line_json(value)
    assert text == '{"a": "\\u009b31m\\u202e\\udb40\\udc41\\u007f\\ufeff", "é": "ü"}'
    assert json.loads(text) == value
