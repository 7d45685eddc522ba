"""What makes CapFilt keep more and better: learned thresholds, several captions, mixing, rounds."""

import json

import numpy as np
import pytest

from blip_core import BlipProcessor
from blip_core.capfilt import capfilt
from blip_core.capfilt.calibration import choose_threshold
from blip_core.cli import main
from blip_core.datasets import Batches, open_dataset
from tests.helpers.capfilt_runs import FRAMEWORKS, lines, load
from tests.helpers.frameworks import INSTALLED, require


@pytest.mark.parametrize("precision", [None, 0.7, 0.9])
def test_thresholds_are_the_best_of_all(precision):
    noise = np.random.default_rng(1)
    labels = noise.integers(0, 2, 60)
    scores = np.round(np.clip(noise.normal(0.35 + 0.3 * labels, 0.15), 0, 1), 2)

    def measure(threshold):
        kept = scores >= threshold
        right = (labels[kept] == 1).sum()
        return right / kept.sum(), right / labels.sum()

    found = choose_threshold("web", scores.tolist(), labels.tolist(), precision)
    assert (found.precision, found.recall) == pytest.approx(measure(found.threshold))
    assert (found.pairs, found.matches) == (60, labels.sum())
    every = {threshold: measure(threshold) for threshold in scores}
    assert np.allclose([point[1:] for point in found.points], [every[point[0]] for point in found.points])
    if precision is None:
        assert 2 / sum(1 / part for part in measure(found.threshold)) == pytest.approx(
            max(2 / sum(1 / max(part, 1e-9) for part in both) for both in every.values())
        )
    else:
        good = [threshold for threshold, (share, _) in every.items() if share >= precision]
        assert found.threshold == min(good)
        assert found.precision >= precision


def test_too_few_labels_and_no_such_precision():
    with pytest.raises(ValueError, match="The sample has 2 matches and 4 others of web captions; label at least 3"):
        choose_threshold("web", [0.1] * 6, [1, 1, 0, 0, 0, 0], None)
    with pytest.raises(ValueError, match=r"No threshold keeps web captions with a precision of 0\.9: .* is 0\.500"):
        choose_threshold("web", [0.5] * 6, [1, 0, 1, 0, 1, 0], 0.9)


