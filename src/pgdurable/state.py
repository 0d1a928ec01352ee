"""What a workflow publishes: values under keys, which anybody may read and wait for while it runs and afterwards."""

from __future__ import annotations

from typing import Any
from zlib import crc32

from pgdurable._runtime.current import current_machine
from pgdurable._runtime.desk import desk_of
from pgdurable.codec import encode
from pgdurable.handlers import outside

__all__ = ["set_state"]


def set_state(key: str, value: Any) -> None:
    """Publishes a value: readable by `handle.state(key)`, `durable.state(id, key)`, the table `states`, `wait_state`.

    It is durable with the next commit, in order: before whatever the workflow does from then on, but not before this
    returns. Replay does not publish it again. One row of history each time the value changes; the same value as before
    costs nothing.

    Args:
        key: 1 to 512 bytes.
        value: anything with a JSON form.
    Raises:
        CodecError: the value has none.
    """
    machine = current_machine()
    if machine is None:
        outside("set_state")
    if not isinstance(key, str) or not key or "\0" in key or len(key.encode()) > 512:
        raise ValueError(f"a state's key is a text of 1 to 512 bytes without NUL, found {key!r:.80}")
    data = encode(value, what=f"{machine.label}: state {key!r}", limit=machine.payload_limit)
    if machine.dropped:
        machine.raise_dropped()
    published = desk_of(machine).published
    if published.get(key) == data:
        return
    published[key] = data
    mark = crc32(data)
    machine.issue("state", key, mark - 0x1_0000_0000 if mark & 0x8000_0000 else mark, data)
