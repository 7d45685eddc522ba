"""One writer at a time, by a lock that a killed process does not leave behind."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import pytest

from blip_core.jobs import writer_lock as module
from blip_core.jobs.writer_lock import BusyError, one_writer

HOLD = """
import sys
from blip_core.jobs.writer_lock import one_writer
with one_writer(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path):
    child = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    return child


def test_the_second_writer_is_told_who_holds_it(tmp_path):
    (tmp_path / "link.csv").symlink_to("all.csv")
    with hold(tmp_path / "all.csv") as child:
        for name in ("all.csv", "link.csv"):
            said = f"{tmp_path}/all.csv is being written by process {child.pid} on {socket.gethostname()}; wait"
            with pytest.raises(BusyError, match=re.escape(said)), one_writer(tmp_path / name):
                pass
        with one_writer(tmp_path / "other.csv"):
            pass
        child.stdin.close()
        child.wait()
    with one_writer(tmp_path / "all.csv"), pytest.raises(BusyError), one_writer(tmp_path / "all.csv"):
        pass
    assert os.listdir(tmp_path) == ["link.csv"]


def test_a_killed_writer_leaves_no_lock(tmp_path):
    with hold(tmp_path / "all.csv") as child:
        child.kill()
        child.wait()
    assert (tmp_path / ".all.csv.lock").exists()
    with one_writer(tmp_path / "all.csv"):
        pass
    assert not os.listdir(tmp_path)


def test_a_lock_that_its_holder_has_just_removed_is_no_lock(tmp_path, monkeypatch):
    """A process that opened the file before and locks it after the removal must not share it with the next."""
    lock, removed = module._lock, []

    def remove_first(handle):
        if not removed:
            (tmp_path / ".all.csv.lock").unlink()
            removed.append(handle)
        lock(handle)

    monkeypatch.setattr(module, "_lock", remove_first)
    with one_writer(tmp_path / "all.csv"), pytest.raises(BusyError), one_writer(tmp_path / "all.csv"):
        pass
    assert removed


def test_file_systems_without_locks_are_told(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(module.NO_LOCKS[0], "No locks available")

    monkeypatch.setattr(module, "_lock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked on this file system"), one_writer(tmp_path / "all.csv"):
        pass


def test_long_names_have_locks(tmp_path):
    with one_writer(tmp_path / ("n" * 250)):
        assert len(os.listdir(tmp_path)) == 1
