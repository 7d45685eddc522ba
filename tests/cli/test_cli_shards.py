"""`blip caption` into a folder and the indexing of `blip search`, by one process, in shares and on Ray."""

import io
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip_core.cli import caption_folder as captions
from blip_core.datasets import open_dataset
from blip_core.search.index_parts import Parts
from tests.helpers.command_runs import ENVIRONMENT, objects, usage_error
from tests.helpers.frameworks import FRAMEWORKS

SHARDS = ("--shard-size", "3", "--batch-size", "2")


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The working directory with a folder of eight pictures, of which the fourth cannot be read."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(noise).save(f"photos/{number}.png")
    Path("photos/3.png").write_bytes(b"no picture")
    return tmp_path


@pytest.fixture
def search(blip, models):
    """Run `blip search`; returns the exit code, standard output and standard error."""
    return lambda *arguments: blip("search", *arguments, model=models / "match")


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def entries(folder):
    return [json.loads(line) for path in sorted(Path(folder).glob("*.jsonl")) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_captions_in_shares(blip, pictures, framework):
    """What one process writes and what is printed without a folder, however the work is divided and begun anew."""
    how = ("--sample", "--seed", "3", "--prompt", "a", "--suffix", "!", "--engine", framework)
    code, out, err = blip("caption", "photos", "--output", "one", *SHARDS, *how)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 2
    assert "photos/3.png is not a picture that can be read whole" in err
    assert err.endswith("blip: 7 done, 1 failed\n")
    assert sorted(contents("one")) == ["00000.jsonl", "00001.jsonl", "00002.jsonl", "caption.json"]
    plain = [entry for entry in objects(blip("caption", "photos", "--json", *how)[1]) if "caption" in entry]
    found = [entry for entry in entries("one") if "caption" in entry]
    assert found == [{**entry, "image": os.path.abspath(entry["image"])} for entry in plain]
    assert len({entry["caption"] for entry in found}) > 1
    assert [len(example.texts) for example in open_dataset("one/*.jsonl", "caption")] == [1, 1, 1, 0, 1, 1, 1, 1]

    code, _, err = blip("caption", "photos", "--output", "many", *SHARDS, *how, "--shards", "2/2")
    assert (code, "this part is done; 2 shards of others are missing" in err) == (1, True)
    code, _, err = blip("caption", "photos", "--output", "many", *SHARDS, *how, "--shards", "1/2")
    assert (code, err) == (0, "blip: 5 done\n")
    assert contents("many") == contents("one")
    Path("many/00002.jsonl").unlink()
    Path("many/.00002.jsonl.x.tmp").touch()  # as of a process that was killed
    assert blip("caption", "photos", "--output", "many", *SHARDS, *how)[2].endswith("2 done, 5 done before, 1 failed\n")
    assert contents("many") == contents("one")


def interrupt_second(monkeypatch, owner, name):
    """Let the second call of a function end the program; returns the function as it was."""
    function, left = getattr(owner, name), [2]

    def interrupted(*arguments):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        function(*arguments)

    monkeypatch.setattr(owner, name, interrupted)
    return function


def test_captions_killed_in_a_shard(blip, pictures, monkeypatch):
    assert blip("caption", "photos", "--output", "one", *SHARDS, "--scores")[0] == 1
    write = interrupt_second(monkeypatch, captions, "write_lines")
    assert blip("caption", "photos", "--output", "many", *SHARDS, "--scores")[0] == 130
    assert sorted(contents("many")) == ["00000.jsonl", "caption.json"]
    monkeypatch.setattr(captions, "write_lines", write)
    assert blip("caption", "photos", "--output", "many", *SHARDS, "--scores", "--json")[1].count("confidence") == 4
    assert contents("many") == contents("one")


def test_a_folder_of_something_else(blip, pictures):
    assert blip("caption", "photos/0.png", "photos/1.png", "--output", "out")[0] == 0
    before = contents("out")
    for options, said in [
        (["photos/0.png"], "pictures was 2, is 1"),
        (["photos/0.png", "photos/2.png"], "input was '"),
        (["photos/0.png", "photos/1.png", "--beams", "2"], "beams was None, is 2"),
        (["photos/0.png", "photos/1.png", "--shard-size", "1"], "shard_size was 1000, is 1"),
    ]:
        code, out, err = blip("caption", *options, "--output", "out")
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        assert "out holds another run: " in err
        assert said in err
    assert "photos holds other files and no run" in blip("caption", "photos", "--output", "photos")[2]
    Path("file").touch()
    assert "file is a file" in blip("caption", "photos", "--output", "file")[2]
    assert contents("out") == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shards", "1/2"], "--shards: needs --output FOLDER"),
        (["--ray", "--output", "all.jsonl"], "--ray: needs --output FOLDER"),
        (["--shard-size", "5", "--sidecar", ".txt"], "--shard-size: needs --output FOLDER"),
        (["--output", "out", "--sidecar", ".txt"], "--sidecar: not where --output is a folder"),
        (["--output", "out", "--overwrite"], "--overwrite: not where --output is a folder"),
        (["--output", "out", "--sample"], "--sample: needs --seed"),
        (["--output", "out", "--shards", "3/2"], "--shards: A share is I/N"),
        (["--output", "out", "--ray-actors", "2"], "--ray-actors: needs --ray"),
        (["--output", "out.v2"], "must end in .jsonl or .csv, or be a folder, whose name has no dot"),
    ],
)
def test_what_does_not_go_with_a_folder(capsys, no_models, arguments, said):
    assert said in usage_error("caption", "x.png", "--model", "m", *arguments, capsys=capsys)


