"""Put the trained models into the package: weights in float16, the vision encoder that both share once.

    python -m docs.examples.shipped.pack FOLDER [PACKAGE]

takes FOLDER/large and FOLDER/questions, which `python -m docs.examples.shipped` trains, and writes PACKAGE,
blip_core/data/shipped unless given.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from blip_core import BlipConfig, BlipProcessor
from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.saving import config_dict
from blip_core.files import write_json
from blip_core.generation import GenerationConfig
from blip_core.hub import SHIPPED
from blip_core.parameters.models import training_state
from docs.examples.shipped import run

VISION = "vision_model."


def main(folder: Path, package: Path = SHIPPED) -> None:
    """Write the model, its processor and its other weights for questions."""
    pretrained, questions = (_weights(folder / name) for name in ("large", "questions"))
    vision = {name: array for name, array in pretrained.items() if name.startswith(VISION)}
    for name, array in vision.items():
        if not np.array_equal(array, questions[name]):
            raise ValueError(f"{name} was trained for questions, too; train them with freeze='vision'.")
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    files = {
        "vision.safetensors": vision,
        "pretrain.safetensors": {n: a for n, a in pretrained.items() if n not in vision},
        "questions.safetensors": {n: a for n, a in questions.items() if n not in vision},
    }
    for file, tensors in files.items():
        save_file(tensors, package / file, {"format": "pt"})
    for index, own in (("model", "pretrain"), ("questions", "questions")):
        shards = ("vision.safetensors", f"{own}.safetensors")
        weight_map = {name: file for file in shards for name in files[file]}
        size = sum(array.nbytes for file in shards for array in files[file].values())
        content = {"metadata": {"total_size": size}, "weight_map": weight_map}
        write_json(package / f"{index}.safetensors.index.json", content)
    config = BlipConfig.from_pretrained(folder / "large")
    write_json(package / "config.json", config_dict("BlipForPreTraining", config, np.dtype(np.float16)))
    BlipProcessor.from_pretrained(folder / "large").save_pretrained(package)
    GenerationConfig(prompt_ids=[]).save_pretrained(package)  # trained without a prompt
    total = sum(file.stat().st_size for file in package.iterdir())
    print(f"{package}: {total / 1e6:.1f} MB")


def _weights(folder: Path) -> dict[str, np.ndarray]:
    """The weights that are used after training, in half precision."""
    checkpoint, config = open_checkpoint(folder), BlipConfig.from_pretrained(folder)
    state = {parameter.name for parameter in training_state("BlipForPreTraining", config)}
    return {name: checkpoint[name].astype(np.float16) for name in checkpoint if name not in state}


if __name__ == "__main__":
    run(main)
