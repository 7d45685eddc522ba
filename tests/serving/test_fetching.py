"""Addresses of pictures: only public ones, checked at each redirect, with limits of size and time."""

import http.server
import socket
import threading

import pytest
import starlette  # noqa: F401  # skipped as a whole without it

from blip_core.serving import fetching
from blip_core.serving.errors import Refused


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("0.0.0.0", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fd00::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:93.184.216.34", False), ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address, public):
    assert fetching.is_public(address) is public


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png", "http://localhost/a.png", "http://[::1]/a.png", "http://0x7f.1/a.png",
        "http://2130706433/a.png", "http://169.254.169.254/latest/meta-data", "ftp://example.org/a.png",
        "http://user:word@93.184.216.34/a.png", "http://93.184.216.34:22/", "http:///a.png", "http://[bad/a.png",
    ],
)  # fmt: skip
def test_private_addresses_are_never_asked(url, monkeypatch):
    def connect(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(
        Refused, match=r"The address of the image cannot be read: .*; send the picture itself"
    ) as refused:
        fetching.fetch(url, 1000)
    assert refused.value.status == 422


def test_one_private_address_among_those_of_a_name_is_enough(monkeypatch):
    rows = [(2, 1, 6, "", (address, 80)) for address in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)
    with pytest.raises(OSError, match="not a public one"):
        fetching.public_address("rebind.example", 80)


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
        elif self.path == "/slow":
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n12")
            self.wfile.flush()
            self.server.let_go.wait(10)
        else:
            self.send_response(404 if self.path == "/missing" else 200)
            self.end_headers()
            self.wfile.write(b"x" * int(self.path[1:] if self.path[1:].isdigit() else 0))

    def log_message(self, *_):
        pass


@pytest.fixture
def elsewhere(monkeypatch):
    """A server on this machine, which counts as public for the name public.example alone."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.let_go = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setitem(fetching.PORTS, "http", server.server_port)
    known = fetching.public_address
    monkeypatch.setattr(
        fetching, "public_address", lambda host, port: "127.0.0.1" if host == "public.example" else known(host, port)
    )
    yield "http://public.example"
    server.let_go.set()
    server.shutdown()
    server.server_close()


def test_what_is_public_is_fetched_within_limits(elsewhere, monkeypatch):
    assert fetching.fetch(f"{elsewhere}/700", 1000) == b"x" * 700
    assert fetching.fetch(f"{elsewhere}/moved?/700", 1000) == b"x" * 700
    for path, said in (
        ("/1001", "larger than"), ("/missing", "status 404"), ("/moved?http://127.0.0.1/700", "not a public one"),
        ("/moved?/moved?/moved?/moved?/7", "redirected too often"),
        ("/moved?file:///etc/passwd", "http or https address"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=said):
            fetching.fetch(elsewhere + path, 1000)
    monkeypatch.setattr(fetching, "SECONDS", 0.3)
    with pytest.raises(Refused, match="cut off, or takes longer"):
        fetching.fetch(f"{elsewhere}/slow", 1000)


def test_a_request_may_name_an_address_where_that_is_allowed(elsewhere, serving, files, monkeypatch):
    monkeypatch.setattr(
        Pages, "do_GET", lambda self: (self.send_response(200), self.end_headers(), self.wfile.write(files[0]))
    )
    answer = serving(allow_urls=True).post("/v1/caption", json={"image": f"{elsewhere}/a.png"})
    assert (answer.status_code, "caption" in answer.json()) == (200, True)
    answer = serving(allow_urls=True).post("/v1/caption", json={"image": "http://localhost/a.png"})
    assert (answer.status_code, "not a public one" in answer.json()["error"]) == (422, True)
