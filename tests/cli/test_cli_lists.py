"""`blip answer --choices` and `blip classify`: lists in files, over tiny random models."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipProcessor
from blip_core.inference.loaded_model import LoadedModel
from tests.helpers.command_runs import objects, usage_error
from tests.helpers.frameworks import FRAMEWORKS

CHOICES = ["yes", "no", "a red wall", "two dogs", "two cats on a sofa"]


@pytest.fixture
def choices(pictures):
    """A file as people write it: a BOM, blank lines, a line twice, spaces, Windows' line ends."""
    Path("choices.txt").write_bytes(
        "\ufeffyes\r\n\r\nno\r\n a red wall \r\n\ntwo dogs\nyes\ntwo cats on a sofa".encode()
    )
    return "choices.txt"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_answers_from_a_list(blip, choices, framework):
    arguments = ["answer", "red.png", "what is it?", "why", "--choices", choices, "--engine", framework]
    code, out, err = blip(*arguments, "--json")
    assert (code, err) == (0, "")
    plain = objects(out)
    assert [list(entry) for entry in plain] == [["image", "question", "answer"]] * 2
    scored = objects(blip(*arguments, "--scores", "--json", "--batch-size", "1")[1])
    for entry, full in zip(plain, scored, strict=True):
        assert {name: full[name] for name in entry} == entry
        shares = [choice["probability"] for choice in full["choices"]]
        logs = np.array([choice["log_prob"] for choice in full["choices"]])
        assert sorted(choice["answer"] for choice in full["choices"]) == sorted(CHOICES)
        assert full["choices"][0]["answer"] == entry["answer"]
        assert shares == sorted(shares, reverse=True)
        assert shares == pytest.approx((np.exp(logs) / np.exp(logs).sum()).tolist(), rel=1e-5)
    lines = blip(*arguments, "--scores")[1].splitlines()
    assert len(lines) == 2 * len(CHOICES)
    first = scored[0]["choices"][0]
    assert lines[0] == f"red.png: what is it? {first['answer']} ({first['probability']:.3f})"
    assert blip(*arguments)[1].splitlines()[0] == f"red.png: what is it? {first['answer']}"


def test_answers_from_a_list_are_what_the_model_says(blip, models, choices):
    import torch

    from blip_pt import BlipForQuestionAnswering

    model = BlipForQuestionAnswering.from_pretrained(models / "answer")
    processor = BlipProcessor.from_pretrained(models / "answer")
    inputs = processor(Image.open("red.png"), "why", return_tensors="pt")
    found = objects(blip("answer", "red.png", "why", "--choices", choices, "--scores", "--json")[1])[0]["choices"]
    for choice in found:
        ids = processor(text=choice["answer"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            output = model(**inputs, labels=ids)
        assert choice["log_prob"] == pytest.approx(-float(output.loss) * (ids.shape[1] - 1), rel=1e-5)


def test_choices_that_the_model_cannot_tell_apart(blip, pictures):
    Path("choices.txt").write_text("Yes\nno\nYES\nNo\nmaybe\n")
    code, out, err = blip("answer", "red.png", "why", "--choices", "choices.txt", "--scores", "--json")
    assert code == 0
    assert {choice["answer"] for choice in objects(out)[0]["choices"]} == {"Yes", "no", "maybe"}
    assert err == "blip: warning: 'YES' is left out (and 1 more): to the model it is the same as 'Yes'.\n"


BAD_LISTS = {
    "holds nothing": b"\n  \n",
    "is not UTF-8 text": b"yes\n\xff\xfe\n",
    "has no letter that the model reads": "yes\n\u200b\n".encode(),
    "Text 1 has 602 tokens": b"yes\n" + b"no " * 600,
}


@pytest.mark.parametrize("said", BAD_LISTS)
def test_bad_lists(blip, pictures, said):
    Path("list.txt").write_bytes(BAD_LISTS[said])
    code, out, err = blip("answer", "red.png", "why", "--choices", "list.txt")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert said in err


def test_a_list_that_is_not_there(blip, pictures, no_models):
    code, _, err = blip("answer", "red.png", "why", "--choices", "nowhere.txt")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "nowhere.txt" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["answer", "-", "why", "--choices", "-"],
        ["answer", "red.png", "why", "--choices", "choices.txt", "--beams", "3"],
        ["answer", "red.png", "why", "--choices", "choices.txt", "--max-tokens", "3"],
        ["classify", "-", "--labels", "-"],
        ["classify", "red.png"],
        ["classify", "red.png", "--labels", "choices.txt", "--template", "a photo"],
        ["classify", "red.png", "--labels", "choices.txt", "--template", "{} {}"],
        ["classify", "red.png", "--labels", "choices.txt", "--top", "0"],
    ],
)
def test_usage_errors(choices, capsys, no_models, arguments):
    assert "error: " in usage_error(*arguments, "--model", "m", capsys=capsys)


