"""`blip search` over a tiny random model, in both frameworks."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTextConfig, BlipTokenizer, BlipVisionConfig
from blip_core.checkpoints.saving import write_pretrained
from blip_core.cli import main
from blip_core.inference import Matcher
from blip_core.parameters.models import parameters
from blip_core.search import sample_frames
from tests.helpers.frameworks import FRAMEWORKS
from tests.helpers.random_models import numpy
from tests.helpers.videos import animation, frame, video

EMOJI = Path(__file__).parents[1] / "data" / "emoji"
COLORS = ("black", "blue", "green", "grey", "orange", "red", "white", "yellow")


def write_model(folder, head, seed=0):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text, vision = BlipTextConfig(**sizes), BlipVisionConfig.base(**sizes, image_size=32)
    config = BlipConfig.from_text_vision_configs(text, vision, image_text_hidden_size=8)
    noise, rows = np.random.default_rng(seed), parameters(head, config)
    values = {row.name: noise.normal(0, 0.5, row.shape).astype(np.float32) for row in rows}
    write_pretrained(folder, head, config, rows, lambda row: values[row.name])
    BlipProcessor(BlipImageProcessor(size=32, background="white"), BlipTokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), "BlipForImageTextRetrieval")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The working directory with a folder `photos` of eight pictures and one below; the cache of indexes is beside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("photos/below").mkdir(parents=True)
    for name in COLORS:
        Image.new("RGB", (40, 30), name).save(f"photos/{name}.png")
    Image.new("RGB", (40, 30), "pink").save("photos/below/pink.png")
    return tmp_path / "photos"


@pytest.fixture
def blip(model, capfd):
    """Run a search; returns the exit code, standard output (entries with --json) and standard error."""

    def run(*arguments, using=model):
        code = main(["search", *map(str, arguments), "--model", str(using)])
        out, err = capfd.readouterr()
        return code, [json.loads(line) for line in out.splitlines()] if "--json" in arguments else out, err

    return run


@pytest.fixture
def encoded(monkeypatch):
    """The number of pictures in each batch that is encoded for the index, and for matching."""
    counts = {"item_features": [], "item_states": []}
    for name, calls in counts.items():
        original = getattr(Matcher, name)
        monkeypatch.setattr(
            Matcher,
            name,
            lambda self, items, size, original=original, calls=calls: (
                calls.append(len(items)) or original(self, items, size)
            ),
        )
    return counts


def usage_error(*arguments, capfd):
    with pytest.raises(SystemExit) as error:
        main(["search", *map(str, arguments), "--model", "none"])
    assert error.value.code == 2
    return capfd.readouterr().err


@pytest.mark.needs(*FRAMEWORKS)
def test_both_frameworks_find_the_same_and_share_an_index(blip, encoded, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = ["the face of a fox", "a cup", "fruit", EMOJI, "--json", "--top", "20", "--batch-size", "32"]
    results = {}
    for framework in FRAMEWORKS:
        code, results[framework], err = blip(*arguments, "--engine", framework)
        assert (code, err) == (0, "blip: 96 done\n" if framework == "pt" else "")
    assert encoded["item_features"] == [32, 32, 32]
    assert len(results["pt"]) == 60
    for pt, tf in zip(*results.values(), strict=True):
        assert (pt["text"], pt["rank"], pt["image"]) == (tf["text"], tf["rank"], tf["image"])
        for score in ("score", "itm", "itm_logit", "itc"):
            assert pt[score] == (None if tf[score] is None else pytest.approx(tf[score], rel=1e-4, abs=1e-5))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_scores_are_what_the_model_says(blip, photos, model, framework):
    """ITM's logit plus ITC, of the model called by itself, in the order of their sum."""
    _, found, _ = blip("a red wall", "sky", "photos", "--json", "--engine", framework)
    assert len(found) == 16
    tools = FRAMEWORKS[framework]
    loaded = tools.of("BlipForImageTextRetrieval").from_pretrained(model)
    processor = BlipProcessor.from_pretrained(model)
    for entry in found:
        inputs = dict(processor(images=entry["image"], text=[entry["text"]], return_tensors="np"))
        logits = numpy(tools.ask(loaded, inputs).itm_score)
        itc = numpy(tools.ask(loaded, inputs | {"use_itm_head": False}).itm_score)[0, 0]
        assert entry["itm_logit"] == pytest.approx(logits[0, 1], rel=1e-4)
        assert entry["itc"] == pytest.approx(itc, abs=1e-5)
        assert entry["score"] == pytest.approx(entry["itm_logit"] + entry["itc"])
        assert entry["itm"] == pytest.approx(1 / (1 + np.exp(logits[0, 0] - logits[0, 1])), rel=1e-4)
    for text in ("a red wall", "sky"):
        scores = [(entry["rank"], entry["score"]) for entry in found if entry["text"] == text]
        assert [rank for rank, _ in scores] == list(range(1, 9))
        assert [score for _, score in scores] == sorted((score for _, score in scores), reverse=True)


