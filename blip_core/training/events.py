"""A file of scalars that TensorBoard opens, written without TensorBoard.

The format: records of length, checksum, content, checksum (TFRecord; CRC-32C, masked), each content an `Event` of
TensorFlow's event.proto.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from blip_core.files import errors_named


class EventFile:
    """A new event file in a folder.

    `step` is where the run continues: TensorBoard then ignores later steps in earlier files of the folder.
    """

    def __init__(self, folder: Path, step: int = 0):
        name = f"events.out.tfevents.{time.time_ns() // 10**9}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "ab", buffering=0)  # noqa: SIM115  # closed by close()
        self._write(_bytes(3, b"brain.Event:2"), 0)
        self._write(_bytes(7, _number(1, 1)), step)  # session_log: START

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by their tags, without buffering."""
        summary = b"".join(
            _bytes(1, _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value)) for tag, value in values.items()
        )
        self._write(_bytes(5, summary), step)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, content: bytes, step: int) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + _number(2, step) + content
        length = struct.pack("<Q", len(event))
        with errors_named(self._file.name):
            self._file.write(length + _checksum(length) + event + _checksum(event))


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _number(field: int, value: int) -> bytes:
    """A whole number as a field of a protocol buffer."""
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    """A string or a message as a field of a protocol buffer."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _table()


def _checksum(data: bytes) -> bytes:
    """CRC-32C, masked as TFRecord requires."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
