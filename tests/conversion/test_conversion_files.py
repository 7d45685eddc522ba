"""What `convert` does to the disk, and what hostile files cannot make it do."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.safetensors_file import write as write_safetensors
from blip_core.checkpoints.torch_writer import write as write_torch
from blip_core.checkpoints.writing import LazyTensor
from conversion import convert, inspect_checkpoint
from tests.helpers.checkpoint_files import ATTENTION_HEADS, ORIGINAL, TRANSFORMERS, differences, random_checkpoint
from tests.helpers.full_disks import no_room_ahead

CAPTION = "BlipForConditionalGeneration"
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def model(tmp_path):
    """A folder with a random captioner."""
    random_checkpoint(tmp_path / "model", CAPTION)
    return tmp_path / "model"


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def python(program: str, *arguments: object, **options) -> subprocess.CompletedProcess:
    """Run a program in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, **options)


def test_an_existing_destination_needs_leave(tmp_path, model):
    convert(model, tmp_path / "new", "weights.h5")
    before = files(tmp_path / "new")
    with pytest.raises(FileExistsError, match="new exists; pass --overwrite"):
        convert(model, tmp_path / "new")
    assert files(tmp_path / "new") == before
    convert(model, tmp_path / "new", overwrite=True)
    assert not (tmp_path / "new" / "model.weights.h5").exists()
    (tmp_path / "one.pth").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"one.pth exists"):
        convert(model, tmp_path / "one.pth")
    convert(model, tmp_path / "one.pth", overwrite=True)
    assert differences(tmp_path / "one.pth", tmp_path / "one.pth") == []
    (tmp_path / "empty").mkdir()
    convert(model, tmp_path / "empty")


def test_what_is_no_checkpoint_is_never_replaced(tmp_path, model):
    (tmp_path / "home" / "photos").mkdir(parents=True)
    with pytest.raises(ValueError, match="home holds photos, which is no part of a checkpoint"):
        convert(model, tmp_path / "home", overwrite=True)
    with pytest.raises(ValueError, match="model is where the checkpoint is read from"):
        convert(model, model, overwrite=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is a file, but a folder is to be written"):
        convert(model, tmp_path / "file", overwrite=True)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ValueError, match=r"folder.pth is a folder, but a file is to be written"):
        convert(model, tmp_path / "folder.pth", overwrite=True)


POINTS = ("blip_core.checkpoints.saving.write_json", "conversion.converter.verify", "conversion.destination._exchange")


@pytest.mark.parametrize("point", POINTS)
def test_a_failure_leaves_the_old_destination_and_nothing_else(tmp_path, model, monkeypatch, point):
    convert(ORIGINAL / "caption.pth", tmp_path / "new", config=ATTENTION_HEADS)
    before = files(tmp_path)

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(point, fail)
    with pytest.raises(KeyboardInterrupt):
        convert(model, tmp_path / "new", overwrite=True)
    assert files(tmp_path) == before


@pytest.mark.parametrize("target", ["new", "new.pth"])
def test_killed_at_any_moment_one_destination_is_whole(tmp_path, model, target):
    """Two models take turns at one destination while the process is killed."""
    convert(ORIGINAL / "caption.pth", tmp_path / "other", config=ATTENTION_HEADS)
    program = """
        import sys
        from conversion import convert
        model, other, target = sys.argv[1:]
        print("ready", flush=True)
        while True:
            for source in (model, other):
                convert(source, target, overwrite=True)
    """
    sources = [tmp_path / "model", tmp_path / "other"]
    destination = tmp_path / target
    convert(sources[0], destination)
    noise = np.random.default_rng(5)
    for _ in range(4):
        command = [sys.executable, "-c", textwrap.dedent(program), *map(str, (*sources, destination))]
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(noise.uniform(0, 0.6))
            process.send_signal(signal.SIGKILL)
        heads = {len(inspect_checkpoint(destination).config["text_config"]), len(open_checkpoint(destination))}
        convert(destination, tmp_path / "check", overwrite=True)
        assert not all(differences(tmp_path / "check", source) for source in sources), heads