def test_a_picture_is_encoded_once_for_the_index_and_once_for_all_texts(blip, photos, encoded):
    texts = ["one", "two words", "three whole words"]
    assert blip(*texts, "photos", "--rerank", "4", "--batch-size", "4")[0] == 0
    assert encoded["item_features"] == [4, 4]
    assert 4 <= sum(encoded["item_states"]) <= 8
    assert blip("another text", "photos", "--rerank", "0")[0] == 0
    assert (sum(encoded["item_features"]), len(encoded["item_states"])) == (
        8,
        2 if sum(encoded["item_states"]) > 4 else 1,
    )


def test_what_is_matched_comes_before_what_is_not(blip, photos):
    _, found, _ = blip("red", "photos", "--json", "--rerank", "3", "--top", "6")
    assert [entry["itm"] is None for entry in found] == [False] * 3 + [True] * 3
    _, by_features, _ = blip("red", "photos", "--json", "--rerank", "0", "--top", "6")
    assert {entry["image"] for entry in found[:3]} == {entry["image"] for entry in by_features[:3]}
    assert found[3:] == by_features[3:]
    assert all(entry["score"] == entry["itc"] for entry in by_features)


def test_search_by_picture(blip, photos):
    Image.new("RGB", (41, 31), (254, 0, 0)).save("query.png")
    code, found, _ = blip("photos", "--image", "query.png", "--image", "photos/blue.png", "--json", "--top", "2")
    assert code == 0
    assert [(entry["like"], entry["rank"], Path(entry["image"]).name) for entry in found][::2] == [
        ("query.png", 1, "red.png"), ("photos/blue.png", 1, "blue.png"),
    ]  # fmt: skip
    assert all(entry["itm"] is None for entry in found)
    assert found[2]["itc"] == pytest.approx(1, abs=1e-5)
    _, mixed, _ = blip("a wall", "photos", "--image", "query.png", "--json", "--top", "1")
    assert [entry.get("text") or entry["like"] for entry in mixed] == ["a wall", "query.png"]
    assert mixed[0]["itm"] is not None
    assert mixed[1]["itm"] is None


def test_plain_lines(blip, photos):
    code, out, err = blip("red", "photos", "--top", "2")
    assert (code, err) == (0, "blip: 8 done\n")
    lines = out.splitlines()
    assert [line[:12] for line in lines] == ["  1. photos/", "  2. photos/"]
    assert " (score " in lines[0]
    assert ", itm 0." in lines[0]
    _, out, err = blip("red", "sky", "photos", "--top", "1")
    assert [line for line in out.splitlines() if not line.startswith("  1. ")] == ["red", "sky"]
    assert err == ""


def test_options_may_stand_between_text_and_folder(blip, photos):
    assert blip("red", "--top", "1", "photos")[0] == 0


def test_an_interrupted_run_is_gone_on_with(blip, photos, encoded, monkeypatch):
    original = Matcher.item_features
    left = [2]

    def interrupted(self, items, size):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return original(self, items, size)

    monkeypatch.setattr(Matcher, "item_features", interrupted)
    assert blip("red", "photos", "--batch-size", "2")[0] == 130
    monkeypatch.setattr(Matcher, "item_features", original)
    assert encoded["item_features"] == [2, 2]
    assert blip("red", "photos", "--batch-size", "2")[2] == "blip: 4 done, 4 done before\n"
    assert encoded["item_features"] == [2, 2, 2, 2]


