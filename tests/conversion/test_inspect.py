"""`inspect_checkpoint` and `blip inspect`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.safetensors_file import write_arrays
from blip_core.cli import main
from blip_core.files import read_json, write_json
from conversion import convert, inspect_checkpoint
from tests.helpers.checkpoint_files import (
    ATTENTION_HEADS,
    FORMATS,
    HEADS_OF,
    ORIGINAL,
    TRANSFORMERS,
    random_checkpoint,
)  # fmt: skip

HEAD = "BlipForConditionalGeneration"


def rewrite(path: Path, change) -> None:
    """Write a safetensors file again after a change of its dictionary."""
    source = open_checkpoint(path)
    tensors = {name: source[name].copy() for name in source}
    change(tensors)
    write_arrays(path, tensors)


@pytest.mark.parametrize("name", HEADS_OF)
def test_the_head_of_every_original_checkpoint_is_found(name):
    report = inspect_checkpoint(ORIGINAL / f"{name}.pth", config=ATTENTION_HEADS)
    assert (report.head, report.format) == (HEADS_OF[name], "pth")
    assert report.complete
    assert report.config["vision_config"]["layer_norm_eps"] == 1e-6
    assert report.total + sum(report.others.values()) == sum(report.dtypes.values())


def test_parts_are_counted_and_copies_told_apart():
    report = inspect_checkpoint(ORIGINAL / "caption.pth", config=ATTENTION_HEADS)
    assert report.parameters == {
        "vision encoder": 33216, "text decoder": 21792, "text decoder's cross-attention": 11008,
        "language-modelling head": 504,
    }  # fmt: skip
    assert report.others == {"buffers": 48, "tied copies": 200 * 16 + 200}


@pytest.mark.parametrize("to", FORMATS)
def test_every_format_is_recognised(tmp_path, to):
    random_checkpoint(tmp_path / "model", HEAD)
    convert(tmp_path / "model", tmp_path / "new", to)
    (tmp_path / "new" / "config.json").rename(tmp_path / "config.json")
    report = inspect_checkpoint(tmp_path / "new", config=tmp_path / "config.json")
    assert (report.format, report.head, report.complete) == (to, HEAD, True)
    assert report.total == inspect_checkpoint(tmp_path / "model").total


def test_no_framework_is_imported(tmp_path):
    block = "import sys; sys.modules.update(dict.fromkeys(['torch', 'tensorflow', 'keras', 'transformers']))\n"
    paths = [ORIGINAL / "vqa.pth", *(TRANSFORMERS / HEAD / name for name in ("pytorch_model.bin", "tf_model.h5"))]
    program = block + f"import conversion\nfor path in {[str(path) for path in paths]}:\n"
    program += f"    config = {ATTENTION_HEADS} if path.endswith('.pth') else None\n"
    program += "    print(conversion.inspect_checkpoint(path, config=config).head)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["BlipForQuestionAnswering", HEAD, HEAD]


def test_what_does_not_fit_is_named(tmp_path):
    random_checkpoint(tmp_path, HEAD)

    def change(tensors):
        del tensors["vision_model.post_layernorm.bias"]
        tensors["lora.a"] = tensors["text_decoder.cls.predictions.bias"]
        tensors["text_decoder.cls.predictions.bias"] = tensors["lora.a"][:-1]

    rewrite(tmp_path / "model.safetensors", change)
    report = inspect_checkpoint(tmp_path)
    assert report.missing == ["vision_model.post_layernorm.bias"]
    assert report.unexpected == ["lora.a"]
    assert report.misshapen == ["text_decoder.cls.predictions.bias [89] instead of [90]"]
    assert not report.complete


def test_a_part_that_is_missing_as_a_whole_is_named_by_its_label(tmp_path):
    random_checkpoint(tmp_path, HEAD)
    report = inspect_checkpoint(tmp_path, head="BlipForQuestionAnswering")
    assert report.missing[:2] == ["text encoder (all of it)", "text encoder's cross-attention (all of it)"]


def test_without_a_configuration_the_tensors_are_told_all_the_same(tmp_path):
    random_checkpoint(tmp_path, HEAD)
    (tmp_path / "config.json").unlink()
    report = inspect_checkpoint(tmp_path)
    assert (report.head, report.config, report.missing) == (HEAD, None, [])
    assert report.parameters["vision encoder"] > 0


def test_a_checkpoint_of_something_else_has_no_head(tmp_path):
    random_checkpoint(tmp_path, HEAD)
    rewrite(
        tmp_path / "model.safetensors",
        lambda tensors: [tensors.update({f"gpt.{n}": tensors.pop(n)}) for n in list(tensors)],
    )
    write_json(tmp_path / "config.json", {**read_json(tmp_path / "config.json"), "architectures": ["GPT"]})
    report = inspect_checkpoint(tmp_path)
    assert report.head is None
    assert len(report.unexpected) == report.tensors
    assert not report.complete


def test_an_unknown_head_is_refused(tmp_path):
    random_checkpoint(tmp_path, HEAD)
    with pytest.raises(ValueError, match=r"head must be one of BlipVisionModel.*got 'Blip'"):
        inspect_checkpoint(tmp_path, head="Blip")


def test_the_command_prints_lines_and_json(tmp_path, capsys):
    random_checkpoint(tmp_path, HEAD)
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for text in (f"head        {HEAD}", "3 layers, 24 wide, 3 heads", "90 words", "missing     nothing", "float32"):
        assert text in out
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == inspect_checkpoint(tmp_path).total


def test_the_command_fails_where_something_is_missing(tmp_path, capsys):
    random_checkpoint(tmp_path, HEAD)
    assert main(["inspect", str(tmp_path), "--head", "BlipForQuestionAnswering"]) == 1
    assert "missing     text encoder (all of it)" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("blip: error: ")
