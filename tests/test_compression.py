"""Compressed payloads: what is written, what reads it, and what is said of one that is damaged."""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any

import pytest

import pgdurable as pgd
from pgdurable import codec
from pgdurable.codec import canonical, decode_stored, encode
from pgdurable.compression import Codecs, codecs_of
from pgdurable.encryption import place_of
from pgdurable.errors import CodecError, PayloadBroken, PayloadSealed

LONG = {"items": [{"sku": f"sku-{n}", "n": n} for n in range(500)]}


@pytest.mark.parametrize("how", ["zlib", "zstd"])
def test_what_is_packed_is_smaller_and_reads_the_same(how: Any) -> None:
    data = encode(LONG)
    packed = pgd.Compression(how).pack(data)
    assert len(packed) < len(data) / 3
    assert list(json.loads(packed)) == ["$pgdurable:packed"]
    assert canonical(packed) == data
    assert decode_stored(packed) == LONG
    # As jsonb gives it back.
    assert decode_stored(json.dumps(json.loads(packed))) == LONG


def test_what_is_short_or_does_not_shrink_stays_as_it_is() -> None:
    short = encode("x" * 1000)
    assert pgd.Compression().pack(short) == short
    assert pgd.Compression(over=64).pack(short) != short
    noise = encode(uuid.uuid4().hex * 3)
    assert pgd.Compression(over=64, level=1).pack(noise[:80]) == noise[:80]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"how": "lzma"}, "zlib or zstd"), ({"over": 1}, "at least 64"), ({"level": 10}, "1 to 9"),
     ({"level": 0}, "1 to 9"), ({"how": "zstd", "level": 20}, "1 to 19")],
)  # fmt: skip
def test_options_that_are_none(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pgd.Compression(**options)


class NotInstalled:
    """Finds the modules that have zstd, and says that they are not there."""

    def find_spec(self, name: str, *args: Any) -> None:
        if name.partition(".")[0] in ("zstandard", "compression"):
            raise ImportError(name)


def test_without_zstd_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pgd.Compression("zstd").pack(encode(LONG))
    for module in ("zstandard", "compression.zstd", "compression"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [NotInstalled(), *sys.meta_path])
    with pytest.raises(pgd.PgDurableError, match=r"pip install 'pgdurable\[zstd\]'"):
        pgd.Compression("zstd")
    with pytest.raises(PayloadSealed, match="which is not installed here"):
        canonical(packed)


@pytest.mark.parametrize(
    "damage",
    [
        lambda box: box | {"data": box["data"][:-40]},
        lambda box: box | {"data": "!" + box["data"][1:]},
        lambda box: box | {"data": ""},
        lambda box: {"how": "zlib"},
        lambda box: [],
        lambda box: None,
    ],
)
@pytest.mark.parametrize("how", ["zlib", "zstd"])
def test_a_damaged_one_is_broken(how: Any, damage: Any) -> None:
    box = json.loads(pgd.Compression(how).pack(encode(LONG)))["$pgdurable:packed"]
    found = json.dumps({"$pgdurable:packed": damage(box)})
    with pytest.raises(PayloadBroken, match="damaged"):
        canonical(found)
    with pytest.raises(PayloadBroken, match="checkpoint is compressed, and what stands there has been damaged"):
        decode_stored(found, what="checkpoint")


@pytest.mark.parametrize("how", ["zlib", "zstd"])
def test_a_bomb_is_refused(how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_MOST_UNPACKED", 1 << 16)
    bomb = pgd.Compression(how).pack(encode("x" * 100_000))
    with pytest.raises(PayloadBroken, match="damaged"):
        canonical(bomb)


def test_a_form_of_a_later_version_is_not_taken_for_a_value() -> None:
    for found in ({"$pgdurable:folded": 1}, {"$pgdurable:packed": {"how": "lzma", "data": ""}}):
        with pytest.raises(PayloadSealed, match="does not know"):
            canonical(json.dumps(found))
    with pytest.raises(PayloadBroken, match="kept apart for its size, and not there"):
        canonical('{"$pgdurable:aside": {"hash": "0", "size": 9}}')


def test_no_value_of_the_users_is_taken_for_ours() -> None:
    for value in ({"$pgdurable:packed": 1}, {"$pgdurable:aside": {"hash": "x"}}):
        with pytest.raises(CodecError, match=r"a key that begins with \$pgdurable:"):
            encode(value)
    for value in ({"a": {"$pgdurable:packed": 1}}, ["$pgdurable:packed"], "$pgdurable:packed"):
        assert decode_stored(encode(value)) == value


def test_compressed_first_and_then_encrypted() -> None:
    keys = pgd.Encryption({"k": pgd.Encryption.new_key()})
    both, instance = codecs_of(pgd.Compression(), keys), uuid.uuid4()
    assert isinstance(both, Codecs)
    assert codecs_of(None, keys) is keys
    assert codecs_of(None, None) is None
    data = encode(LONG)
    sealed = both.seal(instance.bytes, "input", data)
    assert len(sealed) < len(data) / 2
    assert b"sku" not in sealed
    assert decode_stored(both.open(instance, "input", sealed)) == LONG
    assert both.seal_if(instance.bytes, "input", sealed) == sealed
    place = place_of("step", 3, "s", 1)
    row = (instance, 1, "step", 3, "s", 1, None, both.seal(instance.bytes, place, data).decode(), None, None)
    assert decode_stored(both.open_history(row)[7]) == LONG
    # One who has the key and no compression reads it too.
    assert decode_stored(keys.open(instance, "input", sealed)) == LONG
