"""Where requests go: what aiohttp's pool knows an address by, and the head of a request to it, as bytes.

aiohttp's own way from ``post()`` to the socket costs 100 us a request, most of it for what a request of ours never has:
cookies, redirects, proxies, forms, middlewares. Its pool, its TLS and its parsers are used as they are.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import Mapping

import aiohttp
from yarl import URL

# Compression would hold tokens back until a block is full.
_ALWAYS = "User-Agent: agentsvc\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Address:
    """One URL. ``request`` is what the pool asks about it: host, port, TLS; ``key`` is what it keeps its connections under.

    Raises:
        ValueError: not a URL that a request can be sent to.
    """

    __slots__ = ("_credentials", "_last", "_start", "key", "request", "url")

    def __init__(self, text: str, session: aiohttp.ClientSession) -> None:
        url = URL(text)
        if url.scheme not in {"http", "https"} or not url.raw_host:
            raise ValueError("not an http or https URL")
        self.url = url.with_user(None) if url.raw_user or url.raw_password else url
        self.request = aiohttp.ClientRequest("POST", self.url, loop=asyncio.get_running_loop(), session=session)
        self.key = self.request.connection_key
        self._last: tuple[Mapping[str, str], str] = {}, ""  # headers, and the head they made
        host = self.request.headers["Host"]
        self._credentials = _credentials(url)
        self._start = f"POST {self.url.raw_path_qs} HTTP/1.1\r\nHost: {host}\r\n{_ALWAYS}{self._credentials}"

    def head(self, headers: Mapping[str, str], length: int) -> bytes:
        """A request's head, for a body of ``length`` bytes.

        Raises:
            ValueError: a header that no HTTP request can carry, or a second set of credentials beside the URL's.
        """
        known, start = self._last
        if headers != known or not start:  # nearly always one agent's key, again and again
            start = self._written(headers)
            self._last = dict(headers), start
        return f"{start}Content-Length: {length}\r\n\r\n".encode()

    def _written(self, headers: Mapping[str, str]) -> str:
        if self._credentials and "authorization" in map(str.lower, headers):
            raise ValueError("the URL holds credentials, and so do the headers")
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        for line in lines:
            if _FORBIDDEN.search(line, 0, len(line) - 2):
                raise ValueError("a header holds a control character")
        return self._start + "".join(lines)


def _credentials(url: URL) -> str:
    if not url.raw_user and not url.raw_password:
        return ""
    pair = f"{url.user or ''}:{url.password or ''}".encode()
    return f"Authorization: Basic {b64encode(pair).decode()}\r\n"
