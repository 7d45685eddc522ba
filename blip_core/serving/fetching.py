"""Fetch pictures by their address, never from this machine or its network.

A name is resolved once, every address that it has must be public, and the connection goes to the address that was
checked: a name that means something else a moment later leads nowhere. Each redirect is checked alike. The library
`safehttpx`, which does the same, asks Google's servers about names and limits no sizes.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

from blip_core.serving.errors import Refused

SECONDS = 15
REDIRECTS = 3
PORTS = {"http": 80, "https": 443}
MOVED = (301, 302, 303, 307, 308)


def fetch(url: str, most: int) -> bytes:
    """Return the bytes at an address.

    Args:
        url: An http or https address.
        most: The greatest number of bytes.

    Raises:
        Refused: For an address that is not public or does not answer with a file in time, 422.
    """
    deadline = time.monotonic() + SECONDS
    try:
        for _ in range(REDIRECTS + 1):
            found = _ask(url, most, deadline)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise OSError("it is redirected too often")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Refused(422, f"The address of the image cannot be read: {error}; send the picture itself.") from None


def public_address(host: str, port: int) -> str:
    """Resolve a name to an address. Raises `OSError` unless all that it has are public."""
    try:
        found = {str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise OSError("its host is not known") from None
    for address in found:
        if not is_public(address):
            raise OSError("its host is not a public one")
    return sorted(found)[0]


def is_public(address: str) -> bool:
    """Say whether an address is one of the public internet; what hides another address in it is not."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    hidden = parsed.version == 6 and (parsed.ipv4_mapped or parsed.sixtofour or parsed.teredo or parsed in NAT64)
    return parsed.is_global and not parsed.is_multicast and not hidden


NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _ask(url: str, most: int, deadline: float) -> bytes | str:
    """The content at an address, or where it is redirected to."""
    parts = urlsplit(url)
    port = PORTS.get(parts.scheme)
    if port is None or not parts.hostname or parts.port not in (None, port) or parts.username is not None:
        raise OSError("it must be an http or https address of the usual port")
    raw = socket.create_connection((public_address(parts.hostname, port), port), timeout=5)
    # Whatever a server sends byte by byte, its header or a handshake, ends here.
    ending = threading.Timer(max(0.0, deadline - time.monotonic()), _end, (raw,))
    ending.start()
    try:
        return _answer(raw, parts, port, most)
    finally:
        ending.cancel()
        raw.close()


def _answer(raw: socket.socket, parts: SplitResult, port: int, most: int) -> bytes | str:
    """Ask over a connection to the address that was checked; the certificate must be that of the name."""
    host = str(parts.hostname)
    connection = http.client.HTTPConnection(host, port)
    connection.sock = raw
    if parts.scheme == "https":
        connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=host)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", path, headers={"Host": parts.netloc, "User-Agent": "blip-duo", "Accept": "image/*"})
    answer = connection.getresponse()
    if answer.status in MOVED:
        return answer.headers.get("Location", "")
    if answer.status != 200:
        raise OSError(f"it answers with status {answer.status}")
    content = bytearray()
    while chunk := answer.read1(2**16):
        content += chunk
        if len(content) > most:
            raise OSError(f"it is larger than {most >> 20} MB")
    if answer.length:
        raise OSError(f"it was cut off, or takes longer than {SECONDS} s")
    return bytes(content)


def _end(raw: socket.socket) -> None:
    with suppress(OSError):
        raw.shutdown(socket.SHUT_RDWR)
