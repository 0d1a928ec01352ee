"""What a worker may do for `http` steps of workflows in SQL: where to, with which secrets, how large, how long."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from pgdurable.errors import PgDurableError
from pgdurable.retry import seconds

__all__ = ["Http"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_PREFIX = "PGDURABLE_SECRET_"
_FOLDER = "PGDURABLE_SECRETS_DIR"


@dataclass(frozen=True, repr=False)
class Http:
    """Lets an engine make the requests of `http` steps: ``Engine(http=Http(...))``. Needs ``pgdurable[http]``.

    Only public addresses are connected to. What is private, local to a link or this machine, is refused: whoever may
    start a workflow must not reach into the network that the worker stands in. Checked is the address that is connected
    to, so a name that leads elsewhere the second time it is asked for gains nothing. Redirects are not followed, and
    proxies of the environment not used.

    A request names its secrets, ``{"$secret": "NAME"}``, and the worker puts them in. They are never stored or logged,
    and an answer that repeats one is stored without it.

    Args:
        allow: networks that may be connected to though they are not public, such as ``("10.20.0.0/16",)``.
        hosts: the only hosts of URLs, such as ``("api.example.com", "*.example.org")``. Default: any.
        secrets: secrets by name, or the folder that has a file for each. Default: environment variables named
            PGDURABLE_SECRET_NAME, then files in the folder $PGDURABLE_SECRETS_DIR. Other variables of the environment
            are nobody's secrets.
        secret_hosts: hosts that a secret may be sent to, by its name; what is not listed may go anywhere. Default: as
            PGDURABLE_SECRET_NAME__HOSTS says, separated by commas.
        timeout: seconds (or timedelta) for a request whose step has no timeout of its own. Default 30.
        max_bytes: of a response's body; a step may ask for less. Default 1 MiB.
        max_concurrency: how many requests at once. Default 32.
        tls: the SSL context. Default: the system's certificates are believed.
    """

    allow: tuple[str, ...] = ()
    hosts: tuple[str, ...] | None = None
    secrets: Mapping[str, str] | str | os.PathLike[str] | None = None
    secret_hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    timeout: float | timedelta = 30.0
    max_bytes: int = 1 << 20
    max_concurrency: int = 32
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        for network in self.allow:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"Http(allow=...) takes networks such as '10.0.0.0/8': {error}") from None
        if not (seconds(self.timeout) or 0.0) > 0:
            raise ValueError(f"Http(timeout=...) is positive, found {self.timeout!r}")
        if self.max_bytes < 1 or self.max_concurrency < 1:
            raise ValueError("Http(max_bytes=..., max_concurrency=...) are at least 1")

    def __repr__(self) -> str:
        return f"Http(allow={self.allow!r}, hosts={self.hosts!r})"  # no secrets

    def secret(self, name: str, host: str | None) -> str:
        """The value of a secret that is to be sent to this host (None: not known yet). Raises PgDurableError."""
        if not _NAME.fullmatch(name):
            raise PgDurableError(
                f"{name!r:.80} is no name of a secret", hint="Letters, digits, _ . and -, at most 128 of them."
            )
        allowed = self._hosts_of(name)
        if host is not None and allowed is not None and not host_fits(host, allowed):
            raise PgDurableError(
                f"secret {name} may not be sent to {host}", hint="Its hosts are set where this worker is set up."
            )
        value = self._value(name)
        if not value:
            raise PgDurableError(
                f"this worker has no secret {name}",
                hint=f"Set {_PREFIX}{name} in its environment, or put a file {name} into the folder ${_FOLDER} names.",
            )
        return value

    def _value(self, name: str) -> str | None:
        given = self.secrets
        if isinstance(given, Mapping):
            return given.get(name)
        if given is not None:
            return _from_file(Path(given), name)
        found = os.environ.get(_PREFIX + name)
        folder = os.environ.get(_FOLDER)
        return found if found or not folder else _from_file(Path(folder), name)

    def _hosts_of(self, name: str) -> tuple[str, ...] | None:
        if name in self.secret_hosts:
            return self.secret_hosts[name]
        text = os.environ.get(f"{_PREFIX}{name}__HOSTS") if self.secrets is None else None
        return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _from_file(folder: Path, name: str) -> str | None:
    try:
        return (folder / name).read_text(encoding="utf-8").removesuffix("\n")
    except OSError:
        return None


def host_fits(host: str, patterns: tuple[str, ...]) -> bool:
    """Whether a host is one of these; `*.example.org` is every host below it."""
    host = host.lower().rstrip(".")
    return any(
        host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
        for pattern in (text.lower() for text in patterns)
    )