def test_a_labelled_sample_sets_the_thresholds(blip, pictures, tmp_path):
    """From the sample of a dry run, in which every second caption by score is called a match of its picture."""
    blip(pictures / "data.jsonl", tmp_path / "out", "--dry-run", "8", "--json")
    sample = tmp_path / "out/dry-run/to-label.jsonl"
    rows = [json.loads(line) for line in sample.read_text().splitlines()]
    assert {row["source"] for row in rows} == {"web", "synthetic"}
    assert {row["label"] for row in rows} == {None}
    code, _, err = blip(pictures / "data.jsonl", tmp_path / "none", "--calibrate", sample)
    assert (code, "has no label" in err) == (1, True)
    for source in ("web", "synthetic"):
        mine = sorted((row for row in rows if row["source"] == source), key=lambda row: row["score"])
        for row in mine:
            row["label"] = "match" if row in mine[len(mine) // 2 :] else "no match"
    sample.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = {}
    for source in ("web", "synthetic"):
        wanted[source] = min(r["score"] for r in rows if r["source"] == source and r["label"] == "match")
    code, counts, err = blip(pictures / "data.jsonl", tmp_path / "out", "--calibrate", sample, "--json")
    assert (code, err) == (0, "")
    learned = json.loads((tmp_path / "out/calibration.json").read_text())
    assert {source: row["threshold"] for source, row in learned.items()} == pytest.approx(wanted, abs=1.5e-4)
    for line in lines(tmp_path / "out", "kept"):
        for source, score in zip(line["source"], line["score"], strict=True):
            assert score >= learned[source]["threshold"]
    for line in lines(tmp_path / "out", "dropped"):
        assert line["reason"] != "no match" or line["score"] < learned[line["source"]]["threshold"]
    page = (tmp_path / "out/report.html").read_text()
    assert "Thresholds, learned from the labelled sample" in page
    assert f"at least {learned['web']['threshold']:g} for web captions and " in page
    assert blip(pictures / "data.jsonl", tmp_path / "out", "--calibrate", sample, "--json")[1] == counts
    code, _, err = blip(pictures / "data.jsonl", tmp_path / "out", "--calibrate", sample, "--precision", "0.5")
    assert (code, "holds another run: precision was None, is 0.5" in err) == (1, True)
    sample.write_text(json.dumps({**rows[0], "label": "match", "source": "else"}))
    code, _, err = blip(pictures / "data.jsonl", tmp_path / "none", "--calibrate", sample)
    assert (code, "source must be 'web' or 'synthetic', got 'else'" in err) == (1, True)
    assert blip(pictures / "data.jsonl", tmp_path / "none", "--calibrate", pictures / "data.jsonl")[0] == 1


def test_precision_needs_a_sample(blip, pictures, tmp_path):
    with pytest.raises(SystemExit):
        blip(pictures / "data.jsonl", tmp_path / "out", "--precision", "0.9")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("how", [{}, {"beams": 3}])
def test_the_best_of_several_captions_is_kept(models, pictures, tmp_path, framework, how):
    dataset = open_dataset(pictures / "data.jsonl", "caption")
    capfilt(dataset, load(models, framework, num_captions=3, **how), tmp_path / "3", threshold=0)
    capfilt(dataset, load(models, framework, **how), tmp_path / "1", threshold=0)
    others = [line for line in lines(tmp_path / "3", "dropped") if line["reason"] == "not the best"]
    assert others
    for line, single in zip(lines(tmp_path / "3", "kept"), lines(tmp_path / "1", "kept"), strict=True):
        found = {"web": [], "synthetic": []}
        for source, score in zip(line["source"], line["score"], strict=True):
            found[source].append(score)
        mine = [other["score"] for other in others if other["hash"] == line["hash"]]
        assert len(found["synthetic"]) == 1
        assert found["synthetic"][0] >= max(mine, default=0)
        if not how:  # the first that is drawn is the one that is drawn alone
            alone = [score for score, source in zip(single["score"], single["source"], strict=True) if source != "web"]
            assert found["synthetic"][0] >= alone[0]


def test_several_captions_need_as_many_beams(blip, pictures, tmp_path):
    code, _, err = blip(pictures / "data.jsonl", tmp_path / "out", "--beams", "2", "--num-captions", "3")
    assert (code, "num_captions must not be above beams, got 3 > 2" in err) == (1, True)


@pytest.mark.parametrize("to", ["jsonl", "parquet", "webdataset"])
def test_web_and_synthetic_captions_are_mixed_as_asked(models, pictures, tmp_path, to):
    result = capfilt(
        open_dataset(pictures / "data.jsonl", "caption"), load(models, INSTALLED[0]), tmp_path, threshold=0, to=to
    )
    dataset, processor = open_dataset(result.data, "pretrain"), BlipProcessor.from_pretrained(models / "filter")
    both = [example for example in dataset if set(example.sources) == {"web", "synthetic"}]
    assert len(both) > 8

    def share(synthetic_share):
        batches = Batches(dataset, processor, "pretrain", 4, training=True, synthetic_share=synthetic_share)
        drawn = [batches._prepare(epoch, index, np.empty((1, 3, 32, 32), np.float32)) for epoch in range(20)
                 for index, example in enumerate(dataset) if example in both]  # fmt: skip
        found = [
            example.sources[[batches.task.clean(text) for text in example.texts].index(text)] for example, text in drawn
        ]
        return found.count("synthetic") / len(found)

    assert (share(0), share(1)) == (0, 1)
    assert share(0.5) == pytest.approx(0.5, abs=0.15)
    assert 0.2 < share(None) < 0.6


def test_rounds_begin_again_with_models_trained_on_what_was_kept(models, pictures, tmp_path, capfd):
    require(INSTALLED[0])
    words = ["capfilt", "--input", str(pictures / "data.jsonl"), "--output", str(tmp_path), "--threshold", "0"]
    words += ["--captioner", str(models / "captioner"), "--filter", str(models / "filter"), "--rounds", "2"]
    words += ["--train-set", "max_steps=1", "--train-set", "held_out=0", "--train-set", "replay=0"]
    words += ["--train-set", "patience=0", "--train-set", "epochs=1", "--engine", INSTALLED[0]]
    assert main(words) == 0
    first, second = (json.loads((tmp_path / f"round-{number}/capfilt.json").read_text()) for number in (1, 2))
    assert first["input"] == second["input"]
    assert first["captioner"] != second["captioner"]
    assert first["filter"] != second["filter"]
    run = json.loads((tmp_path / "round-1/captioner/run.json").read_text())
    assert run["data"] == [str(tmp_path / "round-1/kept/*.jsonl")]
    assert lines(tmp_path / "round-2", "kept")
    assert main(words) == 0  # all is there
    for more in (["--shards", "1/2"], ["--dry-run", "2"]):
        with pytest.raises(SystemExit):
            main([*words, *more])
    assert "not with --rounds" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--train-set", "epoch=1"])
    assert "There is no setting 'epoch'" in capfd.readouterr().err
