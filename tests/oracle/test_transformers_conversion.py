"""What `convert` writes is loaded by transformers 4.57.6, in both frameworks, and gives its outputs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from blip_core.checkpoints import open_checkpoint
from conversion import convert
from tests.helpers.checkpoint_files import TRANSFORMERS, differences
from tests.helpers.transformers_pairs import CONFIGS

pytestmark = pytest.mark.oracle

ROOT = Path(__file__).parents[2]

# transformers' TensorFlow models need Keras 2, which must be chosen before TensorFlow is imported.
IN_TENSORFLOW = """
import sys
import numpy as np, transformers
head, folder, inputs, outputs = sys.argv[1:]
model, info = getattr(transformers, "TF" + head).from_pretrained(folder, output_loading_info=True)
assert not any(info.values()), info
given = dict(np.load(inputs))
np.savez(outputs, *[v.numpy() for v in model(**given, return_dict=True).to_tuple() if hasattr(v, "numpy")])
if len(sys.argv) > 5:
    model.save_pretrained(sys.argv[5])
"""


def in_tensorflow(head: str, folder: Path, inputs: Path, outputs: Path, *save: Path) -> list[np.ndarray]:
    """What a TensorFlow model of transformers answers, loaded without a missing or unexpected name."""
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    program = IN_TENSORFLOW.replace("sys.argv[1:]", "sys.argv[1:5]")
    command = [sys.executable, "-c", program, head, *map(str, (folder, inputs, outputs, *save))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(outputs) as found:
        return [found[name] for name in found.files]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("BlipForConditionalGeneration", "odd"),
        ("BlipForQuestionAnswering", "square"),  # transformers' works with equal widths of text and vision only
        ("BlipForImageTextRetrieval", "deep"),
        ("BlipModel", "deep"),
    ],
)
def test_transformers_loads_every_format(head, name, tmp_path):
    config = CONFIGS[name]
    theirs = getattr(transformers, head)(transformers.BlipConfig(**config)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    size, noise = config["vision_config"]["image_size"], np.random.default_rng(2)
    given = {
        "pixel_values": noise.normal(size=(2, 3, size, size)).astype(np.float32),
        "input_ids": noise.integers(4, 50, (2, 6)),
        "attention_mask": np.ones((2, 6), np.int64),
    }
    if head == "BlipForQuestionAnswering":
        given |= {"decoder_input_ids": given["input_ids"][:, :4], "labels": given["input_ids"][:, :4]}
    np.savez(tmp_path / "inputs.npz", **given)
    tensors = {name: torch.from_numpy(value) for name, value in given.items()}
    with torch.no_grad():
        expected = [v.numpy() for v in theirs(**tensors, return_dict=True).to_tuple() if torch.is_tensor(v)]
    for to in ("safetensors", "pytorch_model.bin", "tf_model.h5"):
        convert(tmp_path / "theirs", tmp_path / to, to)
    for to in ("safetensors", "pytorch_model.bin"):
        loaded, info = getattr(transformers, head).from_pretrained(tmp_path / to, output_loading_info=True)
        assert not any(info.values()), info
        for name, value in theirs.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name]), name
    folders = tmp_path / "tf_model.h5", tmp_path / "inputs.npz", tmp_path / "outputs.npz", tmp_path / "saved"
    found = in_tensorflow(head, *folders)
    for ours, other in zip(expected, found, strict=False):
        if ours.shape == other.shape:
            assert np.abs(ours - other).max() <= 1e-5 * np.abs(ours).max()
    assert any(ours.shape == other.shape for ours, other in zip(expected, found, strict=False))
    copies = {"text_decoder.cls.predictions.decoder.bias", "text_decoder.cls.predictions.decoder.weight"}
    assert set(differences(tmp_path / "saved", tmp_path / "safetensors")) <= copies


@pytest.mark.parametrize("head", ["BlipForConditionalGeneration", "BlipModel"])
def test_the_reference_files_go_from_each_framework_to_the_other(head, tmp_path):
    convert(TRANSFORMERS / head / "tf_model.h5", tmp_path / "pt", "pytorch_model.bin")
    _, info = getattr(transformers, head).from_pretrained(tmp_path / "pt", output_loading_info=True)
    assert not any(info.values())
    kept = open_checkpoint(tmp_path / "pt").keys() - open_checkpoint(TRANSFORMERS / head / "pytorch_model.bin").keys()
    assert not kept
