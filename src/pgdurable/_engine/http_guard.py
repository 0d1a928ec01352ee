"""Which addresses an `http` step may connect to: public ones, and the networks that the worker's owner has allowed.

Asked by the connector for the socket of each connection it makes, with the address it is about to use: behind every
lookup of a name, whatever form the host of the URL has.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

__all__ = ["AddressRefused", "Guard", "refusals"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# NAT64, and what tunnels carry: the address inside is the one that is reached.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

refusals: ContextVar[list[str]] = ContextVar("pgdurable_http_refusals")
"""What has been refused for the request of this context: a connector that tries several addresses hides it."""


class AddressRefused(OSError):
    """The address is neither public nor allowed."""


class Guard:
    """See the head of this file."""

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._allow = [ipaddress.ip_network(text) for text in allow]

    def allows(self, text: str) -> bool:
        """Whether this address may be connected to."""
        address = ipaddress.ip_address(text.partition("%")[0])
        if any(address in network for network in self._allow if network.version == address.version):
            return True
        return all(map(self._allows, _reached(address)))

    def _allows(self, address: Address) -> bool:
        if any(address in network for network in self._allow if network.version == address.version):
            return True
        return address.is_global and not address.is_multicast and not address.is_reserved

    def socket(self, info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        """The socket for an address (as of getaddrinfo). Raises AddressRefused."""
        family, kind, protocol, _, where = info
        if not self.allows(str(where[0])):
            refusals.get([]).append(str(where[0]))
            raise AddressRefused(f"{where[0]} is no public address")
        return socket.socket(family, kind, protocol)


def _reached(address: Address) -> list[Address]:
    """The address, and those of IPv4 that are written into it."""
    found: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return [address.ipv4_mapped]
        if address.sixtofour is not None:
            found.append(address.sixtofour)
        if address.teredo is not None:
            found += address.teredo
        if address in _NAT64:
            found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found
