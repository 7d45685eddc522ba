"""A store on loopback that can be told to fail; `served` and `store` are fixtures for the conftest.py of a room."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BUCKET = "photos"


class Failing:
    """A WSGI application in front of moto's: each fault spoils one of the next requests that it fits.

    A fault is what happens, and the end of the path and the method of the requests that it happens to.
    """

    def __init__(self, app: Any):
        self.app = app
        self.faults: list[tuple[str, str, str]] = []
        self.asked: list[tuple[str, str]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.asked.append((method, path))
        fault = next((one for one in self.faults if path.endswith(one[1]) and method == one[2]), None)
        if fault is None:
            return self.app(environ, start_response)
        self.faults.remove(fault)
        if fault[0] == "slow":
            time.sleep(0.3)
            return self.app(environ, start_response)
        if fault[0] == "cut off":
            body = b"".join(self.app(environ, start_response))
            return [body[: len(body) // 2]]
        status = {"error": "500 Internal Server Error", "forbidden": "403 Forbidden"}[fault[0]]
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", "0")])
        return [b""]


class Store:
    """The bucket, with what is needed to fill it and to make it fail."""

    def __init__(self, server: Failing, address: str, backend: Any):
        self.server, self.address, self.backend = server, address, backend

    def put(self, name: str, data: bytes) -> str:
        self.backend.put_object(BUCKET, name, data)
        return f"s3://{BUCKET}/{name}"

    def put_for_all(self, name: str, data: bytes) -> str:
        """Put what may be read without credentials; returns its address on the web."""
        from moto.s3.models import get_canned_acl

        self.put(name, data)
        self.backend.get_object(BUCKET, name).set_acl(get_canned_acl("public-read"))
        return f"{self.address}/{BUCKET}/{name}"

    def put_folder(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(str(path.relative_to(folder)), path.read_bytes())

    def fail(self, fault: str, name: str, times: int = 1, method: str = "GET") -> None:
        self.server.faults += [(fault, name, method)] * times


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Failing, str]]:
    """moto's S3 behind `Failing`, and its address."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            pass

    app = Failing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield app, f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def store(served: tuple[Failing, str], monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty bucket; credentials and address are given as botocore takes them, and nothing is waited for."""
    import s3fs
    from moto.s3.models import s3_backends

    app, address = served
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("blip_core.stores.paths.WAIT", 0)
    s3fs.S3FileSystem.clear_instance_cache()  # which may have the address of another file of tests
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    backend = s3_backends["123456789012"]["aws"]
    backend.reset()
    backend.create_bucket(BUCKET, "us-east-1")
    app.faults.clear()
    app.asked.clear()
    return Store(app, address, backend)
