"""Run an application behind a port: one port, connections with limits, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from blip_core.serving.application import Service
from blip_core.serving.guard import LOG, Guard
from blip_core.serving.server_settings import Settings

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def bind(host: str, port: int) -> socket.socket:
    """Open a port. Raises `OSError` in one sentence where that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        opened = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        raise OSError(f"--host {host} is no address of this machine; take 127.0.0.1, or 0.0.0.0 for all.") from None
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(128)
    except OSError as error:
        opened.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
        raise OSError(f"Port {port} of {host} {reason}; take another with --port.") from None
    return opened


def allowed_hosts(host: str, more: list[str]) -> tuple[str, ...]:
    """The names by which a server may be asked; on loopback these alone, so that no page elsewhere borrows a name."""
    named = tuple(name.lower() for name in more)
    return (*LOOPBACK, host.lower(), *named) if is_loopback(host) else named


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address."""
    return host.startswith("127.") or host in ("localhost", "::1")


def run(guard: Guard, service: Service, opened: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish what is running, and return.

    Args:
        guard: The application with its guard.
        service: What answers its requests.
        opened: The port, of `bind`.
        ready: Called with the address once requests are taken.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    config = uvicorn.Config(
        guard, http=patient(service.settings), ws="none", log_config=None, log_level="warning", access_log=False,
        server_header=False, proxy_headers=False, timeout_keep_alive=5,
        timeout_graceful_shutdown=round(service.settings.timeout) + 5,
    )  # fmt: skip
    host, port = opened.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    _Server(config, guard, service, lambda: ready(address)).run(sockets=[opened])


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready, and whose process ends well after a signal."""

    def __init__(self, config: uvicorn.Config, guard: Guard, service: Service, ready: Callable[[], None]):
        super().__init__(config)
        self._guard, self._service, self._ready = guard, service, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stopping = True
        self._guard.stopping.set()
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()  # quick; cut off, it would leave a traceback

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit  # the second time
        self.should_exit = True


def patient(settings: Settings) -> type[asyncio.Protocol]:
    """A class of connections with two limits that uvicorn lacks: how many there are, and how long a header takes."""

    class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # a class chosen when uvicorn is imported
        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > settings.connections:
                transport.abort()
            else:
                self._expect_header()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._expect_header()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.deadline is not None:
                self.deadline.cancel()

        def _expect_header(self) -> None:
            if self.deadline is None and self._waits():
                self.deadline = self.loop.call_later(settings.body_timeout, self._late)

        def _waits(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _late(self) -> None:
            self.deadline = None
            if self._waits() and not self.transport.is_closing():
                self.transport.abort()

    return Connection
