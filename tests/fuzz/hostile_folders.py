"""Folders of pictures as nobody would wish them: names, links, devices, permissions, suffixes, contents."""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import zlib
from pathlib import Path

from PIL import Image

GOOD_SUFFIXES = {".png": "PNG", ".PNG": "PNG", ".jpg": "JPEG", ".jpe": "JPEG", ".gif": "GIF", ".bmp": "BMP",
                 ".webp": "WEBP", ".tiff": "TIFF", ".pgm": "PPM", ".tga": "TGA",
                 ".jp2": "JPEG2000", ".jfif": "PNG"}  # fmt: skip
STEMS = (
    "a", "photo 1", " lead", "trail ", "-rf", "--json", "naïve", "日本", "a\nb", "tab\there", "\x1b[31mred", "\x7f\x85",
    "'; rm -rf", '"q"', "*[a]?", "$HOME", "~", "a,b", "{1..3}", "%s", "<b>", "http:", "data:x", "\udcff\udcfe",
    "e\u0301", "\u202egnp", "a.txt", "con", "x" * 200, "é" * 100, "🦊", "a\\b", "#1", "0", "a=b", "@x",
)  # fmt: skip


def picture_bytes(rng: random.Random, kind: str = "PNG") -> bytes:
    """A small picture of one colour."""
    mode = "L" if kind == "PPM" else rng.choice(("RGB", "L"))
    file, size = io.BytesIO(), (rng.randint(1, 12), rng.randint(1, 12))
    Image.new(mode, size, rng.randrange(256) if mode == "L" else (rng.randrange(256),) * 3).save(file, kind)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *more: bytes) -> bytes:
    """A PNG that claims a size."""
    begin = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return begin + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bad_bytes(rng: random.Random) -> bytes:
    """The contents of a file that is no picture that can be read whole."""
    whole = picture_bytes(rng)
    bomb = zlib.compress(bytes(30_000_000))
    return rng.choice((
        b"", b"this is no picture", rng.randbytes(rng.randrange(1, 4000)), whole[: len(whole) // 2], whole[:20],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch /tmp/owned) (w) file\n", b"%PDF-1.4\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"P5 99999 99999 255\n", b"P6\n-1 4 255\n", b"BM" + bytes(60),
        b"II*\0" + struct.pack("<I", 2**32 - 1) + bytes(40), b"GIF89a\xff\xff\xff\xff\x80\0\0",
        b"\0\0\0\x18ftypheic" + bytes(40),
        png(60_000, 60_000, bomb), png(4, 4, b"no zlib"), png(0, 0, zlib.compress(b"")),
        png(16, 16, zlib.compress(bytes(10)), chunk(b"iCCP", b"a\0\0" + bomb)),
    ))  # fmt: skip


def make_folder(case: Path, rng: random.Random) -> dict[str, list[str]]:
    """Fill `case/in`, and `case/beside` with what links lead to; returns the paths of pictures, `good` and `bad`."""
    expected: dict[str, list[str]] = {"good": [], "bad": []}
    beside = case / "beside" / "secret.png"
    beside.write_bytes(picture_bytes(rng))
    folders, closed = [case / "in"], []
    for _ in range(rng.randrange(3)):
        folder = rng.choice(folders) / rng.choice(STEMS)
        if not folder.exists() and not folder.name.startswith("."):
            folder.mkdir()
            folders.append(folder)
    for number in range(rng.randrange(1, 9)):
        folder, stem = rng.choice(folders), rng.choice(STEMS)
        suffix = rng.choice(list(GOOD_SUFFIXES))
        path = folder / f"{stem}{number}{suffix}"
        if path.exists():
            continue
        what = rng.choice(("good",) * 6 + ("bad",) * 4 + tuple(SPECIAL) + ("beside it", "closed", "other"))
        if what == "good":
            path.write_bytes(picture_bytes(rng, GOOD_SUFFIXES[suffix]))
            expected["good"].append(str(path))
        elif what == "bad":
            path.write_bytes(bad_bytes(rng))
            expected["bad"].append(str(path))
        elif what == "beside it":  # of a good picture: what has a text's name is none
            path.write_bytes(picture_bytes(rng, GOOD_SUFFIXES[suffix]))
            expected["good"].append(str(path))
            odd = path.with_suffix(rng.choice((".txt", ".json", ".cap")))
            rng.choice(list(SPECIAL.values()))(odd, beside)
        elif what == "closed":
            path.write_bytes(picture_bytes(rng, GOOD_SUFFIXES[suffix]))
            path.chmod(0)
            expected["bad" if os.geteuid() else "good"].append(str(path))
        elif what == "other":
            text = rng.choice((b"a dog", b"\xff\xfe", b"{" * 2000, b'{"caption": 7}', b"", rng.randbytes(50)))
            path.with_suffix(rng.choice((".txt", ".json", ".psd", ".mp4", ".tar"))).write_bytes(text)
        else:
            outcome = SPECIAL[what](path, beside)
            if outcome:
                expected[outcome].append(str(path))
    if len(folders) > 1 and rng.random() < 0.2:
        closed.append(folders.pop())
    for folder in closed:
        folder.chmod(0)
        inside = str(folder) + os.sep
        for kind, paths in expected.items():
            expected[kind] = [path for path in paths if not path.startswith(inside)]
        expected["bad"].append(str(folder))
    return expected


def _pipe(path: Path, beside: Path) -> str:
    os.mkfifo(path)
    return "bad"


def _folder(path: Path, beside: Path) -> str:
    path.mkdir()
    return ""


def _socket(path: Path, beside: Path) -> str:
    here = os.getcwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as opened:
        try:
            opened.bind(path.name)
        except OSError:  # the name is too long for a socket
            return ""
        finally:
            os.chdir(here)
    return "bad"


def _link(target: str, outcome: str):
    def make(path: Path, beside: Path) -> str:
        path.symlink_to(target.format(beside=beside, folder=beside.parent, name=path.name))
        return outcome

    return make


SPECIAL = {
    "pipe": _pipe, "folder": _folder, "socket": _socket, "link": _link("{beside}", "good"),
    "device": _link("/dev/zero", "bad"), "nowhere": _link("/no/such/file", "bad"), "terminal": _link("/dev/tty", "bad"),
    "up": _link("..", ""), "folder beside": _link("{folder}", ""), "root": _link("/", ""),
    "process": _link("/proc/self", ""),
}  # fmt: skip
"""What is no regular file: makes it at a path, returns what `blip caption` says of it ("" for nothing by that name)."""
