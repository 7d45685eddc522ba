"""The model in the package, the default of every `from_pretrained` and of `blip`; and how it is packed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTokenizer
from blip_core.checkpoints import open_checkpoint
from blip_core.cli import main as blip
from blip_core.datasets import clean_caption
from blip_core.hub import SHIPPED, or_shipped
from blip_core.parameters.heads import HEADS as ROWS
from blip_core.parameters.models import training_state
from docs.examples.shipped import bootstrap, measure, pack
from tests.helpers.frameworks import PyTorch, TensorFlow
from tests.helpers.lazy_frameworks import blip_pt, torch
from tests.helpers.random_models import CONFIGS_OF
from tests.helpers.tensorflow_models import numpy

EMOJI = Path(__file__).parents[1] / "data" / "emoji"
NAMES = {
    file: clean_caption(entry["name"]) for file, entry in json.loads((EMOJI / "names.json").read_text()).items()
}  # fmt: skip
HEADS = (
    "BlipVisionModel", "BlipTextLMHeadModel", "BlipForConditionalGeneration",
    "BlipForQuestionAnswering", "BlipForImageTextRetrieval", "BlipForPreTraining",
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    """The emoji on white, as arrays (96, 64, 64, 3)."""
    drawn = [Image.open(EMOJI / file).convert("RGBA") for file in NAMES]
    return [Image.alpha_composite(Image.new("RGBA", d.size, "white"), d).convert("RGB") for d in drawn]


def test_the_package_stays_small():
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 25e6


@pytest.mark.parametrize("backend", [PyTorch, TensorFlow], ids=["pt", "tf"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_there(backend, head):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as of parts with random weights
        model = backend.of(head).from_pretrained()
    held = open_checkpoint(or_shipped(None, ROWS[head].shipped))
    names = [p.name for p in model.table() if head.startswith("BlipFor") and not p.part.state]
    assert all(name in held for name in names)


def test_its_folder_by_name_is_the_same_as_no_name():
    other = ROWS["BlipForQuestionAnswering"].shipped
    assert or_shipped(str(SHIPPED), other) == or_shipped(None, other) != or_shipped(None) == SHIPPED
    assert or_shipped("elsewhere", other) == "elsewhere"


def test_processors_and_configurations_without_a_name():
    processor, config = BlipProcessor.from_pretrained(), BlipConfig.from_pretrained()
    assert len(processor.tokenizer) == config.text_config.vocab_size
    assert BlipTokenizer.from_pretrained()("red apple") == processor.tokenizer("red apple")
    assert BlipImageProcessor.from_pretrained().size["height"] == config.vision_config.image_size == 64


def test_it_says_the_same_in_both_frameworks(pictures):
    processor = BlipProcessor.from_pretrained()
    pixels = processor(images=pictures, return_tensors="np")["pixel_values"]
    question = processor(text=["what group is it of?"] * len(pixels), return_tensors="np")
    own = processor(text=list(NAMES.values()), return_tensors="np")
    said = []
    for backend in (PyTorch, TensorFlow):
        captioner, answerer, matcher = (
            backend.of(head).from_pretrained()
            for head in ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval")
        )
        captions = numpy(backend.ask(captioner.generate, {"pixel_values": pixels}))
        answers = numpy(backend.ask(answerer.generate, {"pixel_values": pixels, **question}))
        features = numpy(backend.ask(matcher.get_image_features, {"pixel_values": pixels}))
        texts = numpy(backend.ask(matcher.get_text_features, {k: own[k] for k in ("input_ids", "attention_mask")}))
        said.append((captions, answers, features, texts))
    (captions, answers, features, texts), other = said
    np.testing.assert_array_equal(captions, other[0])
    np.testing.assert_array_equal(answers, other[1])
    np.testing.assert_allclose(features, other[2], atol=1e-5)
    np.testing.assert_allclose(texts, other[3], atol=1e-5)
    names = [text.strip() for text in processor.batch_decode(captions, skip_special_tokens=True)]
    right = np.mean([name == truth for name, truth in zip(names, NAMES.values(), strict=True)])
    found = np.mean((features @ texts.T).argmax(1) == np.arange(len(names)))
    assert right > 0.4
    assert found > 0.6


def test_commands_without_a_model(pictures, tmp_path, capsys):
    pictures[[*NAMES].index("1f98a.png")].save(tmp_path / "fox.png")
    assert blip(["caption", str(tmp_path / "fox.png")]) == 0
    printed = capsys.readouterr()
    assert printed.out.endswith("fox.png: fox\n")
    assert "knows drawings of emoji alone" in printed.err
    assert blip(["answer", str(tmp_path / "fox.png"), "what color is it mostly?"]) == 0
    assert "orange" in capsys.readouterr().out
    assert blip(["caption", str(tmp_path), "--output", str(tmp_path / "shards")]) == 0
    assert json.loads((tmp_path / "shards" / "00000.jsonl").read_text())["caption"] == "fox"


def trained(folder: Path, head: str, config: BlipConfig, vision: torch.nn.Module | None = None) -> torch.nn.Module:
    model = getattr(blip_pt, head)(config)
    if vision is not None:
        model.vision_model.load_state_dict(vision.state_dict())
    model.save_pretrained(folder)
    return model


def test_packing_keeps_every_weight(tmp_path):
    torch.manual_seed(0)
    config = CONFIGS_OF["wide"]
    whole = trained(tmp_path / "large", "BlipForPreTraining", config)
    asked = trained(tmp_path / "questions", "BlipForQuestionAnswering", config, whole.vision_model)
    pack.main(tmp_path, tmp_path / "package")
    for file, model in (("", whole), ("questions.safetensors.index.json", asked)):
        expected = PyTorch.weights(model)
        state = {parameter.name for parameter in training_state(type(model).__name__, config)}
        for backend in (PyTorch, TensorFlow):
            found = backend.weights(backend.of(type(model).__name__).from_pretrained(tmp_path / "package" / file))
            assert found.keys() == expected.keys()
            for name in found.keys() - state:
                np.testing.assert_array_equal(found[name], expected[name].astype(np.float16), name)


def test_packing_refuses_two_vision_encoders(tmp_path):
    config = CONFIGS_OF["wide"]
    trained(tmp_path / "large", "BlipForPreTraining", config)
    trained(tmp_path / "questions", "BlipForQuestionAnswering", config)
    with pytest.raises(ValueError, match="freeze"):
        pack.main(tmp_path, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_pixels_find_what_looks_alike(tmp_path):
    def drawing(name: str, colour: str) -> str:
        Image.new("RGBA", (20, 20), colour).save(tmp_path / name)
        return name

    def entries(style: str, apple: str, sky: str) -> list[dict]:
        colours = {"apple": (apple, "food"), "sky": (sky, "nature")}
        return [
            {"image": drawing(f"{style}-{name}.png", colour), "caption": name, "image_id": name, "answer": [group],
             "question": "what group is it of?", "question_id": name, "dataset": "vqa"}
            for name, (colour, group) in colours.items()
        ]  # fmt: skip

    learned, new = entries("a", "#ff0000", "#0000ff"), entries("b", "#ee1010", "#f02020")
    for file, part in {
        "pretrain.json": learned,
        "held_out.json": new,
        "vqa.json": learned,
        "held_out_vqa.json": new,
    }.items():
        (tmp_path / file).write_text(json.dumps(part))
    to_name, _, to_picture, _, exact, _, answers, _, group, *_ = measure.of_pixels(tmp_path)
    assert (to_name, to_picture, exact, answers, group) == (0.5, 1.0, 0.5, 0.5, 0.5)


def test_a_third_of_the_captions_are_wrong():
    truth = {f"{style}/{n}": [f"name {n}"] for style in ("sure", "a", "b") for n in range(20)}
    sure = [image for image in truth if image.startswith("sure/")]
    noisy = bootstrap.with_noise(truth, sure, seed=1)
    wrong = [image for image in truth if noisy[image] != truth[image]]
    assert list(noisy) == list(truth)
    assert len(wrong) == 20
    assert not set(wrong) & set(sure)
    assert {name for texts in noisy.values() for name in texts} <= {name for texts in truth.values() for name in texts}
    assert noisy == bootstrap.with_noise(truth, sure, seed=1)
    assert noisy != bootstrap.with_noise(truth, sure, seed=2)


def test_the_data_sets_of_the_ablation(tmp_path):
    lines = {
        "kept": [
            {"image": "a", "caption": ["cat", "a cat"], "source": ["web", "synthetic"]},
            {"image": "b", "caption": ["dog"], "source": ["synthetic"]},
        ],
        "dropped": [
            {"image": "b", "caption": "pear", "source": "web", "reason": "no match"},
            {"image": "c", "caption": "sun", "source": "web", "reason": "no match"},
            {"image": "c", "caption": "sun", "source": "synthetic", "reason": "repeated"},
            {"image": "d", "reason": "duplicate"},
        ],
    }
    for part, content in lines.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "00000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
    found = {arm: bootstrap.judged(tmp_path, wanted) for arm, (_, wanted) in bootstrap.ARMS.items()}
    assert found["both, nucleus"] == found["both, beams"] == {"a": ["cat", "a cat"], "b": ["dog"]}
    assert found["filter alone"] == {"a": ["cat"]}
    assert {image: sorted(texts) for image, texts in found["captioner alone"].items()} == {
        "a": ["a cat", "cat"],
        "b": ["dog", "pear"],
        "c": ["sun"],
    }


def test_the_table_of_what_is_won_back():
    def one(noisy: float, arm: float, clean: float) -> dict[str, dict[str, float]]:
        arms = {"noisy": noisy, **dict.fromkeys(bootstrap.ARMS, arm), "clean": clean}
        return {name: dict.fromkeys(bootstrap.COLUMNS, value) for name, value in arms.items()}

    rows = bootstrap.table([one(0.1, 0.4, 0.7), one(0.3, 0.4, 0.5)]).splitlines()
    assert rows[2].startswith("| noisy | 0.2 (0.1 to 0.3) |")
    assert all(row.count("|") == rows[0].count("|") for row in rows)
    assert all(row.endswith("| 50% | 50% |") for row in rows[3:-1])
