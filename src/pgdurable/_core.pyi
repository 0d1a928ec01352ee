"""Types of the compiled core. What each call does is told in `_core.pyx` and `_core_parts/`."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypedDict, final

class _Stats(TypedDict):
    transitions: int
    history_rows: int
    flushes: int
    copies: int
    bytes: int
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None

class _LiveObjects(TypedDict):
    batches: int
    flushers: int

@final
class Batch:
    tags: list[Any]
    again: bool
    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def counts_by_kind(self) -> tuple[int, int, int, int]: ...
    def rows_of(self, kind: int) -> bytes: ...
    def split(self) -> tuple[Batch, Batch]: ...

@final
class Flusher:
    copy_from: int
    def __new__(cls, statements: dict[str, str], copy_from: int = 256) -> Flusher: ...
    def add_history(
        self,
        instance_id: bytes,
        event_id: int,
        seq: int | None,
        fingerprint: int | None,
        elapsed_ms: float | None,
        attempt: int | None,
        kind: str,
        name: str | None,
        payload: bytes | None,
        error: bytes | None,
        tag: Any,
        event_seq: int = -1,
    ) -> None: ...
    def add_instance(
        self,
        instance_id: bytes,
        workflow: str,
        version: str | None,
        status: str,
        queue: str,
        owner: int | None,
        input: bytes,
        tag: Any,
    ) -> None: ...
    def add_release(
        self,
        instance_id: bytes,
        status: str,
        output: bytes | None,
        error: bytes | None,
        wake_at_us: int | None,
        tag: Any,
    ) -> None: ...
    def take(self) -> Batch: ...
    @property
    def waiting(self) -> int: ...
    @property
    def waiting_bytes(self) -> int: ...
    def connect(self, conninfo: str, worker: int | None, setup: list[str], prepare: bool = True) -> None: ...
    def close(self) -> Batch | None: ...
    @property
    def fileno(self) -> int: ...
    @property
    def backend_pid(self) -> int | None: ...
    @property
    def connected(self) -> bool: ...
    @property
    def idle(self) -> bool: ...
    @property
    def wants_write(self) -> bool: ...
    @property
    def flying_for_s(self) -> float: ...
    def send(self, batch: Batch) -> None: ...
    def ready(
        self,
    ) -> (
        tuple[Literal["committed"], Batch, int, list[int] | None] | tuple[Literal["refused"], Batch, str, str] | None
    ): ...
    def notified(self) -> set[str]: ...
    def stats(self, reset: bool = False) -> _Stats: ...

# Rooms inside the core, of no use from Python.
@final
class Columns: ...

@final
class Wire: ...

def add_audit_hook(names: Iterable[str], callback: Callable[[str, tuple[Any, ...]], None]) -> None: ...
def live_objects() -> _LiveObjects: ...
def libpq_version() -> int: ...

# Left over by Cython.
__test__: dict[str, str]

def __reduce_cython__(self: Any) -> Any: ...
def __setstate_cython__(self: Any, __pyx_state: Any) -> Any: ...
