"""Hostile requests and connections, for `serving_load`."""

from __future__ import annotations

import argparse
import base64
import json
import random
import resource
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from tests.bench.serving_load_server import EMOJI, Server, Work, asking, post


def bomb(side: int = 30000) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10**7))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def hostile_requests(picture: bytes) -> list[Callable[[random.Random], bytes]]:
    """Functions of a random source that return hostile requests: those that must be answered with an error."""
    encoded = base64.b64encode(picture).decode()

    def form(*parts: tuple[str, bytes]) -> bytes:
        rows = (b"--x\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data for head, data in parts)
        body = b"\r\n".join([*rows, b"--x--\r\n"])
        head = "POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body

    return [
        lambda draw: asking(picture[: draw.randrange(len(picture))]),  # cut
        lambda draw: asking(bomb()),
        lambda draw: asking(bomb(14000)),  # fewer pixels than Pillow's own limit
        lambda draw: asking(draw.randbytes(1000)),
        lambda draw: form(('name="image"; filename="../../a.png"', b"%PDF-1.7 " + draw.randbytes(100))),
        lambda draw: form(('name="image"; filename="a.gif"', b"GIF89a" + draw.randbytes(3000))),
        lambda draw: form(*[(f'name="n{n}"', b"1") for n in range(1600)]),
        lambda draw: post(json.dumps({"image": 7, "num_beams": {}}).encode()),
        lambda draw: post(b'{"a": ' * 50000),
        lambda draw: post(json.dumps({"image": "x" * 3 * 10**6, "prompt": "y" * 10**6}).encode()),
        lambda draw: post(json.dumps({"image": encoded, "prompt": "y" * 10**6}).encode()),
        lambda draw: post(json.dumps({"image": encoded, "num_beams": 10**9, "bad_words_ids": [[1]]}).encode()),
        lambda draw: post(json.dumps({"image": encoded, "max_new_tokens": 1e400}).encode()),
        lambda draw: post(json.dumps({"image": "/etc/passwd"}).encode()),
        lambda draw: post(json.dumps({"image": "http://169.254.169.254/latest/meta-data"}).encode()),
        lambda draw: post(b"\x00" * 10**6),
        lambda draw: post(b'{"image": "' + b"A" * 17 * 2**20 + b'"}'),  # larger than is allowed
        lambda draw: post(json.dumps({"image": encoded, "question": ["why?"] * 33}).encode(), "/v1/answer"),
        lambda draw: b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\nx",
        lambda draw: b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\nx",
        lambda draw: b"GET / HTTP/1.1\r\nHost: " + b"a" * 100000 + b"\r\n\r\n",
        lambda draw: b"GET /gradio_api/file=/etc/passwd HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        lambda draw: b"GET /gradio_api/file=/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda draw: b"GET /gradio_api/proxy=http://169.254.169.254/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda draw: b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda draw: b"POST /v1/match HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0",
        lambda draw: b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n\r\n",
        lambda draw: b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + draw.randbytes(200),
        lambda draw: draw.randbytes(300) + b"\r\n\r\n",
    ]  # fmt: skip


def is_a_sentence(body: bytes) -> bool:
    """Say whether an answer tells a stranger no more than a sentence: ours, Gradio's, or that of the HTTP parser."""
    if not body.startswith(b"{"):
        return body in (b"", b"Invalid HTTP request received.", b"Not Found")
    return list(json.loads(body)) in (["error"], ["detail"]) and b"Traceback" not in body


class Slow(threading.Thread):
    """Clients that send a byte a second, until they are told to go."""

    def __init__(self, server: Server, count: int):
        super().__init__(daemon=True)
        self.left, self.closed = threading.Event(), 0
        self.connections = [server.connect() for _ in range(count)]

    def run(self) -> None:
        heads = [b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Le", post(b"{" * 1000)[:150]]
        for number, connection in enumerate(self.connections):
            connection.sendall(heads[number % 2])
        while self.connections and not self.left.wait(1):
            for connection in list(self.connections):
                try:
                    connection.sendall(b"n")
                except OSError:
                    self.closed += 1
                    self.connections.remove(connection)


def be_hostile(args: argparse.Namespace) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    work = Work.of(EMOJI[:1], [], 20)
    server = Server("--body-timeout", "10")
    kinds, draw = hostile_requests(EMOJI[0].read_bytes()), random.Random(0)
    before, begin = server.megabytes(), time.monotonic()
    slow = Slow(server, 40)
    slow.start()
    statuses: Counter[int] = Counter()
    for number in range(args.hostile):
        status, body = server.ask(kinds[number % len(kinds)](draw), seconds=2)
        statuses[status] += 1
        assert status not in (200, 500), (number % len(kinds), status, body)
        assert is_a_sentence(body), (number % len(kinds), status, body)
        if number % 100 == 0:
            assert work.is_right(0, *server.ask(work.requests[0]))
    print(f"{args.hostile} hostile requests in {time.monotonic() - begin:.0f} s: {dict(sorted(statuses.items()))}")
    begin, held = time.monotonic(), []
    for number in range(args.connections):
        with suppress(OSError):
            connection = server.connect()
            if number % 2:
                connection.send(b"POST /v1/caption HTTP/1.1\r\nHost:")
            held.append(connection)
            if len(held) > 1000:  # more at once than the server allows
                held.pop(0).close()
    for connection in held:
        connection.close()
    print(f"{args.connections} connections in {time.monotonic() - begin:.0f} s")
    assert work.is_right(0, *server.ask(work.requests[0]))
    slow.left.set()
    slow.join()
    most = server.megabytes("VmHWM")
    print(f"of 40 clients that send a byte a second, {slow.closed} were cut off")
    print(f"still serving; memory: {before:.0f} MB before, {most:.0f} MB at most, {server.megabytes():.0f} MB after")
    assert most < 2000
    server.stop()