def test_choices_on_standard_input(blip, choices, monkeypatch):
    expected = blip("answer", "red.png", "why", "--choices", choices, "--scores")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(choices).read_bytes())))
    assert blip("answer", "red.png", "why", "--choices", "-", "--scores") == expected


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_classify(blip, models, choices, framework):
    run = ["classify", "red.png", "bad.jpg", "blue.png", "--labels", choices, "--engine", framework]
    templates = ["--template", "a photo of {}", "--template", "{}, drawn by hand"]
    code, out, err = blip(*run, *templates, "--json", model=models / "match")
    assert (code, err) == (1, "blip: 2 done, 1 failed\n")
    red, bad, blue = objects(out)
    assert bad["image"] == "bad.jpg"
    for entry in (red, blue):
        assert list(entry) == ["image", "label", "labels"]
        assert sorted(label["label"] for label in entry["labels"]) == sorted(CHOICES)
        shares = [label["probability"] for label in entry["labels"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert entry["label"] == entry["labels"][0]["label"]
    one = objects(blip(*run, *templates, "--json", "--batch-size", "1", "--top", "2", model=models / "match")[1])[0]
    assert [label["label"] for label in one["labels"]] == [label["label"] for label in red["labels"][:2]]
    assert one["labels"][1]["probability"] == pytest.approx(red["labels"][1]["probability"], rel=1e-4)
    other = objects(blip(*run, "--json", model=models / "match")[1])[0]
    assert other["labels"] != red["labels"]  # another template


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_classify_by_the_matching_head(blip, models, choices, framework):
    run = ["classify", "red.png", "--labels", choices, "--template", "a {}", "--template", "one {}", "--top", "3"]
    run += ["--engine", framework]
    (entry,) = objects(blip(*run, "--itm", "--json", "--batch-size", "2", model=models / "match")[1])
    plain = objects(blip(*run, "--json", model=models / "match")[1])[0]
    assert {label["label"] for label in entry["labels"]} == {label["label"] for label in plain["labels"]}
    scores = [label["itm"] for label in entry["labels"]]
    assert scores == sorted(scores, reverse=True)
    for label in entry["labels"]:
        texts = [f"a {label['label']}", f"one {label['label']}"]
        matched = objects(blip("match", "red.png", *texts, "--json", "--engine", framework)[1])
        assert label["itm"] == pytest.approx(np.mean([text["itm"] for text in matched]), rel=1e-4)
    lines = blip(*run, "--itm", model=models / "match")[1].splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"red.png: {entry['label']} (itm {scores[0]:.3f}, ")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_types(blip, models, choices, framework, dtype):
    options = ["--json", "--engine", framework]
    for arguments, model, name in (
        (["classify", "red.png", "--labels", choices], "match", "labels"),
        (["answer", "red.png", "why", "--choices", choices, "--scores"], "answer", "choices"),
    ):
        one, other = (
            objects(blip(*arguments, *options, *more, model=models / model)[1])[0][name]
            for more in ([], ["--dtype", dtype])
        )
        assert other[0]["probability"] == pytest.approx(one[0]["probability"], abs=0.05)


def test_labels_are_encoded_once(blip, models, choices, monkeypatch):
    calls = []
    tokens = LoadedModel.tokens
    monkeypatch.setattr(LoadedModel, "tokens", lambda self, texts: calls.append(len(texts)) or tokens(self, texts))
    assert blip("classify", "red.png", "blue.png", "green.png", "--labels", choices, model=models / "match")[0] == 0
    assert calls == [len(CHOICES)]
