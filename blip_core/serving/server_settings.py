"""What a server is allowed to do, and how much."""

from __future__ import annotations

from dataclasses import dataclass

from blip_core.validators import number, whole_number

MEGABYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and permissions of a server.

    Args:
        batch_size: How many requests the model gets at once.
        queue: How many requests may be in work or waiting; more are refused with 503.
        timeout: Seconds from the last byte of a request to its answer.
        max_body: Megabytes of a request, a picture in it included.
        max_pixels: Millions of pixels of a picture.
        body_timeout: Seconds that a client may take to send a request.
        connections: Connections that may be open at once.
        allow_urls: Whether a request may name a picture by its address, which is then downloaded.
        api_key: What clients must show; None lets everybody in.
        cors: Addresses of pages elsewhere whose scripts may ask, such as "https://example.org"; "*" for all.
        hosts: Names by which the server may be asked; none for any name.

    Raises:
        ValueError: For a number that cannot work.
    """

    batch_size: int = 8
    queue: int = 64
    timeout: float = 60
    max_body: float = 16
    max_pixels: float = 50
    body_timeout: float = 30
    connections: int = 512
    allow_urls: bool = False
    api_key: str | None = None
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue", "connections"):
            whole_number(name, getattr(self, name), 1)
        for name in ("timeout", "max_body", "max_pixels", "body_timeout"):
            number(name, getattr(self, name), above=0)
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("The API key is empty; give one of a few random words.")

    @property
    def body_bytes(self) -> int:
        """The largest body of a request in bytes."""
        return int(self.max_body * MEGABYTE)

    @property
    def pixels(self) -> int:
        """The largest number of pixels of a picture."""
        return int(self.max_pixels * 1e6)
