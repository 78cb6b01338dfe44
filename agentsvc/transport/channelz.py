"""gRPC's own view of its servers, sockets and streams (grpc.channelz.v1), for `grpcdebug` and its like.

It tells the addresses of all peers, so it is a server of its own beside the operators' door, and off unless asked for.
"""

from __future__ import annotations

import grpc
from grpc_channelz.v1 import channelz  # type: ignore[import-untyped]  # no stubs


class Channelz:
    """Serves on host:port until ``stop``. ``port`` is the real one after ``start``."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: the address cannot be listened on.
        """
        # It need not show itself, and must not share its port with a second process.
        server = grpc.aio.server(options=(("grpc.enable_channelz", 0), ("grpc.so_reuseport", 0)))
        channelz.add_channelz_servicer(server)
        try:
            self.port = server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {self._address} for channelz (is another process using it?): "
                "set AGENTSVC_CHANNELZ_ADDRESS to a free host:port, or to off"
            ) from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Closes the port. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)
