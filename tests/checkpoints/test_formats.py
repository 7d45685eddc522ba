"""The registry of formats: what every door opens, and a format that is added by one row."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from blip_core.checkpoints import Format, open_checkpoint, register
from blip_core.checkpoints.formats import FORMATS
from blip_core.files import read_json
from blip_core.parameters.models import Parameter
from conversion import convert, inspect_checkpoint
from tests.helpers.checkpoint_files import FORMATS as NAMES
from tests.helpers.checkpoint_files import differences, random_checkpoint

HEAD = "BlipForConditionalGeneration"
PACKAGES = {"blip_pt": HEAD, "blip_tf": f"TF{HEAD}"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One model in every format that is written, by format; with it the values of its tensors."""
    root = tmp_path_factory.mktemp("formats")
    values = random_checkpoint(root / "safetensors", HEAD)
    for to in NAMES[1:]:
        convert(root / "safetensors", root / to, to)
    return root, values


def loaded(package: str, path: Path, **options):
    """A model from a path, without a warning, and its weights as arrays of PyTorch's layout."""
    kind = getattr(pytest.importorskip(package), PACKAGES[package])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = kind.from_pretrained(path, **options)
    return model, {row: array(model, row) for row in model.table()}


def array(model, row: Parameter) -> np.ndarray:
    value = getattr(model, "get_tensor", model.get_parameter)(row.name)
    return value.detach().numpy() if hasattr(value, "detach") else row.from_tensorflow(value.numpy())


def check(weights, values):
    assert {name for row in weights for name in row.stored_as} == values.keys()
    for row, weight in weights.items():
        assert np.array_equal(weight, values[row.stored_as[0]]), row.name


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", NAMES)
def test_from_pretrained_opens_what_convert_writes(folders, package, name):
    root, values = folders
    model, weights = loaded(package, root / name)
    check(weights, values)
    assert model.config.to_dict().items() <= read_json(root / "safetensors" / "config.json").items()


@pytest.mark.parametrize("package", PACKAGES)
def test_from_pretrained_opens_a_saved_model(tmp_path, folders, package):
    root, values = folders
    convert(root / "safetensors", tmp_path / "export", to="savedmodel")
    _, weights = loaded(package, tmp_path / "export")
    check(weights, values)


WRAPPED = {
    "model": lambda state: {"model": {f"module.{name}": value for name, value in state.items()}, "epoch": 3},
    "Lightning": lambda state: {
        "state_dict": {f"model.{name}": value for name, value in state.items()},
        "hyper_parameters": {"lr": 1e-5},
    },
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "compiled inside": lambda state: {name.replace(".", "._orig_mod.", 1): value for name, value in state.items()},
    "nothing": lambda state: state,
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("how", WRAPPED)
def test_files_of_trainers_are_opened(tmp_path, folders, how, zipped):
    torch = pytest.importorskip("torch")
    root, values = folders
    state = {name: torch.from_numpy(value) for name, value in values.items()}
    torch.save(WRAPPED[how](state), tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    found = open_checkpoint(tmp_path / "last.ckpt")
    assert found.keys() == values.keys()
    assert all(np.array_equal(found[name], value) for name, value in values.items())
    config = root / "safetensors" / "config.json"
    report = inspect_checkpoint(tmp_path / "last.ckpt", config=config)
    assert (report.head, report.complete) == (HEAD, True)
    convert(tmp_path / "last.ckpt", tmp_path / "new", config=config)
    assert differences(tmp_path / "new", root / "safetensors") == []


@pytest.mark.parametrize("package", PACKAGES)
def test_from_pretrained_opens_a_state_dict(tmp_path, folders, package):
    torch = pytest.importorskip("torch")
    root, values = folders
    torch.save({name: torch.from_numpy(value) for name, value in values.items()}, tmp_path / "best.pt")
    _, weights = loaded(package, tmp_path / "best.pt", config=root / "safetensors" / "config.json")
    check(weights, values)


def test_tensors_of_odd_strides_and_places_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(60.0).reshape(3, 4, 5)
    state = {
        "transposed": base.permute(2, 0, 1), "part": base[1:, ::2], "scalar": torch.tensor(3.0), "empty": base[:0],
        "half": base.bfloat16(), "flags": base > 7, "shared": base, "parameter": torch.nn.Parameter(base + 1),
    }  # fmt: skip
    for zipped in (True, False):
        torch.save(state, tmp_path / "odd.pt", _use_new_zipfile_serialization=zipped)
        found = open_checkpoint(tmp_path / "odd.pt")
        for name, value in state.items():
            assert np.array_equal(found[name].astype("float64"), value.detach().double().numpy()), name
            assert found[name].shape == found.shapes[name]


def test_an_object_beside_the_tensors_is_named_with_what_to_do(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {"a": torch.ones(2)}, "when": Path("/")}, tmp_path / "last.ckpt")
    with pytest.raises(
        ValueError, match=r"more than tensors.*it asks for pathlib.*save its tensors alone: torch\.save"
    ):
        open_checkpoint(tmp_path / "last.ckpt")


# a format of one's own ------------------------------------------------------------------------------------------------


def read_npz(path):
    """A whole file at once, which is enough for a test."""
    from blip_core.checkpoints import Checkpoint

    class Arrays(Checkpoint):
        def __getitem__(self, name):
            return arrays[name]

    with np.load(path) as file:
        arrays = dict(file)
    return Arrays(path, "npz", {n: a.shape for n, a in arrays.items()}, {n: a.dtype for n, a in arrays.items()})


def write_npz(path, tensors, about):
    with open(path, "wb") as file:
        np.savez(file, **{name: tensor.read() for tensor in tensors for name in tensor.names})


@pytest.fixture
def npz():
    register(Format("npz", ("model.npz",), lambda path, start: path.suffix == ".npz", read_npz, write_npz))
    yield FORMATS["npz"]
    del FORMATS["npz"]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_format_is_added_by_one_row(tmp_path, folders, npz, package):
    root, values = folders
    report = convert(root / "safetensors", tmp_path / "new", to="npz")
    assert (report.to, report.tensors) == ("npz", len(values))
    assert inspect_checkpoint(tmp_path / "new").format == "npz"
    assert inspect_checkpoint(tmp_path / "new" / "model.npz").complete
    _, weights = loaded(package, tmp_path / "new")
    check(weights, values)
    convert(tmp_path / "new", tmp_path / "back")
    assert differences(tmp_path / "back", root / "safetensors") == []


def test_the_command_offers_a_format_that_was_added(npz, tmp_path, folders, capsys):
    from blip_core.cli import main

    assert main(["convert", str(folders[0] / "safetensors"), str(tmp_path / "new"), "--to", "npz"]) == 0
    assert (tmp_path / "new" / "model.npz").is_file()
    assert "-> " in capsys.readouterr().out
