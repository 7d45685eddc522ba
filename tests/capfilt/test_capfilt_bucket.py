"""CapFilt where machines share nothing but a bucket: killed at random moments, and by two nodes of Ray."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from blip_core.stores import StorePath
from tests.helpers.capfilt_runs import ROOT
from tests.helpers.data_files import write_tar
from tests.helpers.published_forms import flat

pytestmark = pytest.mark.slow
KILLS = 20
NO_MODELS = """
import sys
from blip_core.capfilt import Stream, capfilt
from blip_core.jobs.sharding import Share
from tests.helpers.capfilt_kills import NoModels
share = Share.parse(sys.argv[2])
capfilt(Stream("s3://photos/web/*.tar"), NoModels(0.05), sys.argv[1], share=share, threshold=0.3, to="webdataset",
        batch_size=1)
"""


@pytest.fixture
def web(store, tmp_path):
    """Six shards of three pictures in the bucket."""
    for number in range(6):
        members = {}
        for row in range(3):
            members[f"{row}.png"] = flat((number * 40, row * 80, 7))
            members[f"{row}.txt"] = f"picture {row} of {number}".encode()
        store.put(f"web/{number:02}.tar", write_tar(tmp_path / "a.tar", members).read_bytes())
    return store


def objects(address):
    return {str(path).removeprefix(f"{address}/"): path.read_bytes() for path in StorePath(address).rglob("*")}


def environment(**more):
    return os.environ | {"PYTHONPATH": str(ROOT)} | more


def begin(folder, output, share):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", NO_MODELS, output, share]
    return subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE)


def test_random_kills_give_the_same_bytes(web, tmp_path):
    """SIGKILL to one of two processes, which share nothing but the bucket, twenty times."""
    start = time.monotonic()
    assert begin(tmp_path / "a", "s3://photos/whole", "1/1").wait(600) == 0
    seconds, whole = time.monotonic() - start, objects("s3://photos/whole")
    assert len([name for name in whole if name.startswith("kept/")]) == 6
    noise, kills, run = random.Random(4), 0, 0
    while kills < KILLS:
        run += 1
        output = f"s3://photos/run-{run}"
        parts = [begin(tmp_path / name, output, share) for name, share in (("a", "1/2"), ("b", "2/2"))]
        time.sleep(seconds * noise.uniform(0.3, 1.0))
        victim = parts[run % 2]
        victim.kill()
        kills += victim.wait() == -signal.SIGKILL
        for process in parts:
            process.wait(600)
        assert begin(tmp_path / "a", output, "1/1").wait(600) == 0
        assert objects(output) == whole, run
    assert run < 3 * KILLS


@contextmanager
def node(folder, *words, **more):
    """A node of Ray in a session of its own, which ends with all of its processes."""
    command = [str(Path(sys.executable).with_name("ray")), "start", *words, "--block", "--disable-usage-stats"]
    with open(folder / "said", "wb") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(RAY_AUTH_MODE="disabled", **more), stdout=said, stderr=said
        )
    try:
        deadline = time.monotonic() + 180
        while b"Ray runtime started" not in (folder / "said").read_bytes():
            assert process.poll() is None, (folder / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield
    finally:
        found = descendants(process.pid)
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def descendants(pid):
    """The processes that a process has begun, and those that these have."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_two_nodes_of_ray_without_a_common_folder(web, models, tmp_path):
    """Each node has a working folder, a home and a cache of its own; models, pictures and results are in the bucket."""
    for name in ("captioner", "filter"):
        for path in (models / name).iterdir():
            web.put(f"{name}/{path.name}", path.read_bytes())
    words = [sys.executable, "-m", "blip_core.cli", "capfilt", "--input", "s3://photos/web/*.tar", "--stream"]
    words += ["--captioner", "s3://photos/captioner", "--filter", "s3://photos/filter", "--threshold", "0"]
    homes = {}
    for name in ("here", "head", "other"):
        folder = tmp_path / name
        folder.mkdir()
        homes[name] = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    alone = subprocess.run(
        [*words, "--output", "s3://photos/alone"], cwd=tmp_path / "here", env=environment(**homes["here"]), timeout=600
    )
    assert alone.returncode == 0
    port = str(random.Random(os.getpid()).randint(20_000, 30_000))
    head = ["--head", "--port", port, "--include-dashboard", "false", "--num-cpus", "1"]
    other = ["--address", f"127.0.0.1:{port}", "--num-cpus", "1"]
    with (
        node(tmp_path / "head", *head, **homes["head"]),
        node(tmp_path / "other", *other, **homes["other"]),
        open(tmp_path / "said", "wb") as said,
    ):
        done = subprocess.run(
            [*words, "--output", "s3://photos/ray", "--ray-address", f"127.0.0.1:{port}"], cwd=tmp_path / "here",
            env=environment(RAY_AUTH_MODE="disabled", **homes["here"]), timeout=900, stderr=said,
        )  # fmt: skip
        assert done.returncode == 0, (tmp_path / "said").read_text()
    assert objects("s3://photos/ray") == objects("s3://photos/alone")
    fetched = [name for name in ("head", "other") if (tmp_path / name / "cache/blip/models").is_dir()]
    assert fetched == ["head", "other"]
