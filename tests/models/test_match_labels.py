"""Matching on pairs with labels: the loss is the cross-entropy of the matching head's logits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from blip_core.cli import main
from tests.helpers.frameworks import FRAMEWORKS, INSTALLED, PyTorch, TensorFlow
from tests.helpers.random_models import CONFIGS_OF, difference, inputs, numpy
from tests.helpers.tensorflow_models import models, to_pt, to_tf
from tests.helpers.training_runs import make_world

HEAD = "BlipForImageTextRetrieval"
LABELS = np.array([1, 0])
EMOJI = Path(__file__).parents[1] / "data" / "emoji"


@pytest.mark.parametrize("name", CONFIGS_OF)
def test_the_loss_is_the_cross_entropy_in_both_frameworks(name, tmp_path):
    pt, tf_model = models(HEAD, CONFIGS_OF[name], tmp_path)
    values = inputs(HEAD, CONFIGS_OF[name]) | {"labels": LABELS}
    output = pt(**to_pt(values))
    logits = numpy(output.itm_score).astype(np.float64)
    log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert difference(-log_shares[[0, 1], LABELS].mean(), output.loss) < 1e-6
    assert difference(output.loss, tf_model(**to_tf(values)).loss) < 1e-5


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"labels": np.array([1, 0, 1])}, r"labels must be of shape \(2,\), one class of each text, got \(3,\)"),
        (
            {"use_itm_head": False},
            "labels are of the matching head; leave out image_ids and use_itm_head=False, or lab",
        ),
        ({"image_ids": np.array([1, 2])}, "labels are of the matching head"),
    ],
)
def test_labels_that_do_not_fit(framework, more, message):
    model = FRAMEWORKS[framework].of(HEAD)(CONFIGS_OF["wide"])
    with pytest.raises(ValueError, match=message):
        FRAMEWORKS[framework].run(model, inputs(HEAD, CONFIGS_OF["wide"]) | {"labels": LABELS} | more)


def test_twenty_steps_stay_together(tmp_path):
    pt, tf_model = models(HEAD, CONFIGS_OF["wide"], tmp_path)
    values = inputs(HEAD, CONFIGS_OF["wide"]) | {"labels": LABELS}
    steps = [PyTorch.adamw(pt, lr=1e-4, weight_decay=0.05), TensorFlow.adamw(tf_model, lr=1e-4, weight_decay=0.05)]
    found = np.array([[step(values)["loss"] for step in steps] for _ in range(20)])
    assert found[-1, 0] < found[0, 0]
    np.testing.assert_allclose(found[:, 0], found[:, 1], atol=1e-4)


def test_train_and_evaluate_on_own_pairs(tmp_path, monkeypatch, capfd):
    world = make_world(tmp_path)
    monkeypatch.chdir(world)
    data, engine = str(world / "labelled.json"), ["--engine", INSTALLED[0]]
    start = ["--model", str(world / "new" / "config.json"), "--output", "mine", "--epochs", "1", "--batch-size", "4"]
    assert main(["train", "match", "--data", data, *start, *engine, "--set", "augmentation=false"]) == 0
    capfd.readouterr()
    assert main(["evaluate", "match", "--data", data, "--model", "mine", *engine, "--output", "all.json"]) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[0] == "match over 8 captions"
    examples = json.loads(Path("all.json").read_text())["examples"]
    right = [(row["probability"] > 0.5) == bool(row["label"]) for row in examples]
    assert float(out[1].split()[1]) == pytest.approx(np.mean(right), abs=1e-4)
    assert main(["evaluate", "match", "--data", str(world / "pairs.json"), "--model", "mine", *engine]) == 1
    assert "has no label to compare with" in capfd.readouterr().err