def test_a_file_system_that_reserves_no_room(tmp_path, model, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", no_room_ahead)
    for to in ("safetensors", "pytorch_model.bin", "tf_model.h5", "weights.h5"):
        convert(model, tmp_path / to, to)
        convert(tmp_path / to, tmp_path / "back", overwrite=True)
        assert not differences(tmp_path / "back", model)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, model, ahead):
    program = """
        import os, resource, sys
        from conversion import convert
        from tests.helpers.full_disks import no_room_ahead
        if sys.argv[3] == "False":
            os.posix_fallocate = no_room_ahead
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for to in ("safetensors", "pytorch_model.bin", "tf_model.h5", "weights.h5"):
            try:
                convert(sys.argv[1], sys.argv[2], to)
            except OSError as error:
                print(error)
    """
    before = files(tmp_path)
    done = python(program, model, tmp_path / "new", ahead)
    assert done.stdout.count("new could not be written: the disk is full or too small") == 4, done
    assert files(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_disk_that_fails_is_told_and_nothing_is_left(tmp_path, model, monkeypatch):
    def fail(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("blip_core.files.os.fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        convert(model, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_was_written_is_compared(tmp_path, model, monkeypatch):
    def spoil(path, tensors, about):
        write_safetensors(path, tensors, about)
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr("blip_core.checkpoints.safetensors_file.write", spoil)
    with pytest.raises(OSError, match=r"differs from what was to be written in text_decoder.cls"):
        convert(model, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_safetensors_and_hdf5_need_no_framework(tmp_path):
    program = """
        import sys
        sys.modules.update(dict.fromkeys(["torch", "tensorflow", "keras", "transformers"]))
        from conversion import convert
        source, target = sys.argv[1:]
        convert(source, target + "/a", "weights.h5")
        convert(target + "/a", target + "/b", "safetensors")
        convert(target + "/b", target + "/c", "tf_model.h5")
    """
    source = TRANSFORMERS / CAPTION / "tf_model.h5"
    assert python(program, source, tmp_path).returncode == 0
    assert differences(tmp_path / "c", source) == []


def test_pytorch_reads_what_is_written_without_it(tmp_path):
    import torch

    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3), "scalar": np.array(3.5), "h": np.ones((3, 1), np.float16),
        "i": np.array([7], np.int64),
    }  # fmt: skip
    stored = [LazyTensor((name, f"{name}.tied"), a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()]
    write_torch(tmp_path / "file.pth", stored, beside={"epoch": 3})
    for mapped in (True, False):
        content = torch.load(tmp_path / "file.pth", weights_only=True, mmap=mapped)
        assert content["epoch"] == 3
        for name, array in arrays.items():
            assert np.array_equal(content["model"][name].numpy(), array)
            assert content["model"][name].data_ptr() == content["model"][f"{name}.tied"].data_ptr()
            assert content["model"][name].data_ptr() % array.itemsize == 0


HOSTILE = {
    "external link": lambda file, other: file.__setitem__("a", h5py.ExternalLink(other, "x")),
    "soft link": lambda file, other: file.__setitem__("a", h5py.SoftLink("/b")),
    "external storage": lambda file, other: file.create_dataset("a", (4,), "f4", external=[(other, 0, 16)]),
    "virtual dataset": lambda file, other: file.create_virtual_dataset("a", virtual(other)),
    "chunks": lambda file, other: file.create_dataset("a", data=np.zeros(10**6), compression="gzip"),
    "circle": lambda file, other: file.create_group("a").__setitem__("b", file["/"]),
    "text": lambda file, other: file.create_dataset("a", data="text"),
}


def virtual(other):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(other, "x", (4,))
    return layout


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_hdf5_files_are_refused(tmp_path, how):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones(4, "f4")
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        file["good"] = np.ones(4, "f4")
        HOSTILE[how](file, str(tmp_path / "secret.h5"))
    with pytest.raises(ValueError, match=r"tf_model.h5"):
        open_checkpoint(tmp_path / "tf_model.h5")


def test_a_huge_dataset_without_room_is_refused(tmp_path):
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        file.create_dataset("a", (10**6, 10**6), "f4")
    with pytest.raises(ValueError, match="a does not lie where it should"):
        open_checkpoint(tmp_path / "tf_model.h5")


def test_a_crash_of_libhdf5_is_an_error_message(tmp_path, monkeypatch):
    monkeypatch.setattr("blip_core.checkpoints.keras_hdf5.PROGRAM", tmp_path / "crash.py")
    (tmp_path / "crash.py").write_text("import os; os.abort()")
    with pytest.raises(ValueError, match=r"not a whole HDF5 file of weights \(libhdf5 failed on it\)"):
        open_checkpoint(TRANSFORMERS / CAPTION / "tf_model.h5")


def test_a_file_named_safetensors_that_begins_as_a_pickle_is_refused_in_one_line(tmp_path):
    """PyTorch goes by the name and hands it to the safetensors library, with that one's own kind of error."""
    (tmp_path / "model.safetensors").write_bytes(b"\x80" + b"\xff" * 5000)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged .*download it again") as caught:
        open_checkpoint(tmp_path / "model.safetensors")
    assert len(str(caught.value)) < 500
