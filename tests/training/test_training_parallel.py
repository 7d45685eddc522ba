"""Two processes or two devices with half a batch each train as one does with the whole, to the last step."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blip_core.training import train
from tests.helpers.training_runs import close, losses, make_world, of, validations

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TRAIN = "import json, sys; from blip_core.training import train; train(**json.loads(sys.argv[1]))"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def start(*command, **environment):
    """A process of its own."""
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, *command], env=os.environ | own | environment, stderr=subprocess.PIPE, text=True
    )


def said(process):
    """What a process said, once it is done well."""
    message = process.communicate(timeout=280)[1]
    assert process.returncode == 0, message
    return message


def compare(world, task, name, framework, command, **more):
    """Run once in one process, and once as the command does with two; `command` gets the arguments as JSON."""
    more |= {"engine": framework, "validation": world / "pairs.json", "validate_by": "loss"}
    one = train(**of(world, task, f"{name}-one", **more))
    two = of(world, task, f"{name}-two", **more, batch_size=2)
    text = json.dumps({key: str(value) if isinstance(value, Path) else value for key, value in two.items()})
    for process in command(text):
        said(process)
    assert np.allclose(losses(one.output), losses(two["output"]), rtol=0, atol=1e-5)
    assert close(one.output, two["output"], atol=2e-5)


def compare_metrics(world, task, name, framework, command):
    """The metrics after each epoch, of nine examples, which two cannot share alike, one of them a broken picture."""
    (world / "broken.png").write_bytes(b"no picture")
    run = of(world, task, f"{name}-one", engine=framework, learning_rate=1e-2)
    entries = json.loads(Path(run["data"]).read_text())
    images = {"images": ["broken.png", "1.png"]} if task == "nlvr" else {"image": "broken.png", "image_id": 8}
    held_out = world / f"{name}-held-out.json"
    held_out.write_text(json.dumps([*entries, {**entries[0], **images}]))
    one = train(**run, validation=held_out)
    two = {**run, "output": world / f"{name}-two", "batch_size": 2, "validation": held_out}
    for process in command(json.dumps({key: str(v) if isinstance(v, Path) else v for key, v in two.items()})):
        said(process)
    expected, found = validations(one.output), validations(two["output"])
    assert len(expected) == 2
    assert all(one == pytest.approx(other, abs=1e-6) for one, other in zip(expected, found, strict=True))


def torchrun(text, count=2):
    arguments = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "--no-python")
    return [start(*arguments, sys.executable, "-c", TRAIN, text)]


@pytest.mark.parametrize("task", ["caption", "retrieval", "pretrain"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_torchrun(world, task, parallel):
    compare(
        world, task, f"{task}-{parallel}", "pt", lambda text: torchrun(_with(text, parallel=parallel)), clip_norm=1.0
    )


@pytest.mark.parametrize("task", ["caption", "vqa", "retrieval", "nlvr"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_metrics_under_torchrun(world, task, parallel):
    name = f"metrics-{task}-{parallel}"
    compare_metrics(world, task, name, "pt", lambda text: torchrun(_with(text, parallel=parallel)))


def test_a_sharded_run_goes_on_where_it_was(world):
    run = of(world, "pretrain", "sharded", engine="pt", batch_size=2, parallel="fsdp", dropout=0.1)
    text = json.dumps({key: str(value) if isinstance(value, Path) else value for key, value in run.items()})
    (process,) = torchrun(_with(text, output=str(world / "sharded-whole")))
    said(process)
    for more in ({"max_steps": 3}, {"resume": True}):
        (process,) = torchrun(_with(text, **more))
        said(process)
    with pytest.raises(ValueError, match=r"a run of 4 examples a step, on all devices together; these are 2"):
        train(**{**run, "parallel": "fsdp"}, resume=True)
    assert losses(world / "sharded-whole") == losses(world / "sharded")
    assert close(world / "sharded-whole", world / "sharded", atol=0)


def mirrored(text):
    return [start("-m", "tests.helpers.training_processes", text)]


@pytest.mark.parametrize("task", ["caption", "pretrain"])
def test_two_devices_of_tensorflow(world, task):
    compare(world, task, f"{task}-mirrored", "tf", mirrored)


@pytest.mark.parametrize("task", ["vqa", "nlvr"])
def test_metrics_on_two_devices_of_tensorflow(world, task):
    compare_metrics(world, task, f"metrics-{task}-mirrored", "tf", mirrored)


def workers(text):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    names = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    cluster = [
        json.dumps({"cluster": {"worker": names}, "task": {"type": "worker", "index": index}}) for index in range(2)
    ]
    return [start("-c", TRAIN, text, TF_CONFIG=one) for one in cluster]


def test_two_workers_of_tensorflow(world):
    compare(world, "pretrain", "workers", "tf", workers)


@pytest.mark.parametrize("task", ["caption", "retrieval"])
def test_metrics_of_two_workers_of_tensorflow(world, task):
    compare_metrics(world, task, f"metrics-{task}-workers", "tf", workers)


def _with(text, **more):
    return json.dumps({**json.loads(text), **more})
