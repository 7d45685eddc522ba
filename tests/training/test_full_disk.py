"""A full disk while training: the file is named, and what to do."""

from __future__ import annotations

import errno
import os

import pytest

from blip_core.files import atomic_path
from blip_core.jobs.read_ahead import in_one_line
from blip_core.training.logs import Log

FULL = "no space left on device; make room and run the same command again"


@pytest.fixture
def full(tmp_path):
    """A file of a file system without room."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    (tmp_path / "full").symlink_to("/dev/full")
    return tmp_path / "full"


def test_what_is_written_at_once_names_its_file(tmp_path):
    def fill():
        with atomic_path(tmp_path / "model.safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device")  # as writing to an open file says it

    with pytest.raises(OSError, match="No space") as caught:
        fill()
    assert in_one_line(caught.value) == f"{tmp_path / 'model.safetensors'}: {FULL}"
    assert not list(tmp_path.iterdir())


def test_the_log_names_its_file(full):
    log = object.__new__(Log)
    log._file = open(full, "a", encoding="utf-8")  # noqa: SIM115
    for call in (lambda: log._write({"step": 1}), lambda: log.__exit__(None, None, None)):
        log._progress = open(os.devnull)  # noqa: SIM115
        with pytest.raises(OSError, match="No space") as caught:
            call()
        assert in_one_line(caught.value) == f"{full}: {FULL}"
