"""Runs of training: every task in both frameworks, what goes on after a stop, what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from blip_core.generation import GenerationConfig
from blip_core.jobs.writer_lock import BusyError, one_writer
from blip_core.tasks import TASKS
from blip_core.training import Settings, train
from blip_core.training.held_out import Validation
from blip_core.training.protocol import MicroBatch
from tests.helpers.frameworks import FRAMEWORKS
from tests.helpers.lazy_frameworks import blip_pt, torch
from tests.helpers.training_runs import close, losses, make_world, of, weights

ROOT = Path(__file__).parents[2]
TRAINED = [task.name for task in TASKS.values() if task.trains]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small tensors are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("task", TRAINED)
def test_both_frameworks_train_alike(world, task):
    runs = [of(world, task, f"{task}-{name}", engine=name, epochs=3) for name in FRAMEWORKS]
    one, other = (train(**run) for run in runs)
    assert one.step == other.step == 6
    assert np.allclose(losses(one.output), losses(other.output), rtol=0, atol=2e-5)
    assert close(one.output, other.output, atol=2e-4)


@pytest.mark.parametrize("framework", ["pt", pytest.param("tf", marks=pytest.mark.slow)])
def test_a_captioner_learns_eight_pictures(world, framework):
    """And what it learned is a model to use: it says the captions, and with them the prompt that it began with."""
    settings = {
        "batch_size": 4,
        "epochs": 80,
        "learning_rate": 1e-2,
        "schedule_every": "step",
        "label_smoothing": 0.0,
        "prompt": "a picture of ",
        "keep": 1,
    }
    result = train(**of(world, "caption", f"learned-{framework}", engine=framework, **settings))
    found = losses(result.output)
    assert found[-1] < 0.3 * found[0]
    processor = blip_pt.BlipProcessor.from_pretrained(result.output)
    model = blip_pt.BlipForConditionalGeneration.from_pretrained(result.output)
    inputs = processor(images=[world / f"{i}.png" for i in range(8)], return_tensors="pt")
    said = processor.batch_decode(model.generate(**inputs, max_new_tokens=8), skip_special_tokens=True)
    truth = [f"a picture of {entry['caption']}" for entry in json.loads((world / "pairs.json").read_text())]
    assert sum(a == b for a, b in zip(said, truth, strict=True)) >= 6, said


@pytest.mark.parametrize("task", TRAINED)
def test_stopped_and_resumed_is_the_same_to_the_bit(world, task):
    options = {"engine": "pt", "dropout": 0.1, "drop_path": 0.1, "augmentation": True, "epochs": 3}
    whole = train(**of(world, task, f"whole-{task}", **options))
    part = of(world, task, f"part-{task}", **options)
    assert train(**part, max_steps=3).step == 3
    assert train(**part, resume=True).step == whole.step == 6
    expected, found = weights(whole.output), weights(part["output"])
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert losses(whole.output) == losses(part["output"])
    assert train(**part, resume=True).step == 6  # a finished run stays as it is


@pytest.mark.parametrize("task", [pytest.param("caption", marks=pytest.mark.slow), "retrieval"])
def test_stopped_and_resumed_is_the_same_in_tensorflow(world, task):
    options = {"engine": "tf", "dropout": 0.1, "drop_path": 0.1, "augmentation": True}
    whole = train(**of(world, task, f"whole-tf-{task}", **options))
    part = of(world, task, f"part-tf-{task}", **options)
    train(**part, max_steps=3)
    train(**part, resume=True)
    expected, found = weights(whole.output), weights(part["output"])
    for name, value in expected.items():
        assert np.abs(value - found[name]).max() <= 1e-6, name


def command(run, *more):
    """A run as a process of its own."""
    flat = {"log_every", "warmup_steps", "augmentation", "dropout", "drop_path", "image_size", "queue_size"}
    words = [sys.executable, "-m", "blip_core.cli", "train", run["task"]]
    for name, value in run.items():
        if name in flat:
            words += ["--set", f"{name}={str(value).lower()}"]
        elif name != "task":
            words += [f"--{name.replace('_', '-')}", str(value)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen([*words, *more], env=environment, stderr=subprocess.PIPE, text=True)


def kill_at(process, output, step, number):
    """Send a signal once the log tells of a step."""
    while process.poll() is None:
        log = output / "log.jsonl"
        if log.exists() and len(log.read_text().splitlines()) >= step:
            process.send_signal(number)
            break
        time.sleep(0.002)
    return process.wait(), process.stderr.read()


def killed_run(world, framework, name):
    """A run that was killed twice, at steps that chance chooses, and one that was not."""
    options = {"engine": framework, "dropout": 0.1, "epochs": 20, "save_every": 3}
    whole = train(**of(world, "pretrain", f"{name}-whole", **options))
    run = of(world, "pretrain", f"{name}-killed", **options)
    for step in np.random.default_rng().integers(2, 36, 2):
        code, said = kill_at(command(run, "--resume"), run["output"], step, signal.SIGKILL)
        assert code in (-signal.SIGKILL, 0), said
    code, said = kill_at(command(run, "--resume"), run["output"], 10**6, signal.SIGKILL)
    assert code == 0, said
    return weights(whole.output), weights(run["output"])


def test_killed_at_any_step_and_resumed_is_the_same_to_the_bit(world):
    expected, found = killed_run(world, "pt", "pt")
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


@pytest.mark.slow
def test_killed_at_any_step_and_resumed_is_the_same_in_tensorflow_too(world):
    expected, found = killed_run(world, "tf", "tf")
    for name, value in expected.items():
        assert np.abs(value - found[name]).max() <= 1e-6, name


def test_a_polite_signal_saves_and_stops(world):
    options = {"engine": "pt", "dropout": 0.1, "epochs": 500}
    run = of(world, "caption", "polite", **options)
    code, said = kill_at(command(run), run["output"], 3, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "--resume goes on" in said
    (last, *_) = sorted((run["output"] / "checkpoints").iterdir(), reverse=True)
    logged = json.loads((run["output"] / "log.jsonl").read_text().splitlines()[-1])["step"]
    assert last.name == f"step-{logged:08}"


@pytest.mark.parametrize(
    ("framework", "task"),
    [("pt", "caption"), ("pt", "vqa"), ("tf", "caption"), pytest.param("tf", "vqa", marks=pytest.mark.slow)],
)
def test_accumulation_is_a_larger_batch(world, framework, task):
    options = {"engine": framework, "epochs": 2}
    one = train(**of(world, task, f"one-{task}-{framework}", batch_size=8, **options))
    two = train(**of(world, task, f"two-{task}-{framework}", batch_size=4, accumulation=2, **options))
    assert one.step == two.step == 2
    assert np.allclose(losses(one.output), losses(two.output), rtol=0, atol=1e-5)
    assert close(one.output, two.output, atol=2e-5)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_and_keeps_whole_weights(world, framework, precision):
    run = of(world, "pretrain", f"{precision}-{framework}", engine=framework, precision=precision, epochs=4)
    result = train(**run)
    found = losses(result.output)
    assert np.isfinite(found).all()
    assert found[-1] < found[0]
    assert {value.dtype for value in weights(result.output).values()} <= {np.dtype("float32"), np.dtype("int64")}
    state = weights(result.output / "checkpoints" / "step-00000008" / "optimizer.safetensors")
    assert state["steps"] == 8 if precision == "bfloat16" else 0 < state["steps"] <= 8  # too large a scale skips some
    assert ("scale" in state) == (precision == "float16")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_frozen_stays_and_checkpointing_changes_nothing(world, framework):
    common = {"engine": framework, "freeze": "vision", "weight_decay_on": "matrices", "clip_norm": 0.5}
    plain = train(**of(world, "caption", f"plain-{framework}", **common))
    saving = train(**of(world, "caption", f"saving-{framework}", gradient_checkpointing=True, **common))
    assert losses(plain.output) == pytest.approx(losses(saving.output), abs=1e-6)
    last = train(**of(world, "caption", f"last-{framework}", vit_ckpt_layer=1, **common))
    assert losses(plain.output) == pytest.approx(losses(last.output), abs=1e-6)
    first = weights(plain.output)
    other = train(**of(world, "caption", f"other-{framework}", **{**common, "epochs": 3}))
    last = weights(other.output)
    assert all(np.array_equal(first[name], last[name]) for name in first if name.startswith("vision_model"))
    assert not all(np.array_equal(first[name], last[name]) for name in first)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_loss_that_is_not_finite_stops_the_run(world, framework):
    good = of(world, "caption", f"good-{framework}", engine=framework, learning_rate=1e-3, save_every=1)
    train(**good, max_steps=1)
    expected = weights(good["output"])
    rates = {"learning_rate": 1e30, "warmup_steps": 1, "warmup_learning_rate": 1e-3, "save_every": 1, "epochs": 9}
    run = of(world, "caption", f"nan-{framework}", engine=framework, **{**rates, "log_every": 100})
    with pytest.raises(ValueError, match=r"in step 2, epoch .* The last good checkpoint is .*step-00000001;"):
        train(**run)
    (last,) = (run["output"] / "checkpoints").glob("step-*")
    found = weights(last)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert not list(run["output"].glob("model*"))  # that of the second step would be the one to use
    lines = [json.loads(line) for line in (run["output"] / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["epoch"]) for line in lines] == [(2, 1)]
    first = of(world, "caption", f"nan-at-once-{framework}", engine=framework, **{**rates, "warmup_steps": 0})
    with pytest.raises(ValueError, match=r"in step 1, epoch 1, .* There is no checkpoint yet; begin another run and"):
        train(**first)
    assert not list((first["output"] / "checkpoints").glob("step-*"))


def test_answers_do_not_begin_with_the_prompt_of_captions(world):
    captioner = train(**of(world, "caption", "prompted", engine="pt", max_steps=1, prompt="a picture of ")).output
    assert len(GenerationConfig.from_pretrained(captioner).prompt_ids) == 3
    run = of(world, "vqa", "unprompted", engine="pt", max_steps=1) | {"model": captioner}
    with pytest.warns(UserWarning, match="initialised at random"):
        assert GenerationConfig.from_pretrained(train(**run).output).prompt_ids is None


def test_the_best_of_the_validations_is_the_model_to_use(world, monkeypatch):
    scores = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(Validation, "losses", lambda self: {"loss": next(scores)})
    run = of(world, "caption", "best", engine="pt", epochs=3, keep=3, validate_by="loss")
    assert train(**run, validation=world / "pairs.json").best_epoch == 2
    best = weights(run["output"])
    second = weights(run["output"] / "checkpoints" / "step-00000004")
    assert all(np.array_equal(value, second[name]) for name, value in best.items())
    assert json.loads((run["output"] / "log.jsonl").read_text().splitlines()[-1])["validation"] == {"loss": 2.0}


@pytest.mark.parametrize(
    ("task", "metric"),
    [("caption", "cider+bleu_4"), ("vqa", "accuracy"), ("retrieval", "mean_recall"), ("nlvr", "accuracy")],
)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_validation_measures_what_the_task_is_about(world, task, metric, framework):
    run = of(world, task, f"metric-{task}-{framework}", engine=framework, epochs=1)
    result = train(**run, validation=run["data"])
    found = json.loads((result.output / "log.jsonl").read_text().splitlines()[-1])["validation"]
    assert {"loss", *metric.split("+")} <= found.keys()
    position = json.loads((result.output / "checkpoints" / "step-00000002" / "state.json").read_text())["position"]
    assert position["best"] == pytest.approx(sum(found[name] for name in metric.split("+")))


def test_one_chunk_is_learned_in_each_epoch(world):
    """Beside the data, in turn, and a run that was stopped in between goes on with its own."""
    entries = json.loads((world / "pairs.json").read_text())
    parts = {"own": entries[:2], "chunk0": entries[2:4], "chunk1": entries[4:8]}
    for name, part in parts.items():
        (world / f"{name}.json").write_text(json.dumps(part))
    common = {"engine": "pt", "epochs": 4, "batch_size": 2}
    paths = {"data": world / "own.json", "chunks": [world / "chunk0.json", world / "chunk1.json"]}
    seen = []
    step = MicroBatch.__init__

    def noted(self, inputs, *others):
        seen.append({key(pixels) for pixels in inputs["pixel_values"]})
        step(self, inputs, *others)

    def key(pixels):
        return round(float(np.abs(pixels * np.arange(1, pixels.size + 1).reshape(pixels.shape)).sum()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MicroBatch, "__init__", noted)
        whole = train(**{**of(world, "caption", "chunks-whole", **common), **paths})
    assert whole.step == 8  # two steps of two in each epoch, as with the smaller chunk
    epochs = [set().union(*seen[2 * epoch : 2 * epoch + 2]) for epoch in range(4)]
    assert epochs[0] == epochs[2]
    assert len(epochs[0]) == 4
    assert epochs[1] - epochs[0]
    part = {**of(world, "caption", "chunks-part", **common), **paths}
    train(**part, max_steps=3)
    train(**part, resume=True)
    expected, found = weights(whole.output), weights(part["output"])
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    with pytest.raises(ValueError, match="holds another run: chunks was"):
        train(**{**part, "chunks": world / "chunk0.json"}, resume=True)


def test_contrastive_losses_of_a_single_picture_are_refused(world):
    pair = {"image": "0.png", "caption": "a", "image_id": 1}
    (world / "same.json").write_text(json.dumps([pair, pair]))
    with pytest.raises(ValueError, match="No batch to validate on has two pictures"):
        train(**of(world, "pretrain", "same", engine="pt"), validation=world / "same.json")


def test_only_the_last_checkpoints_are_kept_and_a_broken_one_is_passed_over(world):
    run = of(world, "caption", "kept", engine="pt", save_every=1, keep=2)
    train(**run, max_steps=3)
    folder = run["output"] / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000003"]
    (folder / "step-00000003" / "model.safetensors").write_bytes(b"cut off")
    assert train(**run, resume=True).step == 4
    assert losses(run["output"]) == pytest.approx(losses(train(**run, overwrite=True).output), abs=0)
    for checkpoint in folder.iterdir():
        (checkpoint / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"None of the checkpoints in .* can be read \(step-00000003: .*; restore one"):
        train(**run, resume=True)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "empty.json"}, "No example for caption in .*empty.json"),
        ({"data": "lost.json"}, r"No example for caption .*lost.json:0.*nowhere.png"),
        ({"data": "numbers.json"}, "No example for caption .*caption must be a text"),
        ({"task": "vqa"}, "No example for vqa .*question"),
        (
            {"task": "grounding", "recipe": "auto"},
            r"grounding is evaluated alone \(blip evaluate .*; what can be trained is",
        ),
        ({"task": "dance"}, "task must be one of caption, retrieval"),
        ({"engine": "jax"}, "engine must be one of pt, tf, onnx, openvino, got 'jax'"),
        ({"batch_size": 64}, "8 examples to learn from are less than a batch of 64; use a .* train --batch-size"),
        ({"accumulation": 9}, "8 examples make 2 batches, less than the 9 of a step"),
        ({"learning_rat": 1}, "There is no setting 'learning_rat'; the settings are accumulation"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"precision": "int8"}, "precision must be one of float32, bfloat16, float16, got 'int8'"),
        ({"augmentation": {"flipp": 1}}, "augmentation has no flipp, only crop_scale"),
        ({"min_learning_rate": 1.0}, "min_learning_rate must not be above learning_rate"),
        ({"output": "."}, "holds other files and no run of this command; name a new or empty folder"),
        ({"tokenizer": "words"}, r"\[DEC\] is token 4 of the vocabulary of .*words"),
        ({"model": "nowhere"}, "nowhere"),
        ({"device": "nonsense"}, "device 'nonsense' does not work: "),
        (
            {"task": "pretrain", "validation": "one.json"},
            "1 examples to validate on are too few, at least 2 are needed",
        ),
        ({"resume": True, "overwrite": True}, "Choose one of resume and overwrite"),
        ({"generation": {"num_beam": 3}}, "generation has no num_beam, only "),
        ({"generation": {"num_beams": 0}}, "num_beams must be a whole number"),
        ({"generation": 3}, "generation must be a table of options of generate"),
        (
            {"task": "pretrain", "generation": {"num_beams": 3}},
            "generation is how captions and answers are written; pre",
        ),
        ({"negative_all_rank": 1}, "negative_all_rank must be"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(world, change, message):
    (world / "empty.json").write_text("[]")
    (world / "one.json").write_text('[{"image": "0.png", "caption": "a"}]')
    (world / "lost.json").write_text('[{"image": "nowhere.png", "caption": "a"}]')
    (world / "numbers.json").write_text('[{"image": "0.png", "caption": 7}]')
    (world / "words").mkdir(exist_ok=True)
    (world / "words" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    files = ("data", "validation", "output", "tokenizer", "model")
    paths = {name: world / value for name, value in change.items() if name in files}
    with pytest.raises((ValueError, OSError), match=message):
        train(
            **{
                **of(world, "caption", "refused", engine="pt"),
                "recipe": change.get("task", "caption"),
                **change,
                **paths,
            }
        )
    assert not (world / "refused").exists()


def test_a_folder_with_a_run_is_refused_unless_told_what_to_do(world):
    run = of(world, "caption", "twice", engine="pt")
    train(**run)
    with pytest.raises(ValueError, match=r"already holds a run; resume it, overwrite it"):
        train(**run)
    with pytest.raises(
        ValueError, match=r"holds another run: .*epochs was 2, is 3; .*task was 'caption', is 'pretrain'"
    ):
        train(**{**run, "task": "pretrain", "recipe": "pretrain", "epochs": 3}, resume=True)
    assert train(**run, overwrite=True).step == 4


def test_a_broken_picture_is_reported_and_the_others_are_learned(world, capsys):
    (world / "broken.png").write_bytes(b"no picture")
    entries = json.loads((world / "pairs.json").read_text())
    entries += [{"image": "broken.png", "caption": "a red square"}, {"image": "gone.png", "caption": "a red square"}]
    (world / "damaged.json").write_text(json.dumps(entries))
    run = of(world, "caption", "damaged", engine="pt", batch_size=3)
    assert train(**{**run, "data": world / "damaged.json"}).step == 6
    said = capsys.readouterr().err
    assert "1 entries of data cannot be used; the first, damaged.json:9" in said
    assert "1 entries of data cannot be used; the first, damaged.json:8" in said


def test_a_run_goes_on_without_the_model_it_began_with(world):
    begun = train(**of(world, "caption", "begun", engine="pt", epochs=1)).output
    run = {**of(world, "caption", "goes-on", engine="pt"), "model": begun}
    train(**run, max_steps=1)
    begun.rename(world / "moved")
    assert train(**run, resume=True).step == 4


def test_a_revision_is_that_of_the_hub(world, monkeypatch):
    begun = train(**of(world, "caption", "published", engine="pt", epochs=1)).output
    asked = []

    def snapshot_download(name, revision=None, allow_patterns=(), token=None):
        asked.append((name, revision))
        return str(begun)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    run = {**of(world, "caption", "of-a-revision", engine="pt"), "model": "someone/captioner"}
    train(**run, revision="v2", max_steps=1)
    assert set(asked) == {("someone/captioner", "v2")}
    with pytest.raises(ValueError, match="holds another run: revision was 'v2', is None"):
        train(**run, resume=True)
    assert train(**run, revision="v2", resume=True).step == 4


def test_a_second_run_in_a_folder_is_told_who_writes_it(world):
    run = of(world, "caption", "busy", engine="pt", max_steps=1)
    with one_writer(world / "busy" / "run.json"), pytest.raises(BusyError, match=r"run\.json is being written by"):
        train(**run)
    assert train(**run).step == 1


def test_every_process_of_torchrun_has_a_gpu_of_its_own(monkeypatch):
    from blip_pt.trainer import choose_device

    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device(Settings(device="cuda")) == torch.device("cuda:3")
    assert choose_device(Settings(device="cuda:1")) == torch.device("cuda:1")
    assert choose_device(Settings(device="cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(Settings()) == torch.device("cuda:3")
    monkeypatch.delenv("LOCAL_RANK")
    assert choose_device(Settings(device="cuda")) == torch.device("cuda:0")


def test_a_model_is_not_overwritten_by_its_own_training(world):
    begun = train(**of(world, "caption", "in-place", engine="pt", epochs=1)).output
    with pytest.raises(ValueError, match="lies in the output folder"):
        train(**{**of(world, "caption", "in-place", engine="pt"), "model": begun}, overwrite=True)


def test_a_checkpoint_of_another_head_begins_with_a_warning(world):
    captioner = train(**of(world, "caption", "head-caption", engine="pt")).output
    with pytest.warns(UserWarning, match=r"has no text encoder.*initialised at random for BlipForImageTextRetrieval"):
        train(**{**of(world, "retrieval", "head-retrieval", engine="pt"), "model": captioner})
    pretrained = train(**of(world, "pretrain", "head-pretrain", engine="pt")).output
    train(**{**of(world, "caption", "head-from-pretrain", engine="pt"), "model": pretrained})
    assert re.search("BlipForConditionalGeneration", (world / "head-from-pretrain" / "config.json").read_text())