@pytest.mark.slow
def test_captions_on_ray(blip, pictures, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    for folder, how in (("one", []), ("ray", ["--ray"])):
        code, _, err = blip("caption", "photos", "--output", folder, *SHARDS, *how)
        assert (code, err.endswith("blip: 7 done, 1 failed\n")) == (1, True)
    assert contents("ray") == contents("one")


def index(folder):
    """What an index knows, and the bytes of its features."""
    with closing(sqlite3.connect(Path(folder) / "blip-index.sqlite")) as database:
        known = database.execute("SELECT * FROM pictures ORDER BY row").fetchall()
    return known, (Path(folder) / "blip-features.npy").read_bytes()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_index_in_shares(search, pictures, framework):
    how = (*SHARDS, "--engine", framework)
    code, out, err = search("photos", "--index", "one", *how, "--shards", "1/1")
    assert (code, out) == (1, "")
    assert "photos/3.png: " in err or "photos/3.png is not a picture" in err
    assert err.endswith("blip: 7 done, 1 failed\n")
    ended = [search("photos", "--index", "many", *how, "--shards", share)[::2] for share in ("2/2", "1/2")]
    assert [(code, err.splitlines()[-1]) for code, err in ended] == [(1, "blip: 2 done, 1 failed"), (0, "blip: 5 done")]
    found = [
        search("a dog", "photos", "--index", name, "--json", "--engine", framework) for name in ("one", "many", "plain")
    ]
    assert found[0] == found[1]
    assert [code for code, *_ in found] == [1, 1, 1]
    one, _, plain = ([entry.get("rank") and entry["image"] for entry in objects(out)] for _, out, _ in found)
    assert one == plain
    assert index("many") == index("one")
    assert index("plain")[0] == index("one")[0]
    assert sorted(contents("many")) == ["blip-features.npy", "blip-index.sqlite"]


def test_an_index_killed_and_of_a_folder_that_changed(search, pictures, monkeypatch):
    """What is encoded stays where pictures come to lie in other shards, and where a part is taken in twice."""
    write = interrupt_second(monkeypatch, Parts, "write")
    share = ("photos", "--index", "it", *SHARDS, "--shards", "1/1")
    assert search(*share)[0] == 130
    monkeypatch.setattr(Parts, "write", write)
    Image.new("RGB", (9, 9), "red").save("photos/00.png")
    assert search(*share)[2].endswith("blip: 5 done, 3 done before, 1 failed\n")
    assert search(*share)[2].endswith("blip: 0 done, 8 done before, 1 failed\n")
    shutil.copytree("it/blip-parts", "parts")
    (part,) = Path("it/blip-parts").iterdir()
    (part / ".00000.jsonl.x.tmp").touch()  # as of a process that was killed
    for _ in range(2):
        assert search("a dog", "photos", "--index", "it")[0] == 1
        assert sorted(contents("it")) == ["blip-features.npy", "blip-index.sqlite"]
        assert sorted(name for name, *_ in index("it")[0]) == sorted(
            f"{name}.png".encode() for name in ("0", "00", "1", "2", "4", "5", "6", "7")
        )
        shutil.copytree("parts", "it/blip-parts")
    next(part.iterdir()).write_text('{"name": "0.png", "stamp": "", "frames": 0, "feature": "AAAA"}')
    code, _, err = search("a dog", "photos", "--index", "it")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "is damaged" in err
    assert "remove it and run again to rebuild it" in err
    assert search("a dog", "photos", "--index", "it", "--rebuild")[2].endswith("blip: 8 done, 1 failed\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["photos", "--shards", "1/2"], "--shards: needs --index FOLDER"),
        (["a dog", "photos", "--ray"], "--ray: needs --index FOLDER"),
        (["a dog", "photos", "--shards", "1/2", "--index", "it"], "--shards: give the folder alone"),
        (["photos", "--shards", "1/2", "--index", "it", "--rebuild"], "--shards: give the folder alone"),
        (["a dog", "photos", "--shard-size", "5", "--index", "it"], "--shard-size: needs --shards, --ray"),
        (["photos", "--index", "it"], "give a text and a folder"),
    ],
)
def test_what_does_not_go_with_an_index(pictures, capsys, no_models, arguments, said):
    assert said in usage_error("search", *arguments, "--model", "m", capsys=capsys)


@pytest.mark.slow
def test_an_index_on_ray(search, pictures, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    search("photos", "--index", "one", *SHARDS, "--shards", "1/1")
    found = [
        search("a dog", "photos", "--index", name, *SHARDS, *how)
        for name, how in (("one", ["--ray"]), ("ray", ["--ray"]))
    ]
    assert found[0][:2] == found[1][:2]
    assert found[1][2].endswith("blip: 7 done, 1 failed\n")
    known, features = zip(index("ray"), index("one"), strict=True)
    assert known[0] == known[1]
    # Ray's workers have one thread each, and products of another number of threads round otherwise.
    np.testing.assert_allclose(*(np.load(io.BytesIO(one)) for one in features), rtol=0, atol=1e-6)
