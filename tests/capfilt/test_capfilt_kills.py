"""`blip capfilt` with real, tiny models, killed and started again: by itself, in shares, on Ray."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.capfilt_runs import ROOT, contents

pytestmark = pytest.mark.slow
MOMENTS = 20
RAY = pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")


@pytest.fixture
def start(models, pictures, tmp_path):
    """Start `blip capfilt` in a process group of its own, with an output folder and options."""

    def run(name, *options):
        command = [sys.executable, "-m", "blip_core.cli", "capfilt", "--input", pictures / "data.jsonl"]
        command += [
            "--captioner",
            models / "captioner",
            "--filter",
            models / "filter",
            "--output",
            tmp_path / str(name),
        ]
        command += ["--shard-size", "3", "--batch-size", "2", *options]
        with open(tmp_path / "said", "wb") as said:
            return subprocess.Popen(
                list(map(str, command)), cwd=ROOT, stdout=said, stderr=said, start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    run.folder = tmp_path
    run.said = lambda: (tmp_path / "said").read_text()
    return run


def finish(start, *processes):
    for process in processes:
        assert process.wait(1800) == 0, start.said()


def undisturbed(start):
    """The bytes of a run that nothing disturbs, and the seconds that it takes."""
    begin = time.monotonic()
    finish(start, start("whole"))
    return contents(start.folder / "whole"), time.monotonic() - begin


def workers(driver):
    """The processes in which Ray keeps our models: descendants of the driver with their name."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cmdline").read_bytes().startswith(b"ray::MapWorker") and driver in ancestors(int(path.name)):
                found.append(int(path.name))
        except OSError:  # it has ended
            continue
    return found


def ancestors(pid):
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        yield pid


@pytest.mark.parametrize("shares", [1, 2])
def test_killed_at_random_moments(start, shares):
    """SIGKILL to one process, or to one of two that share the folder, while the other works on."""
    noise, (whole, seconds) = random.Random(shares), undisturbed(start)
    kills = 0
    for moment in range(MOMENTS):
        parts = [f"{number + 1}/{shares}" for number in range(shares)]
        first, *others = [start(moment, "--shards", part) for part in parts]
        time.sleep(seconds * (0.4 + 0.6 * noise.random()))  # the first part loads the models
        first.kill()
        kills += first.wait() == -signal.SIGKILL
        finish(start, *others)
        finish(start, *[start(moment, "--shards", part) for part in parts])
        assert contents(start.folder / str(moment)) == whole, moment
    assert kills > MOMENTS / 2


@RAY
@pytest.mark.parametrize(("victim", "moments"), [("driver", 7), ("group", 7), ("worker", 6)])
def test_killed_on_ray(start, victim, moments):
    """SIGKILL to the command, to its process group, or to a worker, which is made good without a restart."""
    noise, (whole, _) = random.Random(victim), undisturbed(start)
    begin = time.monotonic()
    finish(start, start("ray", "--ray"))
    seconds = time.monotonic() - begin
    assert contents(start.folder / "ray") == whole
    kills = 0
    for moment in range(moments):
        process = start(moment, "--ray")
        if victim == "worker":
            while not (found := workers(process.pid)) and process.poll() is None:
                time.sleep(0.05)
            time.sleep(2 * noise.random())  # while it loads, or works
            with suppress(ProcessLookupError):  # it was done before
                for pid in found[:1]:
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        else:
            time.sleep(seconds * (0.5 + 0.5 * noise.random()))
            if process.poll() is None:
                (os.kill if victim == "driver" else os.killpg)(process.pid, signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            process = start(moment, "--ray")
        finish(start, process)
        assert contents(start.folder / str(moment)) == whole, moment
    assert kills > moments / 2
