"""`blip data`: what is recognised and counted, in every form of output, and what cannot be used."""

import json
import re

import pytest

from blip_core.cli import main
from tests.helpers.data_files import save_pictures, write_entries
from tests.helpers.published_forms import coco, karpathy, nlvr, vqa


def run(capsys, *words):
    code = main([str(word) for word in ("data", "check", *words)])
    return code, capsys.readouterr().out


def test_a_data_set_is_described(tmp_path, capsys):
    path = coco(tmp_path)
    code, out = run(capsys, path)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "captions_val2014.json: COCO captions"
    assert lines[1:4] == ["  task       caption", "  examples   3 of 3 pictures", "  texts      3, 6.0 words each"]
    assert lines[4] == f"  {tmp_path}/val2014/COCO_val2014_000000000042.jpg: A red box, and nothing else"
    assert lines[-1] == "  everything can be used"
    assert main(["data", str(path), "--examples", "0"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_the_task_follows_from_the_data(tmp_path, capsys):
    _, out = run(capsys, vqa(tmp_path / "vqa"))
    assert "  answers    3\n" in out
    assert ".jpg: What color? -> red 1\n" in out
    _, out = run(capsys, nlvr(tmp_path / "nlvr"))
    assert "train-100-0-img1.png: A red box, and nothing else -> True\n" in out
    save_pictures(tmp_path, 1)
    own = write_entries(tmp_path / "own.json", [{"image": "0.png", "question": "what?"}])
    _, out = run(capsys, own)
    assert "  task       vqa\n" in out
    assert "  without    1 have no answer\n" in out
    _, out = run(capsys, own, "--task", "caption")
    assert "  without    1 have no caption\n" in out


def test_json_has_everything(tmp_path, capsys):
    path = coco(tmp_path)
    (tmp_path / "val2014" / "COCO_val2014_000000000073.jpg").write_bytes(b"broken")
    (tmp_path / "val2014" / "COCO_val2014_000000000074.jpg").unlink()
    code, out = run(capsys, path, "--json")
    found = json.loads(out)
    assert code == 1
    assert (found["examples"], found["pictures"], found["texts"], len(found["problems"])) == (2, 2, 2, 1)
    assert found["files"] == [{"name": "captions_val2014.json", "form": "COCO captions"}]
    assert [one["texts"] for one in found["first"]] == [[f"A {c} box, and nothing else"] for c in ("red", "green")]
    code, out = run(capsys, path, "--json", "--read-pictures")
    assert [one["where"].rpartition(":")[2] for one in json.loads(out)["problems"]] == ["2", "1"]


def test_splits_are_counted(tmp_path, capsys):
    code, out = run(capsys, karpathy(tmp_path))
    assert code == 1  # the training picture is missing
    assert "  splits     train 1, test 3\n" in out
    code, out = run(capsys, tmp_path / "dataset_coco.json", "--split", "test")
    assert code == 0
    assert "  examples   3 of 3 pictures\n" in out


def test_nothing_that_can_be_used_is_listed_too(tmp_path, capsys):
    path = write_entries(tmp_path / "own.json", [{"image": f"{n}.png", "caption": "a\x1b[2J"} for n in range(30)])
    code, out = run(capsys, path)
    assert code == 1
    assert "  cannot be used: 30\n" in out
    assert "    … and 20 more; --json and --html list all\n" in out
    assert len(json.loads(run(capsys, path, "--json")[1])["problems"]) == 30


def test_the_page_shows_pictures_and_escapes_texts(tmp_path, capsys):
    save_pictures(tmp_path, 1)
    (tmp_path / "1.png").write_bytes(b"broken <i>")
    entries = [{"image": f"{n}.png", "caption": "<script>alert(1)</script>"} for n in range(3)]
    code, _ = run(capsys, write_entries(tmp_path / "own.json", entries), "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert code == 1
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count("&lt;script&gt;") == 2
    assert "<script>" not in page
    assert "class='bad'" in page
    assert "1 entry cannot be used" in page
    assert "2.png" in page


def test_what_is_no_data_set_is_told(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("a dog\n")
    assert main(["data", "check", str(tmp_path / "notes.txt")]) != 0
    out, err = capsys.readouterr()
    assert "has none of the forms that data may have; tried COCO captions" in err
    assert not out
    with pytest.raises(SystemExit):
        main(["data", "check"])


def test_evaluation_and_training_take_a_split(models, tmp_path, capsys):
    path = karpathy(tmp_path / "data")
    model = ("--model", str(models / "caption"))
    data = ("--data", str(path), "--image-root", str(tmp_path / "data" / "pictures"))
    assert main(["evaluate", "caption", *data, "--split", "test", *model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counted"] == {"pictures": 3}
    assert main(["evaluate", "caption", *data, *model]) != 0
    assert "dataset_coco.json holds the splits train (1), test (3)" in capsys.readouterr().err
    training = ("--split", "test", "--validation", str(path), "--validation-split", "test", "--epochs", "1")
    out = tmp_path / "out"
    assert main(["train", "caption", *data, *training, *model, "--batch-size", "3", "--output", str(out)]) == 0
    assert re.search("3 examples to learn from, 3 held out", capsys.readouterr().err)
