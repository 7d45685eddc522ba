"""Weights of int8 in a file: written from floats or a quantized model, and loaded as they lie or as floats."""

import json
import struct

import numpy as np
import pytest

from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.int8_file import round_weight
from conversion import convert
from tests.helpers.checkpoint_files import random_checkpoint

HEAD = "BlipForConditionalGeneration"
WEIGHT = "vision_model.encoder.layers.0.mlp.fc1.weight"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("int8")
    random_checkpoint(root / "float", HEAD)
    convert(root / "float", root / "int8", "int8")
    return root


def test_layers_are_rounded_and_nothing_else(folders):
    floats, rounded = open_checkpoint(folders / "float"), open_checkpoint(folders / "int8")
    assert rounded.format == "int8"
    assert {name: rounded.shapes[name] for name in rounded} == dict(floats.shapes)
    for name in floats:
        if (found := rounded.rounded(name)) is None:
            assert np.array_equal(floats[name], rounded[name]), name
            assert "encoder.layer" not in name or not name.endswith("weight") or floats[name].ndim == 1
        else:
            assert found.weight.dtype == np.int8
            assert abs(found.weight).max(1).min() == 127
            assert np.abs(floats[name] - rounded[name]).max() <= found.scale.max() / 2 * 1.001, name
    assert rounded.rounded(WEIGHT) is not None
    size = (folders / "int8" / "model.int8.safetensors").stat().st_size
    assert size < 0.6 * (folders / "float" / "model.safetensors").stat().st_size


def test_back_to_floats(folders, tmp_path):
    rounded = open_checkpoint(folders / "int8")
    convert(folders / "int8", tmp_path / "back")
    back = open_checkpoint(tmp_path / "back")
    assert all(np.array_equal(back[name], rounded[name]) for name in rounded)


def rewritten(source, target, change):
    """Copy a safetensors file with its header changed."""
    data = source.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return target


def test_a_weight_without_its_scales_is_refused(folders, tmp_path):
    def change(header):
        header["other"] = header.pop(WEIGHT + "_scale")

    path = rewritten(folders / "int8" / "model.int8.safetensors", tmp_path / "model.int8.safetensors", change)
    with pytest.raises(ValueError, match=r"fc1\.weight has no scale for each of its rows"):
        open_checkpoint(path)


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        round_weight(np.array([[1, np.nan]], np.float32))


@pytest.mark.needs("pt")
def test_a_quantized_model_is_saved_and_loaded_as_it_is(folders, tmp_path):
    import torch

    from blip_pt import BlipForConditionalGeneration
    from blip_pt.nn import QuantizedLinear

    def layers(model):
        return {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}

    own = BlipForConditionalGeneration.from_pretrained(folders / "float").quantize()
    converted = BlipForConditionalGeneration.from_pretrained(folders / "int8", dtype="auto")
    own.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    saved = BlipForConditionalGeneration.from_pretrained(tmp_path, dtype="auto")
    assert layers(own).keys() == layers(converted).keys() == layers(saved).keys()
    for name, layer in layers(own).items():
        for other in (converted, saved):
            assert torch.equal(layers(other)[name].weight_int8, layer.weight_int8), name
            assert torch.allclose(layers(other)[name].scale, layer.scale, rtol=1e-6), name
    pictures = torch.randn(2, 3, *[own.config.vision_config.image_size] * 2, generator=torch.Generator().manual_seed(0))
    expected = own.generate(pictures, max_new_tokens=5)
    assert torch.equal(converted.generate(pictures, max_new_tokens=5), expected)
    assert torch.equal(saved.generate(pictures, max_new_tokens=5), expected)
    assert not any(weight.requires_grad for weight in converted.parameters())
    floats = BlipForConditionalGeneration.from_pretrained(tmp_path)  # float32 unless the stored type is asked for
    assert not floats.quantized
    assert torch.equal(floats.get_tensor(WEIGHT), layers(saved)[WEIGHT[:-7]].weight)
    floats.save_pretrained(tmp_path)
    assert not (tmp_path / "model.int8.safetensors").exists()  # or the next load would find the older model


@pytest.mark.needs("pt")
def test_int8_weights_stay_in_the_mapped_file(folders):
    import torch

    from blip_pt import BlipForConditionalGeneration

    model = BlipForConditionalGeneration.from_pretrained(folders / "int8", dtype="auto")
    layer = model.vision_model.encoder.layers[0].mlp.fc1
    stored = open_checkpoint(folders / "int8").rounded(WEIGHT)
    assert torch.equal(layer.weight_int8, torch.from_numpy(stored.weight))
    begins = layer.weight_int8.data_ptr() - model.vision_model.encoder.layers[0].mlp.fc2.weight_int8.data_ptr()
    extents = open_checkpoint(folders / "int8").extents
    assert begins == extents[WEIGHT].offset - extents[WEIGHT.replace("fc1", "fc2")].offset


@pytest.mark.needs("tf")
def test_tensorflow_takes_the_rounded_weights_as_floats(folders):
    from blip_tf import TFBlipForConditionalGeneration

    model = TFBlipForConditionalGeneration.from_pretrained(folders / "int8", dtype="auto")
    (row,) = (row for row in model.table() if row.name == WEIGHT)
    found = row.from_tensorflow(model.get_parameter(WEIGHT).numpy())
    assert np.array_equal(found, open_checkpoint(folders / "int8")[WEIGHT])


def test_a_released_tensor_is_read_again(folders):
    checkpoint = open_checkpoint(folders / "float")
    names = sorted(checkpoint, key=lambda name: checkpoint[name].nbytes)
    before = checkpoint[names[-1]].copy()
    checkpoint.release(names[-1])
    assert np.array_equal(checkpoint[names[-1]], before)
    assert open_checkpoint(folders / "int8").release(WEIGHT) is None
