"""Options of `blip caption` that ask for several captions, or for captions without some words."""

import json

import pytest
from PIL import Image, ImageDraw

from blip_core.hub import or_shipped
from tests.helpers.frameworks import INSTALLED


@pytest.fixture
def caption(blip, tmp_path, monkeypatch):
    """Caption a drawing of a red circle by the model in the package; returns what is printed."""
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(picture).ellipse((8, 8, 56, 56), fill="red")
    picture.save("a.png")

    def run(*options):
        code, out, err = blip("caption", "a.png", *options, model=or_shipped(None))
        assert (code, err) == (0, "")
        return out

    return run


@pytest.mark.parametrize("engine", INSTALLED)
def test_several_captions_come_best_first(caption, engine):
    words = ["--engine", engine, "--num-captions", "3"]
    (entry,) = map(json.loads, caption(*words, "--json").splitlines())
    assert entry["caption"] == entry["captions"][0] == "red circle"
    assert len(set(entry["captions"])) == 3
    assert caption(*words) == "".join(f"a.png: {text}\n" for text in entry["captions"])
    wider = json.loads(caption(*words, "--beams", "5", "--json"))["captions"]
    assert len(wider) == 3
    assert wider[0] == json.loads(caption("--engine", engine, "--beams", "5", "--json"))["caption"]
    drawn = [json.loads(caption(*words, "--sample", "--seed", "1", "--json"))["captions"] for _ in "12"]
    assert len(drawn[0]) == 3
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("engine", INSTALLED)
def test_bad_words_are_never_written(caption, engine):
    words = ["--engine", engine]
    assert caption(*words) == "a.png: red circle\n"
    without = caption(*words, "--bad-words", "circle")
    assert "red" in without
    assert "circle" not in without
    neither = caption(*words, "--bad-words", "circle", "--bad-words", "red")
    assert not {"circle", "red"} & set(neither.split())
    # What is forbidden is the sequence, not each of its words.
    assert caption(*words, "--bad-words", "circle red") == "a.png: red circle\n"
    assert caption(*words, "--bad-words", "red circle") != "a.png: red circle\n"


@pytest.mark.parametrize("engine", INSTALLED)
def test_forced_words_are_always_written(caption, engine):
    words = ["--engine", engine]
    assert "blue" in caption(*words, "--forced-words", "blue")
    both = caption(*words, "--forced-words", "blue square", "--forced-words", "yellow", "--beams", "4")
    assert "blue square" in both
    assert "yellow" in both
    assert caption(*words, "--forced-words", "red circle", "--beams", "3") == caption(*words, "--beams", "3")


@pytest.mark.parametrize(("more", "message"), [(["--beams", "1"], "needs --beams of 2"), (["--sample"], "no --sample")])
def test_forced_words_without_beams(caption, capfd, more, message):
    with pytest.raises(SystemExit):
        caption("--forced-words", "blue", *more)
    assert message in capfd.readouterr().err
