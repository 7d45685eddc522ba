"""What the load and the hostility of `serving_load` have in common: a server, and requests with what is right."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EMOJI = sorted((Path(__file__).parents[1] / "data" / "emoji").glob("*.png"))[:24]
BLIP = [sys.executable, "-m", "blip_core.cli"]
Row = dict[str, Any]


class Server:
    """A server in a process of its own, which writes its log to a file."""

    def __init__(self, *options: str):
        begin = time.monotonic()
        descriptor, self.log = tempfile.mkstemp(prefix="blip-serve-", suffix=".log")
        with open(descriptor, "w") as log:
            self.process = subprocess.Popen([*BLIP, "serve", "--port", "0", "--engine", "pt", *options], stderr=log)
        while not (found := re.search(r"127\.0\.0\.1:(\d+)", self.logged())):
            assert self.process.poll() is None, self.logged()
            time.sleep(0.02)
        self.port = int(found[1])
        assert self.ask(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200
        self.started = time.monotonic() - begin

    def logged(self) -> str:
        return Path(self.log).read_text(errors="replace")

    def connect(self, seconds: float = 60) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), seconds)

    def ask(self, request: bytes, seconds: float = 60) -> tuple[int, bytes]:
        """Send a request as it is; what is received."""
        with self.connect(seconds) as connection:
            with suppress(OSError):
                connection.sendall(request)
            return received(connection)

    def megabytes(self, which: str = "VmRSS") -> float:
        """The memory now, or with "VmHWM" at most until now."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{which}:\s+(\d+)", text)[1]) / 1024

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.terminate()
        self.ended()

    def ended(self) -> None:
        code = self.process.wait(90)
        assert (code, "Traceback" in self.logged()) == (0, False), (code, self.logged()[-2000:])
        os.unlink(self.log)


def received(connection: socket.socket) -> tuple[int, bytes]:
    """Read an answer; its status is 0 where the connection ends, or nothing comes in time, before it is whole."""
    answer = b""
    with suppress(OSError):
        while whole(answer) is None and (part := connection.recv(2**16)):
            answer += part
    return whole(answer) or (0, answer)


def whole(answer: bytes) -> tuple[int, bytes] | None:
    """The status and the body of an answer, None while a part of it is missing."""
    header, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", header)
    return (int(header[9:12]), body) if end and len(body) >= int(length[1] if length else 0) else None


def post(body: bytes, path: str = "/v1/caption") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def asking(content: bytes, **options: Any) -> bytes:
    """A request for the caption of a picture."""
    return post(json.dumps({"image": base64.b64encode(content).decode(), **options}).encode())


@dataclass
class Work:
    """Requests and what the command line says of each."""

    requests: list[bytes]
    truths: list[Row]

    @classmethod
    def of(cls, pictures: list[Path], model: list[str], tokens: int) -> Work:
        names = [str(path) for path in pictures]
        command = [*BLIP, "caption", *names, "--json", "--scores", "--max-tokens", str(tokens), "--engine", "pt"]
        printed = subprocess.run([*command, *model], capture_output=True, text=True, check=True).stdout
        requests = [asking(path.read_bytes(), max_new_tokens=tokens) for path in pictures]
        return cls(requests, [json.loads(line) for line in printed.splitlines()])

    def is_right(self, number: int, status: int, body: bytes) -> bool:
        """Say whether an answer is the command line's: its words and tokens, and its numbers within float32."""
        if status != 200:
            return False
        found, truth = json.loads(body), self.truths[number]
        words = ("caption", "tokens")
        equal = all(found[name] == truth[name] for name in words)
        return equal and np.allclose(found["token_log_probs"], truth["token_log_probs"], rtol=1e-4, atol=1e-4)
