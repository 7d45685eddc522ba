"""Load a server and be hostile to it: python -m tests.bench.serving_load [--seconds 20] [--clients 32] [--hostile 300].

It starts `blip serve` with the model in the package, or another, on a free port of this machine, and ends with it. It
prints how long the start took, the requests of one client and of many in a second, p50 and p99, whether every answer is
that of the command line's class, the memory before and after, and that hostile requests leave it serving.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from blip_core import Captioner

EMOJI = sorted((Path(__file__).parents[1] / "data" / "emoji").glob("*.png"))
TYPE = {"Content-Type": "application/json"}


class Server:
    """A server in a process of its own."""

    def __init__(self, *options: str):
        command = [sys.executable, "-m", "blip_core.cli", "serve", "--port", "0", "--engine", "pt", *options]
        begin = time.monotonic()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        self.started = time.monotonic() - begin
        self.log: list[str] = []
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def megabytes(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(90)


def ask(connection: http.client.HTTPConnection, body: bytes, path: str = "/v1/caption") -> tuple[int, dict]:
    connection.request("POST", path, body, TYPE)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def load(server: Server, clients: int, seconds: float, bodies: list[bytes], truths: list[str]) -> dict[str, float]:
    """Let clients ask one request after the other; requests per second, p50 and p99 in seconds,
    the server's CPU seconds for each, which other work on the machine changes little, and how many were wrong."""
    times: list[float] = []
    wrong: list[str] = []
    end = time.monotonic() + seconds

    def client(seed: int) -> None:
        draw, connection = random.Random(seed), server.connection()
        while time.monotonic() < end:
            number = draw.randrange(len(bodies))
            begin = time.monotonic()
            status, found = ask(connection, bodies[number])
            times.append(time.monotonic() - begin)
            if status != 200 or found["caption"] != truths[number]:
                wrong.append(f"{status} {found}")

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(clients)]
    begin, cpu = time.monotonic(), server.cpu_seconds()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(times) / (time.monotonic() - begin)
    cpu = (server.cpu_seconds() - cpu) / len(times)
    p50, p99 = np.quantile(times, (0.5, 0.99)).tolist()
    return {"requests": len(times), "per_second": rate, "p50": p50, "p99": p99, "cpu": cpu, "wrong": len(wrong)}


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10**7))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def raw(server: Server, data: bytes) -> None:
    """Send bytes as they are, and leave."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(data)
        connection.settimeout(0.2)
        connection.recv(100)


def hostile(server: Server, count: int, picture: bytes) -> dict[int, int]:
    """Make hostile requests, and return how often each status was answered."""
    draw, statuses = random.Random(0), {}
    encoded = base64.b64encode
    kinds = (
        lambda: json.dumps({"image": encoded(picture[: draw.randrange(len(picture))]).decode()}).encode(),
        lambda: json.dumps({"image": encoded(bomb()).decode()}).encode(),
        lambda: json.dumps({"image": encoded(draw.randbytes(1000)).decode()}).encode(),
        lambda: json.dumps({"image": 7, "num_beams": {}}).encode(),
        lambda: b'{"a": ' * 50000,
        lambda: json.dumps({"image": "x" * 3 * 10**6, "prompt": "y" * 10**6}).encode(),
        lambda: json.dumps({"image": encoded(picture).decode(), "prompt": "y" * 10**6}).encode(),
        lambda: json.dumps({"image": encoded(picture).decode(), "num_beams": 10**9, "bad_words_ids": [[1]]}).encode(),
        lambda: json.dumps({"image": "/etc/passwd"}).encode(),
        lambda: b"\x00" * 10**6,
    )
    tricks = (
        b"GET / HTTP/1.1\r\nHost: " + b"a" * 100000 + b"\r\n\r\n",
        b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\nx",
        b"POST /v1/caption HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n",
        b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /gradio_api/file=/etc/passwd HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
    )
    for number in range(count):
        if number % 3 == 2:
            raw(server, tricks[number // 3 % len(tricks)])
            continue
        status = 0
        with suppress(OSError, http.client.HTTPException):
            status, found = ask(server.connection(), kinds[number % len(kinds)]())
            assert list(found) == ["error"], found
        statuses[status] = statuses.get(status, 0) + 1
    return statuses


def open_and_leave(server: Server, count: int) -> None:
    """Open connections, of which a part says half a request, and leave them."""
    for number in range(count):
        with suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            if number % 2:
                connection.send(b"POST /v1/caption HTTP/1.1\r\nHost:")
            connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--hostile", type=int, default=300)
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--model")
    args = parser.parse_args()
    files = [path.read_bytes() for path in EMOJI[:24]]
    captioner = Captioner.from_pretrained(args.model, engine="pt")
    truths = [found.text for found in captioner(files, max_new_tokens=20)]
    del captioner
    bodies = [json.dumps({"image": base64.b64encode(file).decode(), "max_new_tokens": 20}).encode() for file in files]
    server = Server(*(["--model", args.model] if args.model else []))
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"start: {server.started:.1f} s, of which {server.cpu_seconds():.1f} CPU seconds")
    try:
        load(server, 2, 2, bodies, truths)  # warm
        alone = load(server, 1, args.seconds / 2, bodies, truths)
        before = server.megabytes()
        many = load(server, args.clients, args.seconds, bodies, truths)
        for name, found in (("1 client", alone), (f"{args.clients} clients", many)):
            print(name, ", ".join(f"{key} {value:.4g}" for key, value in found.items()))
        times = many["per_second"] / alone["per_second"]
        print(f"{alone['cpu'] / many['cpu']:.2f} times by CPU seconds")
        print(f"{times:.2f} times; {before:.0f} MB before, {server.megabytes():.0f} after")
        assert not alone["wrong"] + many["wrong"]
        print("hostile:", hostile(server, args.hostile, files[0]))
        open_and_leave(server, args.connections)
        status, found = ask(server.connection(), bodies[0])
        assert (status, found["caption"]) == (200, truths[0])
        print(
            f"still serving, {server.megabytes():.0f} MB; tracebacks: {sum('Traceback' in line for line in server.log)}"
        )
    finally:
        print("exit code", server.stop())


if __name__ == "__main__":
    main()
