"""Open pictures with care, from files, bytes, open files, URLs or data URIs, as PIL images."""

from __future__ import annotations

import base64
import binascii
import io
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image, ImageOps, UnidentifiedImageError

Source = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image
"""A picture's source: a path, an http(s) URL, a data URI, base64, a file's bytes, an open file, or an image."""

FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF", "JXL", "JPEG2000", "ICO", "TGA",
)  # fmt: skip
"""The formats that Pillow may open. Others start programs (EPS: Ghostscript), or are documents."""

SUFFIXES = (
    ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jxl",
    ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Suffixes of the pictures in a folder; a file that is named itself may have any suffix."""

URL_BYTES, URL_SECONDS = 50 * 2**20, 20
"""Limits of a download: size and time."""

PIXELS = 180_000_000
"""Pixels that all threads together may hold decoded: one picture of the largest size that Pillow accepts, or many."""

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


def is_picture_name(path: str) -> bool:
    """Say whether a file in a folder is a picture, by its suffix; hidden files are not."""
    return path.lower().endswith(SUFFIXES) and not os.path.basename(path).startswith(".")


def is_source(value: Any) -> bool:
    """Say whether `load_image` takes a value; it takes no arrays or tensors."""
    return isinstance(value, str | os.PathLike | bytes | bytearray | memoryview | Image.Image) or hasattr(value, "read")


def load_image(
    source: Source, apply_exif_orientation: bool | None = None, name: str = "The image", least: int | None = None
) -> Image.Image:
    """Read a picture into memory; a PIL image is loaded if needed and returned.

    Args:
        source: A path, an http(s) URL (at most 50 MB, 20 s), a data URI, base64, the bytes of a file, a file opened in
            binary mode, or a PIL image. An animation gives its first frame.
        apply_exif_orientation: Rotate the picture by its EXIF orientation; None rotates files but not PIL images, as
            transformers does.
        name: The picture's name in messages, for sources without a file name.
        least: Decode a JPEG at a half, a quarter or an eighth of its size, whose sides are at least so many pixels.

    Returns:
        The picture in the mode of the file.

    Raises:
        OSError: The file is missing, is not a regular file, is damaged, or is in none of `FORMATS`.
        ValueError: The picture has more pixels than Pillow accepts (twice `PIL.Image.MAX_IMAGE_PIXELS`, 179 million).
    """
    with open_image(source, name) as (image, found):
        return decode(image, apply_exif_orientation, found, not isinstance(source, Image.Image), least)


@contextmanager
def open_image(source: Source, name: str = "The image") -> Iterator[tuple[Image.Image, str]]:
    """Open a picture, reading only its header; yields it and its name for messages. Raises as `load_image`."""
    if isinstance(source, Image.Image):
        yield source, getattr(source, "filename", "") or name
        return
    file, name = _find(source, name)
    Image.init()
    with _errors_named(name):
        try:
            image: Image.Image = Image.open(file, formats=[known for known in FORMATS if known in Image.OPEN])
        except UnidentifiedImageError:  # its message is only the address of an object
            image = _open_heif(file)
    with image:
        yield image, name


def decode(
    image: Image.Image, apply_exif_orientation: bool | None, name: str, turn: bool = True, least: int | None = None
) -> Image.Image:
    """Decode an opened picture; `turn` says whether None applies its EXIF orientation. Else as `load_image`."""
    with _errors_named(name):
        # Of JPEG alone: libjpeg computes no pixels that are thrown away.
        drafted = None if least is None else image.draft(None, (least, least))
        image.load()
        box = drafted[1] if drafted else (0, 0, *image.size)
        if box[2:] != image.size:  # the last row or column is only partly of the picture
            image = image.resize((round(box[2]), round(box[3])), Image.Resampling.BICUBIC, box)
        turn = turn if apply_exif_orientation is None else apply_exif_orientation
        return ImageOps.exif_transpose(image) if turn else image


class _Room:
    """A semaphore for amounts: together, threads never hold more than the limit."""

    def __init__(self, limit: int):
        self.limit, self.taken, self.changed = limit, 0, threading.Condition()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Wait until there is room; an amount above the limit waits until nothing else is taken."""
        amount = min(amount, self.limit)
        with self.changed:
            self.changed.wait_for(lambda: self.taken + amount <= self.limit)
            self.taken += amount
        try:
            yield
        finally:
            with self.changed:
                self.taken -= amount
                self.changed.notify_all()


ROOM = _Room(PIXELS)
"""Held while a picture is decoded and made smaller, so that huge pictures are decoded one at a time."""


class _Meter:
    """Counts bytes; threads may add to it."""

    def __init__(self) -> None:
        self.bytes, self._lock = 0, threading.Lock()

    def add(self, count: int) -> None:
        """Add bytes."""
        with self._lock:
            self.bytes += count


READ = _Meter()
"""The bytes of all pictures that this process has read, for reports of progress."""


def _find(source: Any, name: str) -> tuple[str | io.BytesIO, str]:
    """Return a path or a file in memory for Pillow to open, and what messages call it."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), name
    if hasattr(source, "read"):
        if hasattr(source, "seek"):
            source.seek(0)  # as Pillow does: the same file may be given twice
        content = source.read()
        if not isinstance(content, bytes):
            raise ValueError(f"{name} must be a file opened in binary mode ('rb'), got one that reads text.")
        return io.BytesIO(content), name
    path = os.fspath(source)
    if path.startswith(("http://", "https://")):
        content = _download(path)
        READ.add(len(content))
        return io.BytesIO(content), path
    if path.startswith("data:"):
        header, _, data = path.partition(",")
        if not header.endswith(";base64") or (content := _from_base64(data)) is None:
            raise ValueError(f"{name} must be a data URI such as data:image/png;base64,..., got {path!r:.60}.")
        return io.BytesIO(content), name
    path = os.path.expanduser(path)
    if len(path) > 60 and not os.path.lexists(path) and (content := _from_base64(path)):
        return io.BytesIO(content), name
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if os.path.isdir(path) else "no regular file, but a pipe or a device"
        raise OSError(f"{path} is not a picture that can be read whole: it is {kind}")
    READ.add(found.st_size)
    return path, path


def _from_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _download(url: str) -> bytes:
    """Return the bytes at an address. Raises `OSError` where it does not answer in time or sends too much."""
    import http.client  # imported late: rarely needed
    import urllib.request

    content, deadline = bytearray(), time.monotonic() + URL_SECONDS
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "blip-duo"})
        with urllib.request.urlopen(request, timeout=URL_SECONDS / 2) as answer:
            while chunk := answer.read1(2**16):
                content += chunk
                if len(content) > URL_BYTES:
                    raise OSError(f"it is larger than {URL_BYTES >> 20} MB")
                if time.monotonic() > deadline:
                    raise OSError(f"it takes longer than {URL_SECONDS} s")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(f"{url} cannot be read: {reason}; check the address, or give a file.") from None
    return bytes(content)


def _open_heif(file: str | io.BytesIO) -> Image.Image:
    """Open an HEIF picture with the package of the extra `heif`; `OSError` for anything else."""
    beginning = file.getvalue()[:12] if isinstance(file, io.BytesIO) else _first_bytes(file)
    if beginning[4:8] != b"ftyp" or beginning[8:] not in HEIF_BRANDS:
        raise OSError("its format is not known")
    try:
        from pillow_heif import open_heif
    except ImportError:
        raise OSError('it is HEIF, which needs: pip install "blip-duo[heif]"') from None
    image: Image.Image = open_heif(file).to_pillow()
    return image


def _first_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(12)


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Name the picture in whatever its decoder raises: `OSError`, `SyntaxError`, `struct.error` and more."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{name} is too large: {error} Make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the operating system's error names the file
        raise OSError(f"{name} is not a picture that can be read whole: {error}") from error
