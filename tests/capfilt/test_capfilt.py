"""`blip capfilt` and its Python call over tiny random models, in both frameworks."""

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip_core.capfilt import Captioning, capfilt, output_folder
from blip_core.capfilt.decisions import Scoring
from blip_core.datasets import clean_caption, open_dataset
from blip_core.engines import get_engine
from blip_core.inference.loaded_model import LoadedModel
from blip_core.jobs import sharding
from tests.helpers.capfilt_runs import FRAMEWORKS, ROOT, captions, contents, lines, load, same
from tests.helpers.frameworks import INSTALLED


def test_kept_and_dropped(blip, pictures, tmp_path):
    code, counts, err = blip(pictures / "data.jsonl", tmp_path / "out", "--json")
    assert (code, err) == (0, "")
    kept, dropped = lines(tmp_path / "out", "kept"), lines(tmp_path / "out", "dropped")
    assert kept
    assert all(score >= 0.5 for line in kept for score in line["score"])
    unmatched = [line for line in dropped if line["reason"] == "no match"]
    assert unmatched
    assert all(line["score"] < 0.5 for line in unmatched)
    every = [text for line in kept for text in line["caption"]] + [line.get("caption") for line in dropped]
    assert "picture 1 of a red dog" in every  # cleaned
    assert not any("a picture of" in text for text in every if text)  # no prompt
    assert [line["detail"] for line in dropped if line["reason"] == "duplicate"] == ["the same picture as data.jsonl:1"]
    assert [line["caption"] for line in dropped if line["reason"] == "repeated"] == ["a second text"]
    total = {name: sum(column.values()) for name, column in counts.items() if name in ("web", "synthetic")}
    assert total == {"web": 13, "synthetic": 11}
    assert counts["pictures"] == {"kept": len(kept), "duplicate": 1}
    trained = open_dataset(counts["data"], "caption")
    assert not trained.problems
    assert [example.texts for example in trained] == [tuple(line["caption"]) for line in kept]
    assert all(Path(example.images[0].path).parent == pictures for example in trained)


@pytest.mark.needs("pt", "tf")
@pytest.mark.parametrize("how", [{}, {"beams": 2}])
def test_frameworks_batches_readers_and_order_agree(models, pictures, tmp_path, how):
    entries = (pictures / "data.jsonl").read_text().splitlines()
    shuffled = pictures / "shuffled.jsonl"
    shuffled.write_text("\n".join([entries[0], *entries[:0:-1]]) + "\n")  # the first of the duplicates stays first
    found = []
    for number, (framework, name, size, readers) in enumerate(
        [("pt", "data", 8, 4), ("pt", "shuffled", 3, 1), ("tf", "data", 8, 4), ("tf", "shuffled", 5, 2)]
    ):
        dataset = open_dataset(pictures / f"{name}.jsonl", "caption")
        loaded = load(models, framework, **how)
        capfilt(dataset, loaded, tmp_path / str(number), batch_size=size, readers=readers, shard_size=100 - number)
        found.append(captions(tmp_path / str(number)))
    assert len({key for key in found[0] if key[1] == "synthetic"}) > 8
    assert all(same(found[0], other) for other in found[1:])
    shuffled.unlink()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_scores_and_captions_are_those_of_the_models(models, pictures, framework):
    engine, loaded = get_engine(framework), load(models, framework, seed=3)
    picture = open_dataset(pictures / "data.jsonl", "caption")[1].images[0]
    read = loaded.read(picture)
    (found,), _ = loaded([read], [["a red dog", "a cat"]])
    pixels = engine.to_tensor(
        loaded.captioner.processor(images=picture.path, return_tensors="np")["pixel_values"], loaded.captioner.model
    )
    prompt = loaded.captioner.processor(text="a picture of", return_tensors="np")["input_ids"]
    tokens = loaded.captioner.model.generate(
        pixel_values=pixels,
        input_ids=engine.to_tensor(prompt, loaded.captioner.model),
        seed=Captioning(seed=3).item_seed(read.digest),
        do_sample=True,
        top_p=0.9,
        repetition_penalty=1.1,
        min_new_tokens=1,
        max_new_tokens=16,
    )
    text = loaded.captioner.processor.batch_decode(tokens, skip_special_tokens=True)[0]
    assert found[2].caption == clean_caption(text.removeprefix("a picture of").strip())
    assert found[2].source == "synthetic"
    for one in found:
        inputs = loaded.matcher.processor(text=one.caption, return_tensors="np")
        values = {
            name: engine.to_tensor(inputs[name], loaded.matcher.model) for name in ("input_ids", "attention_mask")
        }
        no, yes = engine.to_numpy(loaded.matcher.model(pixel_values=pixels, **values).itm_score)[0]
        assert one.score == pytest.approx(1 / (1 + np.exp(no - yes)), abs=1e-4)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("names", "encoders"), [(("both", "both"), 1), (("captioner", "filter"), 2)])
