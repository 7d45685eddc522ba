"""Classification with momentum distillation: LAVIS's formula in both frameworks, and runs from data to accuracy."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from blip_core import BlipConfig
from blip_core.cli import main
from blip_core.training import train
from tests.helpers.frameworks import FRAMEWORKS, INSTALLED, PyTorch, TensorFlow
from tests.helpers.lazy_frameworks import blip_pt, torch
from tests.helpers.random_models import CONFIGS_OF, difference, inputs, numpy
from tests.helpers.tensorflow_models import models, to_pt, to_tf
from tests.helpers.training_runs import make_world, of

HEAD, CLASSES, ALPHA = "BlipForClassification", 3, 0.3
LABELS = np.array([2, 0])


def config(name="wide"):
    return BlipConfig.from_dict({**CONFIGS_OF[name].to_dict(), "num_labels": CLASSES, "momentum": 0.9})


def batch(name="wide"):
    return {**inputs(HEAD, config(name)), "labels": LABELS}


def log_softmax(logits):
    logits = numpy(logits).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("name", CONFIGS_OF)
def test_the_loss_without_momentum_encoders_is_the_cross_entropy(name, tmp_path):
    pt, tf_model = models(HEAD, config(name), tmp_path)
    output = pt(**to_pt(batch(name)))
    assert output.logits.shape == (2, CLASSES)
    assert difference(-log_softmax(output.logits)[[0, 1], LABELS].mean(), output.loss) < 1e-6
    assert difference(output.loss, tf_model(**to_tf(batch(name))).loss) < 1e-5


def test_momentum_encoders_soften_the_labels(tmp_path):
    """The formula of LAVIS: (1 - alpha) CE(labels) + alpha CE(shares of the momentum encoders), which follow before."""
    pt, tf_model = models(HEAD, config(), tmp_path)
    for model in (pt, tf_model):
        model.start_momentum()
    before = copy.deepcopy(pt).eval()
    with torch.no_grad():
        for own, _ in pt.momentum_pairs():
            own.add_(torch.randn_like(own), alpha=0.1)
        expected = [share.clone() for _, share in pt.momentum_pairs()]
        for share, (own, _) in zip(expected, pt.momentum_pairs(), strict=True):
            share.mul_(0.9).add_(own, alpha=0.1)
    values = to_pt(batch()) | {"alpha": ALPHA}
    output = pt.train()(**values)
    for share, (_, follower) in zip(expected, pt.momentum_pairs(), strict=True):
        assert torch.allclose(share, follower)
    teacher = blip_pt.BlipForClassification(config(), initialize=False)
    teacher.load_state_dict({k.replace("_m.", "."): v for k, v in pt.state_dict().items() if "_m." in k})
    with torch.no_grad():
        shares = torch.softmax(teacher.eval()(**{k: v for k, v in values.items() if k != "labels"}).logits, dim=1)
    logs = log_softmax(output.logits)
    hard, soft = -logs[[0, 1], LABELS].mean(), -(logs * numpy(shares)).sum(axis=1).mean()
    assert difference((1 - ALPHA) * hard + ALPHA * soft, output.loss) < 1e-5
    found = tf_model(**to_tf(batch()), alpha=ALPHA, training=True).loss  # of the weights before
    assert difference(before(**values).loss, found) < 1e-5


def test_evaluating_moves_no_momentum_encoder(tmp_path):
    pt, tf_model = models(HEAD, config(), tmp_path)
    for framework, model in ((PyTorch, pt), (TensorFlow, tf_model)):
        model.start_momentum()
        first = framework.weights(model)
        framework.run(model, batch())
        assert all(np.array_equal(value, first[name]) for name, value in framework.weights(model).items())


@pytest.mark.slow
def test_twenty_steps_stay_together(tmp_path):
    pt, tf_model = models(HEAD, config(), tmp_path)
    for model in (pt, tf_model):
        model.start_momentum()
    steps = [PyTorch.adamw(pt, lr=1e-4, weight_decay=0.05), TensorFlow.adamw(tf_model, lr=1e-4, weight_decay=0.05)]
    found = np.array([[step(batch())["loss"] for step in steps] for _ in range(20)])
    assert found[-1, 0] < found[0, 0]
    np.testing.assert_allclose(found[:, 0], found[:, 1], atol=1e-4)


@pytest.mark.parametrize("framework", ["pt", pytest.param("tf", marks=pytest.mark.slow)])
def test_a_file_of_lavis_is_read(framework, tmp_path):
    """Its names are the original's; momentum copies are there where it distilled."""
    pt, _ = models(HEAD, config(), tmp_path)
    pt.start_momentum()
    names = {"vision_model_m.": "visual_encoder_m.", "vision_model.": "visual_encoder."}
    rows = {row.name: row for row in pt.table()}
    state = {}
    for name, row in rows.items():
        prefix = next((old for old in names if name.startswith(old)), "")
        theirs = names[prefix] + row.row.original.format(row.layer) if prefix else name
        state[theirs] = pt.get_tensor(name).detach().clone()
    torch.save({"model": state}, tmp_path / "lavis.pth")
    loaded = FRAMEWORKS[framework].of(HEAD).from_pretrained(tmp_path / "lavis.pth", config=config())
    assert loaded.has_momentum
    expected, found = PyTorch.weights(pt), FRAMEWORKS[framework].weights(loaded)
    assert all(np.array_equal(value, found[name]) for name, value in expected.items())


def test_train_and_evaluate_from_the_command_line(tmp_path, monkeypatch, capfd):
    world = make_world(tmp_path)
    monkeypatch.chdir(world)
    data, engine = str(world / "classes.json"), ["--engine", INSTALLED[0]]
    start = ["--model", str(world / "new" / "config.json"), "--output", "mine", "--epochs", "1", "--batch-size", "4"]
    assert main(["train", "classification", "--data", data, *start, *engine, "--set", "num_labels=3"]) == 0
    assert json.loads(Path("mine/config.json").read_text())["num_labels"] == 3
    capfd.readouterr()
    arguments = ["--data", data, "--model", "mine", *engine, "--output", "all.json"]
    assert main(["evaluate", "classification", *arguments]) == 0
    examples = json.loads(Path("all.json").read_text())["examples"]
    assert all(len(row["probability"]) == 3 for row in examples)
    right = [int(np.argmax(row["probability"])) == row["label"] for row in examples]
    assert float(capfd.readouterr().out.splitlines()[1].split()[1]) == pytest.approx(np.mean(right), abs=1e-4)


def test_labels_that_do_not_fit(tmp_path):
    world = make_world(tmp_path)
    entries = json.loads((world / "classes.json").read_text())
    entries[3]["label"] = "entailment"
    (world / "classes.json").write_text(json.dumps(entries))
    run = of(world, "classification", "x", engine=INSTALLED[0])
    with pytest.raises(
        ValueError, match="The data have a label 2, and the model 2 classes, from 0 on; set num_labels to 3"
    ):
        train(**run)
    entries[3]["label"] = "perhaps"
    (world / "classes.json").write_text(json.dumps(entries[3:4]))
    with pytest.raises(
        ValueError, match="label must be a whole number from 0 on, or one of contradiction, neutral, ent"
    ):
        train(**run)
