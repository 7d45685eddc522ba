"""Pictures from files, bytes, open files, URLs and data URIs; what is refused before anything is run or downloaded."""

from __future__ import annotations

import base64
import io
import os
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipImageProcessor
from blip_core.processing import picture_files
from blip_core.processing.picture_files import ROOM, load_image
from tests.helpers.drawn_pictures import PHOTOS

PNG = (PHOTOS / "cat.png").read_bytes()


@pytest.fixture(scope="module")
def server():
    """A web server on this machine: `/cat` is a picture, `/endless` and `/slow` never end, `/text` is no picture."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if self.path == "/missing" else 200)
            self.end_headers()
            self.wfile.write(PNG if self.path == "/cat" else b"hello")
            try:
                while self.path in ("/endless", "/slow"):
                    self.wfile.write(bytes(2**20 if self.path == "/endless" else 1))
            except OSError:
                pass

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_pictures_in_every_form(server, tmp_path):
    processor = BlipImageProcessor(size=32)
    expected = processor(PHOTOS / "cat.png").pixel_values[0]
    text = base64.b64encode(PNG).decode()
    buffer = io.BytesIO(PNG)
    buffer.read()
    with open(PHOTOS / "cat.png", "rb") as file:
        forms = [PNG, bytearray(PNG), memoryview(PNG), buffer, buffer, file, text, f"data:image/png;base64,{text}"]
        found = processor([*forms, f"{server}/cat", str(PHOTOS / "cat.png")]).pixel_values
    assert len(found) == 10
    for pixels in found:
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/missing", "/missing cannot be read: Not Found; check the address"),
        ("/text", "/text is not a picture that can be read whole: its format is not known"),
        ("/endless", "/endless cannot be read: it is larger than 1 MB"),
        ("/slow", "/slow cannot be read: it takes longer than 0.2 s"),
    ],
)
def test_bad_urls_are_named(server, path, said, monkeypatch):
    monkeypatch.setattr(picture_files, "URL_BYTES", 2**20)
    if path == "/slow":
        monkeypatch.setattr(picture_files, "URL_SECONDS", 0.2)
    with pytest.raises(OSError, match=said):
        load_image(server + path)
    with pytest.raises(OSError, match=r"cannot be read: .*refused"):
        load_image("http://127.0.0.1:9/cat")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("data:image/png;base64,§", "The image must be a data URI"),
        ("data:text/plain,cat", "The image must be a data URI"),
        (io.StringIO("cat"), "must be a file opened in binary mode"),
        (b"hello", "its format is not known"),
        ("cat" * 30, "No such file"),
    ],
)
def test_what_is_no_picture_is_refused(source, said):
    with pytest.raises((OSError, ValueError), match=said):
        load_image(source)


def test_only_regular_files_are_opened(tmp_path):
    """Opening a pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path / "link.png", "/dev/zero"):
        with pytest.raises(OSError, match="it is no regular file, but a pipe or a device"):
            load_image(path)
    with pytest.raises(OSError, match="it is a folder"):
        load_image(tmp_path)


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    """Pillow gives Encapsulated PostScript to Ghostscript, whatever the file is called."""
    Image.open(PHOTOS / "cat.png").convert("RGB").save(tmp_path / "cat.eps")
    (tmp_path / "cat.eps").rename(tmp_path / "cat.jpg")
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(OSError, match=r"cat\.jpg is not a picture that can be read whole: its format is not known"):
        load_image(tmp_path / "cat.jpg")
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".apng", ".pgm", ".ppm", ".tga", ".jp2", ".mpo", ".webp", ".tif"])
def test_suffixes_that_pillow_reads(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    kind = {".apng": "PNG", ".pgm": "PPM", ".mpo": "MPO"}.get(suffix)
    Image.open(PHOTOS / "cat.png").convert("L" if suffix == ".pgm" else "RGB").save(path, format=kind)
    assert picture_files.is_picture_name(path.name)
    assert load_image(path).size == (213, 169)


def test_pictures_of_telephones_name_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert picture_files.is_picture_name("a.HEIC")
    with pytest.raises(OSError, match=r'a\.heic is not .*: it is HEIF, which needs: pip install "blip-duo\[heif\]"'):
        load_image(path)
    opened = types.SimpleNamespace(to_pillow=lambda: Image.new("RGB", (3, 2)))
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(open_heif=lambda file: opened))
    assert load_image(path).size == (3, 2)
    assert load_image(path.read_bytes()).size == (3, 2)


def test_pictures_in_flight_are_bounded(tmp_path, monkeypatch):
    """Threads decode large pictures one after the other, small ones together."""
    Image.new("L", (100, 50)).save(tmp_path / "a.png")
    most = []

    def watched(image, name, background=None):
        most.append(ROOM.taken)
        return image.convert("RGB")

    monkeypatch.setattr("blip_core.processing.image_processor.to_rgb", watched)
    for limit, bound in ((7_000, 5_000), (11_000, 10_000), (1_000, 1_000)):
        monkeypatch.setattr(ROOM, "limit", limit)
        most.clear()
        BlipImageProcessor(size=8)([tmp_path / "a.png"] * 12)
        assert 0 < max(most) <= bound
    assert ROOM.taken == 0