def test_each_picture_is_encoded_once(models, pictures, framework, names, encoders, monkeypatch, tmp_path):
    loaded, encoded = load(models, framework, *names), []

    def count(use, pixels):
        encoded.append(len(pixels))
        return encode(use, pixels)

    encode = LoadedModel.encode
    monkeypatch.setattr(LoadedModel, "encode", count)
    for model in (loaded.captioner.model, loaded.matcher.model):
        monkeypatch.setattr(model, "encode_image", refuse_pixels(model.encode_image))
    capfilt(open_dataset(pictures / "data.jsonl", "caption"), loaded, tmp_path / "out")
    assert sum(encoded) == 11 * encoders


def refuse_pixels(encode):
    def only_embeds(pixel_values, *arguments, **options):
        assert pixel_values is None
        return encode(pixel_values, *arguments, **options)

    return only_embeds


def test_the_seed_draws_the_captions(blip, pictures, tmp_path):
    found = []
    for number, seed in enumerate((0, 0, 1)):
        assert blip(pictures / "data.jsonl", tmp_path / str(number), "--seed", seed)[0] == 0
        found.append(captions(tmp_path / str(number)))
    assert found[0] == found[1]
    assert found[0].keys() != found[2].keys()
    (tmp_path / "2" / "capfilt.json").unlink()
    assert contents(tmp_path / "0") == contents(tmp_path / "1")


