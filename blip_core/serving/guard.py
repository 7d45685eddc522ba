"""What stands before every request: who may ask, how large and how slow a request may be, and what is written of it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import time
from collections import deque
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blip_core.serving.errors import BROKEN, Refused
from blip_core.serving.server_settings import Settings

LOG = logging.getLogger("blip.serve")
OPEN = ("/healthz", "/readyz")
"""What needs no key."""
BODIES = 2**28
"""Bytes that the bodies of all requests may have together."""
KEPT = 600
"""Seconds after which an upload to the page is removed, at the latest twice as long."""
UPLOADS = 2**30
"""Bytes that may be uploaded to the page while the oldest of them may still be kept on the disk."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # The page asks nobody but this server, whatever a library of it would like to load.
    "Content-Security-Policy": (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'"
    ),
}


class Guard:
    """An ASGI application around another one.

    Args:
        app: The application.
        settings: The limits.

    Attributes:
        stopping: Set when the server stops: streams of the page, which never end by themselves, then do.
    """

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app, self.settings = app, settings
        self.stopping = asyncio.Event()
        self.bytes = 0
        self.uploads: deque[tuple[float, int]] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        else:
            await send({"type": "websocket.close", "code": 1008})

    def check(self, scope: Scope) -> None:
        """Raise `Refused` for a request that may not be made, before any of its body is read."""
        headers, settings = Headers(scope=scope), self.settings
        host = headers.get("host", "")
        name = host[: host.index("]") + 1] if "]" in host else host.partition(":")[0]
        if settings.hosts and name.lower() not in settings.hosts:
            raise Refused(421, "The server is not known by this name; start it with --allow-host NAME.")
        if settings.api_key is not None and scope["path"] not in OPEN and not self._knows_key(headers):
            raise Refused(
                401,
                "A key is needed: send it in the header Authorization, as Bearer KEY.",
                {"WWW-Authenticate": 'Basic realm="blip: any name, and the key as password"'},
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > settings.body_bytes:
            raise self.too_large()
        if self.bytes > BODIES or (self._is_upload(scope) and self._uploaded() > UPLOADS):
            raise Refused(503, "The server is busy; ask again later.", {"Retry-After": "1"})

    def count(self, scope: Scope, size: int) -> None:
        """Remember the bytes of an upload, which the page keeps for some time."""
        if self._is_upload(scope):
            self.uploads.append((time.monotonic(), size))

    def _is_upload(self, scope: Scope) -> bool:
        return "/upload" in scope["path"]

    def _uploaded(self) -> int:
        while self.uploads and time.monotonic() - self.uploads[0][0] > 2 * KEPT:
            self.uploads.popleft()
        return sum(size for _, size in self.uploads)

    def too_large(self) -> Refused:
        """A request has too many bytes."""
        return Refused(413, f"The request is larger than {self.settings.max_body:g} MB; send a smaller picture.")

    def _knows_key(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":  # as browsers send it
            try:
                given = base64.b64decode(given, validate=True).decode("utf-8", "replace").partition(":")[2]
            except ValueError:
                return False
        elif kind.lower() != "bearer":
            return False
        wanted = str(self.settings.api_key)
        return hmac.compare_digest(given.strip().encode("utf-8", "replace"), wanted.encode())


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send):
        self.guard, self.scope, self._receive, self._send = guard, scope, receive, send
        self.begin = time.monotonic()
        self.refused: Refused | None = None
        self.bytes, self.status, self.whole = 0, 0, False

    async def run(self) -> None:
        try:
            self.guard.check(self.scope)
            await self.guard.app(self.scope, self.receive, self.send)
        except Refused as refused:
            self.refused = refused
        except Exception as error:
            if self.refused is None:
                self.refused = BROKEN
                log_error(error)
        finally:
            self.guard.bytes -= self.bytes
            self.guard.count(self.scope, self.bytes)
        if self.refused is not None and not self.status:
            await self._answer(self.refused)
        seconds = time.monotonic() - self.begin
        LOG.info("%s %.200r %s %.3f s", self.scope["method"], self.scope["path"], self.status or "left", seconds)

    async def receive(self) -> Message:
        """Pass on a part of the body, or say that the client has left where it sends too much or too slowly."""
        settings = self.guard.settings
        if self.refused is not None:
            return {"type": "http.disconnect"}
        if self.whole:
            return await self._until_stopping()
        try:
            left = settings.body_timeout - (time.monotonic() - self.begin)
            message = await asyncio.wait_for(self._receive(), max(0.01, left))
        except TimeoutError:
            self.refused = Refused(408, f"The request took more than {settings.body_timeout:g} s to arrive.")
            return {"type": "http.disconnect"}
        size = len(message.get("body", b""))
        self.bytes, self.guard.bytes = self.bytes + size, self.guard.bytes + size
        self.whole = not message.get("more_body", False)
        if self.bytes > settings.body_bytes:
            self.refused = self.guard.too_large()
            return {"type": "http.disconnect"}
        return message

    async def _until_stopping(self) -> Message:
        """Wait for the client to leave; of the page's streams, for the server to stop as well."""
        if self.scope["path"].startswith("/v1/"):
            return await self._receive()
        leaving = asyncio.ensure_future(self._receive())
        stopping = asyncio.ensure_future(self.guard.stopping.wait())
        try:
            await asyncio.wait({leaving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return leaving.result() if leaving.done() else {"type": "http.disconnect"}
        finally:
            leaving.cancel()
            stopping.cancel()

    async def send(self, message: Message) -> None:
        """Pass on the answer, with our headers; nothing where the request is refused."""
        if self.refused is not None and not self.status:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def _answer(self, refused: Refused) -> None:
        body = json.dumps(refused.to_dict()).encode()
        headers: dict[str, Any] = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        headers |= {"Connection": "close"} if not self.whole else {}
        headers |= HEADERS | refused.headers
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self.status = refused.status
        await self._send({"type": "http.response.start", "status": refused.status, "headers": raw})
        await self._send({"type": "http.response.body", "body": body})


def log_error(error: BaseException) -> None:
    """Write where an error came from, and its kind, but not its words, which may be those of a request."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "an unknown place"
    LOG.error("%s in %s", type(error).__name__, where)