def test_the_index_follows_the_folder(blip, photos, encoded):
    def names(*options):
        encoded["item_features"].clear()
        code, found, _ = blip("red", "photos", "--json", "--top", "99", "--rerank", "0", *options)
        assert code == 0
        return {os.path.relpath(entry["image"], "photos") for entry in found}, sum(encoded["item_features"])

    everything = {f"{name}.png" for name in COLORS}
    assert names() == (everything, 8)
    assert names() == (everything, 0)
    Path("photos/red.png").unlink()
    shutil.copy("photos/blue.png", "photos/new.png")
    Image.new("RGB", (50, 30), "brown").save("photos/grey.png")
    everything = everything - {"red.png"} | {"new.png"}
    assert names() == (everything, 2)
    below = os.path.join("below", "pink.png")
    assert names("--recursive") == (everything | {below}, 1)
    assert names() == (everything, 0)  # what is below stays in the index
    assert names("--recursive") == (everything | {below}, 0)
    assert names("--rebuild") == (everything, 8)
    (index,) = Path("cache/blip/search").iterdir()
    assert index.name.startswith("photos-")
    assert len(np.load(index / "blip-features.npy")) == 8
    assert sorted(path.name for path in photos.iterdir()) == sorted(everything | {"below"})


def test_a_broken_picture_is_reported_and_does_not_end_a_run(blip, photos):
    Path("photos/bad.jpg").write_bytes(b"no picture")
    code, found, err = blip("red", "photos", "--json", "--batch-size", "2")
    assert code == 1
    assert [entry["image"] for entry in found if "error" in entry] == [os.path.join("photos", "bad.jpg")]
    assert len(found) == 9
    assert err == "blip: 8 done, 1 failed\n"
    Path("photos/red.png").write_bytes(b"broken since")
    code, out, err = blip("red", "photos")
    assert code == 1
    assert "red.png" not in out
    assert err.count("is not a picture that can be read whole") == 2
    for path in photos.glob("*.png"):
        path.unlink()
    assert blip("red", "photos")[:2] == (1, "")


def test_an_index_of_ones_own(blip, photos, tmp_path, monkeypatch):
    assert blip("red", "photos", "--index", "mine")[0] == 0
    assert sorted(path.name for path in Path("mine").iterdir()) == ["blip-features.npy", "blip-index.sqlite"]
    assert not Path("cache").exists()
    other = write_model(tmp_path / "other", "BlipForImageTextRetrieval", seed=1)
    code, out, err = blip("red", "photos", "--index", "mine", using=other)
    assert (code, out) == (1, "")
    assert "was made by another model" in err
    assert blip("red", "photos/below", "--index", "mine")[2].count("is of the pictures in") == 1
    Path("mine/blip-features.npy").write_bytes(b"damaged")
    assert "--rebuild" in blip("red", "photos", "--index", "mine")[2]
    Path("mine/letter.txt").write_text("not of the index")
    assert blip("red", "photos", "--index", "mine", "--rebuild", using=other)[2] == "blip: 8 done\n"
    assert Path("mine/letter.txt").exists()
    # In the cache each model has an index of its own.
    blip("red", "photos")
    blip("red", "photos", using=other)
    assert len(list(Path("cache/blip/search").iterdir())) == 2


def test_videos(blip, photos, encoded):
    animation(photos / "moving.gif", 12)
    for i in range(5):
        frame(i).save(photos / "below" / f"{i}.png")
    arguments = ["grey", "photos", "--json", "--top", "99", "--rerank", "0"]
    code, found, _ = blip(*arguments)
    assert (code, len(found)) == (0, 9)
    code, found, err = blip(*arguments, "--videos")
    assert (code, len(found), err) == (0, 10, "blip: 1 done, 9 done before\n")
    assert os.path.join("photos", "below") in {entry["image"] for entry in found}
    _, found, err = blip(*arguments, "--videos", "--recursive")
    assert (len(found), err) == (15, "blip: 6 done, 9 done before\n")
    # Of what is known only the videos depend on the number of frames.
    assert blip(*arguments, "--videos", "--frames", "3")[2] == "blip: 2 done, 8 done before\n"
    frame(9).save(photos / "below" / "9.png")
    assert blip(*arguments, "--videos", "--frames", "3")[2] == "blip: 1 done, 9 done before\n"


