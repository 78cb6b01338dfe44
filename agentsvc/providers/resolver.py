"""Which addresses we connect to. An operator's endpoint may be anything; a tenant's must be public, whatever its name says.

The check that counts is made on the addresses that are then connected to, since a name may resolve differently each
time it is asked (DNS rebinding). Literal addresses never reach a resolver, so ``check_public_url`` looks at those.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from agentsvc.domain.errors import invalid_field

_NAT64 = IPv6Network("64:ff9b::/96")

# Globally routable by the registry's word (or by that of some Python versions), yet answered by the cloud we run in.
_CLOUD = tuple(
    ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's wire server
        "192.0.0.0/24",  # IETF protocol assignments; 192.0.0.192 is Oracle's metadata service
    )
)


class ForbiddenAddressError(OSError):
    """A name resolved to an address that a tenant may not reach. Says which name, never which address."""


def is_public(address: str) -> bool:
    """Whether a literal IP address is a host on the public internet. IPv4 inside IPv6 is judged by the IPv4 address."""
    ip = _unwrap(ip_address(address))
    if ip.is_multicast or ip.is_reserved or ip.is_unspecified or not ip.is_global:
        return False
    if isinstance(ip, IPv6Address) and ip.is_site_local:
        return False
    return not any(ip in network for network in _CLOUD)


def _unwrap(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(ip, IPv6Address):
        if ip in _NAT64:
            return IPv4Address(ip.packed[-4:])
        return ip.ipv4_mapped or ip.sixtofour or ip
    return ip


def check_public_url(url: str, field: str) -> None:
    """Refuses what can be refused without asking DNS.

    Raises:
        AgentsvcError: INVALID_FIELD ``field`` when it is not https, names no host, holds credentials, or the host is a
            literal address that is not public or a name that only means this machine or its network.
    """
    try:
        parts = URL(url)  # the parser that the client uses: two parsers could see two hosts
        host = parts.raw_host or ""
    except ValueError as error:
        raise invalid_field(field, "is not a URL") from error
    if parts.scheme != "https":
        raise invalid_field(field, "must start with https://")
    if not host:
        raise invalid_field(field, "must name a host, as in https://llm.example.com/v1")
    if parts.raw_user is not None or parts.raw_password is not None:
        raise invalid_field(field, "must not hold credentials; put the key into llm_config.api_key")
    if parts.raw_query_string or parts.raw_fragment:
        raise invalid_field(field, "must end with its path: no query, no fragment")
    if not _may_be_public(host.rstrip(".")):
        raise invalid_field(field, "must be a public address")


def _may_be_public(host: str) -> bool:
    try:
        return is_public(host)
    except ValueError:  # a name
        return "." in host and not host.endswith((".localhost", ".local", ".internal"))


class Resolver(AbstractResolver):
    """The system's resolver with a time limit, and with ``public_only`` a door that only public addresses pass."""

    def __init__(self, *, timeout: float, public_only: bool = False, inner: AbstractResolver | None = None) -> None:
        self._inner = inner or aiohttp.ThreadedResolver()
        self._timeout = timeout
        self._public_only = public_only

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All addresses of ``host``.

        Raises:
            ForbiddenAddressError: with ``public_only``, if one of them is not public. One is enough: a mixed answer
                is an attack or a mistake, and in neither case ours to pick from.
            OSError: the name does not resolve, or not in time.
        """
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._inner.resolve(host, port, family)
        except TimeoutError as error:
            raise OSError(f"looking up {host} took longer than {self._timeout:g} s") from error
        if self._public_only and not all(is_public(result["host"]) for result in found):
            raise ForbiddenAddressError(f"{host} does not lead to a public address")
        return found

    async def close(self) -> None:
        """Lets go of the inner resolver."""
        await self._inner.close()