def test_missing_shards_are_made_and_no_others(blip, pictures, tmp_path):
    options = ("--shard-size", "3", "--batch-size", "2")
    assert blip(pictures / "data.jsonl", tmp_path / "out", *options)[0] == 0
    whole = contents(tmp_path / "out")
    assert len(lines(tmp_path / "out", "dropped")) + len(lines(tmp_path / "out", "kept")) > 11
    for shard in ("00001", "00003"):  # the duplicate is in the last one, of a picture in the first
        (tmp_path / "out/kept" / f"{shard}.jsonl").unlink()
    assert not (tmp_path / "out/scored").exists()
    (tmp_path / "out/dropped/00001.jsonl").unlink()
    (tmp_path / "out/kept/.00001.jsonl.abc.tmp").write_text("half")
    (tmp_path / "out/report.html").unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/kept").glob("0*.jsonl")}
    assert blip(pictures / "data.jsonl", tmp_path / "out", *options)[0] == 0
    assert contents(tmp_path / "out") == whole
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_a_killed_run_goes_on_to_the_same_bytes(pictures, tmp_path):
    """Killed by SIGKILL in place of giving each file its name, and again until it is through."""
    command = [sys.executable, "-m", "tests.helpers.capfilt_kills", str(pictures / "data.jsonl"), str(tmp_path)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    moments, kills = map(int, found.stdout.split())
    assert moments == 2 + 3 * 4 + 2  # what was started and the input's problems, four shards, the report
    assert kills > moments


def test_processes_that_share_a_folder_are_killed(pictures, tmp_path):
    """Three at once, killed by SIGKILL at ten random moments and again, then left alone."""
    command = [sys.executable, "-m", "tests.helpers.capfilt_kills", str(pictures / "data.jsonl"), str(tmp_path), "3"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    folders, kills = map(int, found.stdout.split())
    assert kills > folders


def test_shares_of_a_run_make_what_one_process_makes(blip, pictures, tmp_path):
    """Copies lie in the shards of different shares; the last share, begun first, cannot know which came first."""
    options = ("--shard-size", "3", "--json")
    assert blip(pictures / "data.jsonl", tmp_path / "one", *options)[0] == 0
    for share in ("3/3", "1/3"):
        code, counts, err = blip(pictures / "data.jsonl", tmp_path / "many", *options, "--shards", share)
        assert code == 0
        assert (counts["data"], counts["report"]) == (None, None)
        assert counts["missing"] == {"3/3": 3, "1/3": 1}[share]
        assert f"{counts['missing']} shards of others are missing" in err
        assert not (tmp_path / "many/kept").exists()
    assert blip(pictures / "data.jsonl", tmp_path / "many", *options, "--shards", "2/3")[1]["missing"] == 0
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    duplicates = [line for line in lines(tmp_path / "many", "dropped") if line["reason"] == "duplicate"]
    assert [(line["key"], line["detail"]) for line in duplicates] == [
        ("data.jsonl:12", "the same picture as data.jsonl:1")
    ]


def test_another_process_is_done_first(blip, pictures, tmp_path, monkeypatch):
    """Whatever this one is about to rename, the other has written and cleaned up a moment before."""
    assert blip(pictures / "data.jsonl", tmp_path / "one", "--shard-size", "3")[0] == 0
    replace = os.replace

    def late(source, target):
        replace(source, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    with pytest.raises(FileNotFoundError):
        late(tmp_path / "none", tmp_path / "other")
    (tmp_path / "many").mkdir()
    shutil.copy(tmp_path / "one/capfilt.json", tmp_path / "many")
    assert blip(pictures / "data.jsonl", tmp_path / "many", "--shard-size", "3")[0] == 0
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.parametrize("value", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2"])
def test_shares_that_are_none(blip, pictures, tmp_path, value, capfd):
    with pytest.raises(SystemExit, match="2"):
        blip(pictures / "data.jsonl", tmp_path / "out", f"--shards={value}")
    assert "--shards: A share is I/N" in capfd.readouterr().err


def test_workers_have_the_models_of_the_run(models, pictures, tmp_path):
    loaded = load(models, INSTALLED[0])
    with pytest.raises(ValueError, match="other models than the run"):
        Scoring.start(
            lambda: loaded, {**loaded.identity, "filter": "another"}, 8, 4, output_folder.OutputFolder(tmp_path)
        )
    dataset = open_dataset(pictures / "data.jsonl", "caption")
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match="give a function that returns a CapFilter"):
        capfilt(dataset, loaded, tmp_path / "out", on_ray=sharding.OnRay())
    found = [capfilt(dataset, models, tmp_path / name) for name, models in (("a", loaded), ("b", lambda: loaded))]
    assert found[0].counts == found[1].counts


def test_without_ray(blip, pictures, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sharding, "find_spec", lambda name: None)
    code, _, err = blip(pictures / "data.jsonl", tmp_path / "out", "--ray")
    assert (code, err) == (1, 'blip: error: Ray is not installed: pip install "blip-duo[ray]", or "ray[data]".\n')
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="2"):
        blip(pictures / "data.jsonl", tmp_path / "out", "--ray-cpus", "2")
    assert "argument --ray-cpus: needs --ray or --ray-address" in capfd.readouterr().err


def test_broken_input_is_listed_and_the_rest_is_done(blip, pictures, tmp_path):
    data = (pictures / "1.png").read_bytes()
    bomb = io.BytesIO()
    Image.new("1", (20000, 20000)).save(bomb, "PNG")
    files = {
        "truncated.png": data[:1000],
        "zero.png": b"",
        "type.png": b"%PDF-1.7 this is no picture",
        "bomb.png": bomb.getvalue(),
        "good.png": data,
        "words.png": (pictures / "2.png").read_bytes(),
        "empty.png": (pictures / "3.png").read_bytes(),
        "latin.png": (pictures / "4.png").read_bytes(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).with_suffix(".txt").write_text("a dog")
    Image.new("RGB", (1, 1), "red").save(tmp_path / "tiny.png")
    (tmp_path / "tiny.txt").write_text("a dot")
    (tmp_path / "words.txt").write_text("word " * 10_000)
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    out = tmp_path / "out"
    code, counts, err = blip(tmp_path, out, "--json", "--threshold", "0")
    assert code == 1
    assert sorted(Path(line["image"]).name for line in lines(out, "kept")) == ["good.png"]
    found = {Path(problem["input"].split(":")[-1]).name: problem["error"] for problem in counts["problems"]}
    bad = ["bomb.png", "empty.png", "latin.png", "tiny.png", "truncated.png", "type.png", "words.png", "zero.png"]
    assert sorted(found) == bad
    assert all(reason in err for reason in found.values())
    assert "no words" in found["empty.png"]
    assert "too large" in found["bomb.png"]
    assert "1 x 1 pixels" in found["tiny.png"]
    assert "49,999" in found["words.png"] or "50,000" in found["words.png"]
    (tmp_path / "list.jsonl").write_text(
        '{"image": "missing.png", "caption": "gone"}\n{"image": "good.png", "caption": "a"}\n{"image": "tiny.png"}\n'
    )
    code, counts, err = blip(tmp_path / "list.jsonl", tmp_path / "second", "--json")
    assert code == 1
    assert counts["pictures"]["unusable"] == 2
    assert "list.jsonl:1: the picture" in err
    assert "list.jsonl:3: has no caption" in err


def test_csv_and_tar_shards(blip, pictures, tmp_path):
    with open(tmp_path / "data.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["image", "caption", "other"], ["1.png", 'a "dog",\nrunning', 1], ["1.png", "a cat", 2]])
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for name in ("1.png", "2.png"):
            tar.add(pictures / name, f"x/{name}")
            caption = tarfile.TarInfo(f"x/{name[0]}.txt")
            caption.size = 5
            tar.addfile(caption, io.BytesIO(b"a dog"))
    assert blip(tmp_path / "data.csv", tmp_path / "csv", "--image-root", pictures, "--threshold", "0")[0] == 0
    assert [line["caption"][:2] for line in lines(tmp_path / "csv", "kept")] == [["a dog ,\nrunning", "a cat"]]
    out = tmp_path / "tar"
    code, counts, _ = blip(tmp_path / "data.tar", out, "--threshold", "0", "--json")
    assert code == 0
    assert [line["image"] for line in lines(out, "kept")] == ["00000/00000000.png", "00000/00000001.png"]
    assert (out / "kept/00000/00000001.png").read_bytes() == (pictures / "2.png").read_bytes()
    assert len(open_dataset(counts["data"], "pretrain")) == 2


def test_a_dry_run_reports_and_writes_no_captions(blip, pictures, tmp_path):
    code, counts, _ = blip(pictures / "data.jsonl", tmp_path / "out", "--dry-run", "4", "--json")
    assert code == 0
    assert counts["data"] is None
    assert sum(counts["synthetic"].values()) == 3  # of the first, the last is a copy
    assert sorted(path.as_posix() for path in contents(tmp_path / "out")) == [
        "dry-run/report.html",
        "dry-run/scores.png",
        "dry-run/to-label.jsonl",
    ]
    page = (tmp_path / "out/dry-run/report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert "http" not in page
    assert blip(pictures / "data.jsonl", tmp_path / "out")[0] == 0
    assert (tmp_path / "out/scores.png").exists()


def test_the_page_shows_texts_as_they_are(blip, pictures, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([{"image": "1.png", "caption": "<script>alert(1)</script> &"}]))
    arguments = ("--image-root", pictures, "--threshold", "0")
    assert blip(tmp_path / "data.json", tmp_path / "out", *arguments)[0] == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert 1 &lt;/script&gt; &amp;" in page


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("names", "option"), [({"matcher": "captioner"}, "--filter"), ({"captioner": "filter"}, "--captioner")]
)
def test_models_without_the_head(blip, pictures, tmp_path, framework, names, option):
    code, out, err = blip(pictures / "data.jsonl", tmp_path / "out", "--engine", framework, **names)
    assert (code, out) == (1, "")
    assert f"error: {option} does not fit this command" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "half"])
def test_thresholds_that_are_none(blip, pictures, tmp_path, value, capfd):
    with pytest.raises(SystemExit, match="2"):
        blip(pictures / "data.jsonl", tmp_path / "out", f"--threshold={value}")
    assert "--threshold: must be a number from 0 to 1" in capfd.readouterr().err


def test_folders_of_other_runs(blip, pictures, tmp_path):
    out = tmp_path / "out"
    assert blip(pictures / "data.jsonl", out)[0] == 0
    before = contents(out)
    (tmp_path / "other.json").write_text(json.dumps([{"image": "1.png", "caption": "a dog"}]))
    other = (tmp_path / "other.json", out, "--image-root", pictures)
    for arguments, said in (
        ((pictures / "data.jsonl", out, "--threshold", "0.9"), "threshold was 0.5, is 0.9"),
        ((pictures / "data.jsonl", out, "--seed", "7"), "seed was 0, is 7"),
        (other, "pictures was 12, is 1"),
    ):
        code, _, err = blip(*arguments)
        assert code == 1
        assert "holds another run: " in err
        assert said in err
    code, _, err = blip(pictures / "data.jsonl", out, captioner="both")
    assert (code, "captioner was" in err) == (1, True)
    assert contents(out) == before
    assert "holds other files" in blip(pictures / "data.jsonl", pictures)[2]
    assert "is a file" in blip(pictures / "data.jsonl", tmp_path / "other.json")[2]


def test_a_full_disk(blip, pictures, tmp_path, monkeypatch):
    options = ("--shard-size", "4")

    def full(path, found):
        if path.name == "00001.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, found)

    write = output_folder.write_lines
    monkeypatch.setattr(output_folder, "write_lines", full)
    code, _, err = blip(pictures / "data.jsonl", tmp_path / "out", *options)
    assert code == 1
    assert "out cannot be written: No space left on device. Make room" in err
    assert len(err.splitlines()) == 1
    monkeypatch.undo()
    assert blip(pictures / "data.jsonl", tmp_path / "out", *options)[0] == 0
    assert len(lines(tmp_path / "out", "kept")) + len(lines(tmp_path / "out", "dropped")) > 11


def test_processes_that_begin_at_once(tmp_path, monkeypatch):
    one, other = (output_folder.OutputFolder(tmp_path / "out") for _ in range(2))
    exists, replace, begun = Path.exists, os.replace, []

    def begin_meanwhile(path, **options):
        found = exists(path, **options)
        if path.name == output_folder.RUN and not begun:
            begun.append(path)
            other.begin({"seed": 1})
        return found

    def cleaned_up_meanwhile(temporary, path):
        replace(temporary, path)
        raise FileNotFoundError(temporary)  # as where another process has written the same and removed what is left

    monkeypatch.setattr(Path, "exists", begin_meanwhile)
    monkeypatch.setattr(os, "replace", cleaned_up_meanwhile)
    one.begin({"seed": 1})
    monkeypatch.undo()
    assert begun
    assert json.loads((tmp_path / "out" / output_folder.RUN).read_text()) == {"seed": 1}