def test_a_video_is_scored_by_its_frames(blip, photos, model):
    animation(photos / "moving.gif", 12)
    _, found, _ = blip("grey", "photos", "--json", "--engine", "pt")
    (entry,) = [entry for entry in found if entry["image"].endswith(".gif")]
    matcher = Matcher(
        FRAMEWORKS["pt"].of("BlipForImageTextRetrieval").from_pretrained(model), BlipProcessor.from_pretrained(model)
    )
    item = matcher.processor(images=sample_frames(photos / "moving.gif", 8), return_tensors="np")["pixel_values"]
    assert len(item) == 8
    assert entry["itc"] == pytest.approx(
        float(matcher.item_features([item])[0] @ matcher.text_features(["grey"])[0]), abs=1e-5
    )
    assert entry["itm_logit"] == pytest.approx(matcher.match(*matcher.item_states([item]), ["grey"])[0, 1], rel=1e-4)


def test_video_files(blip, photos, monkeypatch):
    video(photos / "film.mp4")
    assert len(blip("grey", "photos", "--json")[1]) == 8
    Path("photos/broken.mp4").write_bytes(b"no video")
    code, found, _ = blip("grey", "photos", "--videos", "--json")
    assert code == 1
    assert {Path(entry["image"]).name for entry in found} >= {"film.mp4", "broken.mp4"}
    assert ["error" in entry for entry in found].count(True) == 1
    monkeypatch.setattr("blip_core.cli.search.find_spec", lambda name: None)
    code, _, err = blip("grey", "photos", "--videos", "--engine", "pt")
    assert code == 1
    assert "blip-duo[video]" in err


def test_nothing_to_search_in(blip, photos, monkeypatch):
    def refuse(*_):
        raise AssertionError("a model was loaded though there is nothing to search")

    monkeypatch.setattr(Matcher, "from_pretrained", refuse)
    Path("empty/below").mkdir(parents=True)
    shutil.copy("photos/red.png", "empty/below")
    code, _, err = blip("red", "empty")
    assert (code, err) == (
        1,
        "blip: error: empty: no pictures in this folder; --recursive looks in the folders below too\n",
    )
    assert not Path("cache").exists()


def test_arguments_that_make_no_sense(photos, capfd):
    assert "is no folder" in usage_error("red", "missing", capfd=capfd)
    assert "is no folder" in usage_error("red", "photos/red.png", capfd=capfd)
    assert "give a text and a folder" in usage_error("photos", capfd=capfd)
    assert "'photos/below' is a folder" in usage_error("red", "photos/below", "photos", capfd=capfd)
    assert "is empty" in usage_error(" ", "photos", capfd=capfd)
    assert "at least 1" in usage_error("red", "photos", "--top", "0", capfd=capfd)
    assert "at least 2" in usage_error("red", "photos", "--frames", "1", capfd=capfd)


def test_queries_that_cannot_be_understood_cost_no_encoding(blip, photos, encoded):
    code, _, err = blip("photos", "--image", "missing.png")
    assert (code, "missing.png" in err) == (1, True)
    code, _, err = blip("red " * 600, "photos")
    assert (code, "shorten it" in err) == (1, True)
    assert encoded["item_features"] == []


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_model_for_something_else_is_refused(blip, photos, tmp_path, framework):
    captioner = write_model(tmp_path / "captioner", "BlipForConditionalGeneration")
    code, _, err = blip("red", "photos", "--engine", framework, using=captioner)
    assert code == 1
    assert "does not fit this command" in err
    assert not Path("cache").exists()


def test_half_precision_has_an_index_of_its_own(blip, photos):
    for dtype in ("float32", "bfloat16", "bfloat16"):
        assert blip("red", "photos", "--dtype", dtype)[0] == 0
    assert len(list(Path("cache/blip/search").iterdir())) == 2
