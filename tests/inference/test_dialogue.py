"""Visual dialogue: texts grounded in a picture and its caption, and the answers that the matching head prefers."""

import json

import numpy as np
import pytest

from blip_core import Answerer
from blip_core.cli import main
from blip_core.generation.scores import softmax
from blip_core.inference.dialogue import Dialogue, after_history
from tests.helpers.frameworks import FRAMEWORKS, INSTALLED, PyTorch, TensorFlow
from tests.helpers.lazy_frameworks import torch
from tests.helpers.random_models import CONFIGS_OF, difference, inputs, numpy
from tests.helpers.tensorflow_models import models, to_pt, to_tf

HEAD, PICTURE = "BlipForImageTextRetrieval", "tests/data/emoji/1f98a.png"
HISTORY = [("what is it?", "an animal"), ("which one?", "a fox")]


def config():
    """One in which pictures and texts have states of the same width."""
    found = CONFIGS_OF["wide"].to_dict()
    found["vision_config"] |= {"hidden_size": 32, "num_attention_heads": 4}
    return type(CONFIGS_OF["wide"]).from_dict(found)


def batch():
    """Two texts with pictures, captions of unlike length, and labels."""
    values = inputs(HEAD, config())
    mask = np.array([[1] * 3 + [0], [1] * 4])
    captions = np.where(mask, np.random.default_rng(4).integers(6, 80, (2, 4)), 0)
    return values | {"caption_ids": captions, "caption_attention_mask": mask}


def test_the_head_reads_texts_grounded_in_pictures_and_captions(tmp_path):
    """The formula: cross-attention to the picture's tokens and, behind them, the caption's states."""
    pt, tf_model = models(HEAD, config(), tmp_path)
    values = to_pt(batch())
    with torch.no_grad():
        score = pt(**values).itm_score
        for row in range(2):  # each by itself, without padding
            one = {name: value[row : row + 1] for name, value in values.items()}
            caption = one["caption_ids"][:, : int(one["caption_attention_mask"].sum())]
            text = one["input_ids"][:, : int(one["attention_mask"].sum())].clone()
            text[:, 0] = pt.config.enc_token_id
            picture, said = pt.vision_model(one["pixel_values"])[0], pt.text_encoder(caption).last_hidden_state
            states = torch.cat([picture, said], dim=1)
            expected = pt.itm_head(pt.text_encoder(text, encoder_hidden_states=states).last_hidden_state[:, 0])
            assert difference(expected[0], score[row]) < 1e-5
        without = pt(**{name: value for name, value in values.items() if "caption" not in name}).itm_score
    assert difference(without, score) > 1e-4
    assert difference(score, tf_model(**to_tf(batch())).itm_score) < 1e-5


def test_twenty_steps_stay_together(tmp_path):
    pt, tf_model = models(HEAD, config(), tmp_path)
    values = batch() | {"labels": np.array([1, 0])}
    steps = [PyTorch.adamw(pt, lr=1e-4, weight_decay=0.05), TensorFlow.adamw(tf_model, lr=1e-4, weight_decay=0.05)]
    found = np.array([[step(values)["loss"] for step in steps] for _ in range(20)])
    assert found[-1, 0] < found[0, 0]
    np.testing.assert_allclose(found[:, 0], found[:, 1], atol=1e-4)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("same", {"use_itm_head": False}, "Captions are for the matching head"),
        ("same", {"caption_ids": np.array([[1, 2, 3, 4]]), "caption_attention_mask": None}, "got 2 pictures, 1 texts"),
        ("wide", {}, "Captions go with pictures of states of their width 32; this model's have 24"),
    ],
)
def test_captions_that_do_not_fit(framework, name, more, message):
    kind = FRAMEWORKS[framework]
    model = kind.of(HEAD)(config() if name == "same" else CONFIGS_OF[name])
    values = {key: value for key, value in (batch() | more).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        kind.run(model, values)


@pytest.mark.parametrize("engine", FRAMEWORKS)
def test_answers_are_ranked_after_a_history(engine):
    dialogue = Dialogue.from_pretrained(engine=engine)
    choices = ["orange", "a blue car", "green"]
    said = dialogue(PICTURE, "what color is it?", choices, caption="a fox", history=HISTORY, batch_size=2)
    texts = [f"what is it? an animal which one? a fox what color is it? {answer}" for answer in choices]
    states, caption = dialogue.encode(dialogue.read(PICTURE)[None]), dialogue.tokens(["a fox"])
    expected = {}
    for text, answer in zip(texts, choices, strict=True):
        values = {"image_embeds": states, **dialogue.tokens([text])}
        values |= {"caption_ids": caption["input_ids"], "caption_attention_mask": caption["attention_mask"]}
        expected[answer] = softmax(numpy(FRAMEWORKS[engine].ask(dialogue.model, values).itm_score))[0, 1]
    assert {choice["answer"]: choice["itm"] for choice in said.choices} == pytest.approx(expected, abs=1e-5)
    assert said.text == max(expected, key=expected.get)
    assert said.confidence == pytest.approx(max(expected.values()), abs=1e-5)
    with pytest.raises(ValueError, match="choices"):
        dialogue(PICTURE, "what?", [], caption="a fox")


def test_answers_are_generated_after_a_history():
    answerer = Answerer.from_pretrained(engine=INSTALLED[0])
    asked = after_history(HISTORY, "what color is it?")
    assert asked == "what is it? an animal which one? a fox what color is it?"
    assert answerer(PICTURE, asked).text


def test_the_command_chooses_or_generates_an_answer(tmp_path, capfd):
    history = [word for turn in HISTORY for word in ("--history", *turn)]
    arguments = ["dialogue", PICTURE, "what color is it?", *history, "--engine", INSTALLED[0]]
    (tmp_path / "choices.txt").write_text("orange\na blue car\ngreen\n")
    chosen = ["--choices", str(tmp_path / "choices.txt"), "--caption", "a fox"]
    assert main([*arguments, *chosen, "--json"]) == 0
    row = json.loads(capfd.readouterr().out)
    dialogue = Dialogue.from_pretrained(engine=INSTALLED[0])
    said = dialogue(PICTURE, "what color is it?", ["orange", "a blue car", "green"], caption="a fox", history=HISTORY)
    assert row == {"image": PICTURE, "question": "what color is it?", "answer": said.text, "choices": said.choices}
    assert main([*arguments, *chosen]) == 0
    best = said.choices[0]
    assert capfd.readouterr().out.splitlines()[0] == f"{PICTURE}: {best['answer']} ({best['itm']:.3f})"
    assert main(arguments) == 0
    answerer = Answerer.from_pretrained(engine=INSTALLED[0])
    expected = answerer(PICTURE, after_history(HISTORY, "what color is it?")).text
    assert capfd.readouterr().out == f"{PICTURE}: {expected}\n"
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert main(["dialogue", str(tmp_path / "bad.png"), *arguments[2:], *chosen]) == 1
    assert "bad.png" in capfd.readouterr().err


@pytest.mark.parametrize(("one", "other"), [("choices", "caption"), ("caption", "choices")])
def test_what_the_command_needs_is_said(one, other, capfd):
    with pytest.raises(SystemExit):
        main(["dialogue", PICTURE, "what?", f"--{one}", "x"])
    assert f"argument --{one}: goes with --{other}" in capfd.readouterr().err
