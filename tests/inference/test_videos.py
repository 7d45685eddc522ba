"""Captions of videos and answers about them: the decoder, or the question, attends to the tokens of all frames."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip_core import Answerer, Captioner
from blip_core.cli import main
from blip_core.datasets import open_dataset
from blip_core.engines import engine_of
from blip_core.evaluation import evaluate_answers, evaluate_captions, evaluate_retrieval
from blip_core.inference import Matcher
from blip_core.processing.video import read_frames
from tests.helpers.frameworks import FRAMEWORKS, INSTALLED, PyTorch, TensorFlow
from tests.helpers.random_models import CONFIGS_OF, inputs
from tests.helpers.tensorflow_models import models

EMOJI = Path(__file__).parents[1] / "data" / "emoji"
NAMES = ("1f98a.png", "1f355.png", "1f697.png", "1f433.png")
QUESTIONS = ["what is it?", "what color is it mostly?"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two animations of 4 and of 2 frames, and a picture."""
    root = tmp_path_factory.mktemp("videos")
    frames = [Image.open(EMOJI / name).convert("RGB") for name in NAMES]
    for name, some in (("long.gif", frames), ("short.gif", frames[1:3])):
        some[0].save(root / name, save_all=True, append_images=some[1:], loop=0, duration=100)
    frames[0].save(root / "still.png")
    return root


def joined(model, path, frames):
    """The image tokens of all frames in a row."""
    states = model.encode(read_frames(model.processor, path, frames))
    return states.reshape(1, -1, states.shape[-1])


@pytest.mark.parametrize("engine", FRAMEWORKS)
def test_captions_are_of_the_tokens_of_all_frames(videos, engine):
    captioner = Captioner.from_pretrained(engine=engine)
    paths = [str(videos / name) for name in ("long.gif", "short.gif", "still.png")]
    found = list(captioner([*paths, "gone.gif"], frames=3, max_new_tokens=6))
    for path, caption, tokens in zip(paths, found, (3, 2, 1), strict=False):
        states = joined(captioner, path, 3)
        assert states.shape[1] == tokens * captioner.model.config.vision_config.num_positions
        tensor = engine_of(captioner.model).to_tensor(states, captioner.model)
        ids = engine_of(captioner.model).to_numpy(captioner.model.generate(image_embeds=tensor, max_new_tokens=6))
        assert caption.text == captioner.processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
    assert isinstance(found[3].error, OSError)
    assert captioner(paths[2], max_new_tokens=6).text == found[2].text


@pytest.mark.parametrize("engine", FRAMEWORKS)
def test_questions_are_about_all_frames(videos, engine):
    answerer = Answerer.from_pretrained(engine=engine)
    path = str(videos / "long.gif")
    answers = answerer(path, QUESTIONS, frames=4)
    assert [one.text for one in answers] == [one.text for one in answerer.write(joined(answerer, path, 4), QUESTIONS)]
    chosen = answerer.choose(path, QUESTIONS[1], ["orange", "red", "blue"], frames=4)
    assert chosen.log_prob == pytest.approx(
        answerer.pick(joined(answerer, path, 4), QUESTIONS[1:], ["orange", "red", "blue"])[0].log_prob, abs=1e-5
    )


def test_evaluation_of_videos(videos, tmp_path):
    """Of captions, answers and retrieval; by the command line as by Python."""
    engine = INSTALLED[0]
    names = ["long.gif", "short.gif", "still.png"]
    entries = [{"image": name, "caption": "fox"} for name in names]
    (tmp_path / "captions.json").write_text(json.dumps(entries))
    asked = [{"image": name, "question": q, "answer": "orange"} for name in names for q in QUESTIONS]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    paths = [str(videos / name) for name in names]
    captioner = Captioner.from_pretrained(engine=engine)
    dataset = open_dataset(tmp_path / "captions.json", "caption", videos)
    matcher = Matcher.from_pretrained(engine=engine)
    result = evaluate_captions(
        captioner.model, captioner.processor, dataset, frames=2, batch_size=2, max_new_tokens=5, matcher=matcher
    )
    said = [entry["caption"] for entry in result.entries]
    assert said == [caption.text for caption in captioner(paths, frames=2, max_new_tokens=5)]
    pictures = matcher.item_features([read_frames(matcher.processor, path, 2) for path in paths])
    expected = (pictures * matcher.text_features(said)).sum(axis=1)
    np.testing.assert_allclose([entry["itc"] for entry in result.entries], expected, atol=1e-6)
    assert result.metrics["itc"] == pytest.approx(float(expected.mean()))
    answerer = Answerer.from_pretrained(engine=engine)
    dataset = open_dataset(tmp_path / "asked.json", "vqa", videos)
    result = evaluate_answers(answerer.model, answerer.processor, dataset, frames=2)
    expected = [one.text for answers in answerer(paths, QUESTIONS, frames=2) for one in answers]
    assert [entry["answer"] for entry in result.entries] == expected
    dataset = open_dataset(tmp_path / "captions.json", "retrieval", videos)
    one, several = (
        evaluate_retrieval(matcher.model, matcher.processor, dataset, frames=frames, rerank=2) for frames in (1, 4)
    )
    assert one.counted == several.counted == {"pictures": 3, "texts": 3}


def test_the_command_line_takes_videos(videos, capfd):
    path, engine = str(videos / "long.gif"), ["--engine", INSTALLED[0], "--frames", "4"]
    assert main(["caption", path, *engine]) == 0
    assert main(["answer", path, QUESTIONS[0], *engine]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"{path}: {Captioner.from_pretrained(engine=INSTALLED[0])(path, frames=4).text}"
    assert len(lines) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("head", ["BlipForQuestionAnswering", "BlipForConditionalGeneration"])
def test_twenty_steps_on_videos_stay_together(tmp_path, head):
    """Answers and captions are learned from the tokens of all frames in a row, in both frameworks alike."""
    pt, tf_model = models(head, CONFIGS_OF["wide"], tmp_path)
    values = inputs(head, CONFIGS_OF["wide"])
    tokens = CONFIGS_OF["wide"].vision_config.num_positions
    noise = np.random.default_rng(5).normal(size=(2, 3 * tokens, CONFIGS_OF["wide"].vision_config.hidden_size))
    values = {**values, "image_embeds": noise.astype(np.float32)}
    del values["pixel_values"]
    steps = [PyTorch.adamw(pt, lr=1e-4, weight_decay=0.05), TensorFlow.adamw(tf_model, lr=1e-4, weight_decay=0.05)]
    found = np.array([[step(values)["loss"] for step in steps] for _ in range(20)])
    assert found[-1, 0] < found[0, 0]
    np.testing.assert_allclose(found[:, 0], found[:, 1], atol=1e-4)
