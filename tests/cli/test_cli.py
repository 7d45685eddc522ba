"""The `blip` command over tiny random models, in each framework that is installed."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from blip_core import BlipProcessor, BlipTokenizer
from blip_core.cli import main
from blip_core.engines import ENGINES
from blip_core.generation import GenerationConfig
from blip_core.inference.loaded_model import LoadedModel
from blip_core.inference.text_writer import TextWriter
from tests.helpers.command_runs import ENVIRONMENT, objects, usage_error
from tests.helpers.frameworks import FRAMEWORKS, require


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_caption_json(blip, pictures, framework):
    code, out, err = blip("caption", *pictures, "--json", "--engine", framework)
    assert (code, err) == (0, "")
    assert [list(entry) for entry in objects(out)] == [["image", "caption"]] * 3
    assert [entry["image"] for entry in objects(out)] == pictures
    assert len({entry["caption"] for entry in objects(out)}) > 1


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_answer_json(blip, pictures, framework):
    questions = ["what is it?", "which of the two colors is it?", "why"]
    arguments = ["red.png", *questions, "--json", "--engine", framework]
    code, out, _ = blip("answer", *arguments, "--max-tokens", "4")
    assert code == 0
    assert [list(entry) for entry in objects(out)] == [["image", "question", "answer"]] * 3
    assert [entry["question"] for entry in objects(out)] == questions
    assert blip("answer", *arguments, "--max-tokens", "4", "--batch-size", "1")[1] == out


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_match_json(blip, pictures, framework):
    texts = ["a red wall", "a long sentence on many things", "sky"]
    arguments = ["blue.png", *texts, "--json", "--engine", framework]
    code, out, _ = blip("match", *arguments)
    assert code == 0
    assert [list(entry) for entry in objects(out)] == [["image", "text", "itm", "itc"]] * 3
    for entry, other in zip(objects(out), objects(blip("match", *arguments, "--batch-size", "1")[1]), strict=True):
        assert 0 < entry["itm"] < 1
        assert -1 <= entry["itc"] <= 1
        assert entry["itm"] == pytest.approx(other["itm"], rel=1e-5)
        assert entry["itc"] == pytest.approx(other["itc"], rel=1e-5, abs=1e-6)


def test_match_is_what_the_model_says(blip, models, pictures):
    """The command against the model called by hand."""
    import torch

    from blip_pt import BlipForImageTextRetrieval

    model = BlipForImageTextRetrieval.from_pretrained(models / "match")
    processor = BlipProcessor.from_pretrained(models / "match")
    inputs = processor(images=Image.open("red.png"), text=["a red wall"], return_tensors="pt")
    with torch.no_grad():
        itm = model(**inputs).itm_score.softmax(-1)[0, 1].item()
        itc = model(**inputs, use_itm_head=False).itm_score.item()
    (entry,) = objects(blip("match", "red.png", "a red wall", "--json")[1])
    assert entry["itm"] == pytest.approx(itm, rel=1e-5)
    assert entry["itc"] == pytest.approx(itc, rel=1e-5)


def test_a_picture_is_encoded_once_for_all_its_texts(blip, pictures, monkeypatch):
    calls = []
    encode = LoadedModel.encode
    monkeypatch.setattr(LoadedModel, "encode", lambda self, pixels: calls.extend(pixels) or encode(self, pixels))
    assert blip("match", ".", "one", "two", "three", "--batch-size", "2")[0] == 1  # bad.jpg
    assert blip("answer", "red.png", "one?", "two?", "three?", "--batch-size", "2", "--max-tokens", "3")[0] == 0
    assert len(calls) == 3 + 1


def test_plain_lines(blip, pictures):
    _, out, _ = blip("caption", "red.png", "--json")
    caption = objects(out)[0]["caption"]
    assert blip("caption", "red.png") == (0, f"red.png: {caption}\n", "")
    assert blip("answer", "red.png", "why?")[1].startswith("red.png: why? ")
    assert blip("match", "red.png", "a wall")[1].startswith("red.png: a wall (itm 0.")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_captioner_is_asked_as_it_was_trained(blip, models, pictures, tmp_path, framework):
    def captions(*arguments, **options):
        code, out, _ = blip("caption", *pictures, "--json", "--engine", framework, *arguments, **options)
        assert code == 0
        return [entry["caption"] for entry in objects(out)]

    trained = shutil.copytree(models / "caption", tmp_path / "trained")
    GenerationConfig(prompt_ids=BlipTokenizer()("a picture of").input_ids[1:-1]).save_pretrained(trained)
    found = captions(model=trained)
    assert found != captions()
    whole = [f"a picture of {caption}".replace(" ##", "") for caption in found]  # a word's rest may come first
    assert whole == captions("--prompt", "a picture of")
    assert captions("--prompt", "", model=trained) == captions()
    assert captions("--prompt", "this", model=trained) == captions("--prompt", "this")


def test_captions_are_the_same_alone_and_in_any_batch(blip, pictures):
    _, together, _ = blip("caption", *pictures, "--json", "--batch-size", "3", "--prompt", "a picture of")
    for size in ("1", "2"):
        assert blip("caption", *pictures, "--json", "--batch-size", size, "--prompt", "a picture of")[1] == together


def test_text_options(blip, pictures):
    def caption(*options):
        code, out, _ = blip("caption", "red.png", "--json", *options)
        assert code == 0
        return objects(out)[0]

    assert caption("--prompt", "a picture of")["caption"].startswith("a picture of ")
    assert caption("--prefix", "sks, ", "--suffix", ", oil")["caption"] == f"sks, {caption()['caption']}, oil"
    for length in (2, 7):
        options = ["--min-tokens", str(length), "--max-tokens", str(length)]
        for beams in ("1", "3"):
            assert len(caption(*options, "--beams", beams, "--scores")["tokens"]) == length
    tokens = caption("--no-repeat-ngram", "1", "--max-tokens", "30", "--scores")["tokens"]
    assert len(tokens) == len(set(tokens)) == 30
    assert len(set(caption("--max-tokens", "30", "--scores")["tokens"])) < 30
    drawn = caption("--sample", "--seed", "1")
    assert drawn == caption("--sample", "--seed", "1") != caption("--sample", "--seed", "2")
    assert caption("--sample", "--seed", "1", "--top-p", "0.01") == caption()
    assert caption("--sample", "--seed", "1", "--temperature", "0.001") == caption()


def test_scores(blip, pictures):
    for command, rest in (("caption", []), ("answer", ["why?"])):
        arguments = [command, "red.png", *rest, "--scores", "--max-tokens", "4"]
        (entry,) = objects(blip(*arguments, "--json")[1])
        logs = entry["token_log_probs"]
        assert len(logs) == len(entry["tokens"]) == 4
        assert all(log < 0 for log in logs)
        assert entry["log_prob"] == pytest.approx(sum(logs), rel=1e-5)
        assert entry["confidence"] == pytest.approx(2.718281828 ** (sum(logs) / 4), rel=1e-5)
        assert blip(*arguments)[1].endswith(f" ({entry['confidence']:.3f})\n")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_dtype_and_device(blip, pictures, framework, dtype):
    code, out, _ = blip(
        "match", "red.png", "a wall", "--json", "--engine", framework, "--dtype", dtype, "--device", "cpu"
    )
    assert code == 0
    plain = objects(blip("match", "red.png", "a wall", "--json")[1])[0]
    assert objects(out)[0]["itm"] == pytest.approx(plain["itm"], abs=0.02)


@pytest.mark.needs(*FRAMEWORKS)
def test_frameworks_agree(blip, pictures):
    one, other = (blip("caption", *pictures, "--json", "--engine", name, "--beams", "3")[1] for name in FRAMEWORKS)
    assert one == other


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bad_picture_is_reported_and_the_rest_are_done(blip, pictures, as_json):
    Path("cut.png").write_bytes(Path("red.png").read_bytes()[:60])
    arguments = ["red.png", "bad.jpg", "missing.jpg", "cut.png", "*.gif", "blue.png"]
    code, out, err = blip("caption", *arguments, *(["--json"] if as_json else []), "--batch-size", "2")
    assert code == 1
    bad = {"bad.jpg", "missing.jpg", "cut.png", "*.gif"}
    if as_json:
        assert {entry["image"] for entry in objects(out) if list(entry) == ["image", "error"]} == bad
        assert [entry["image"] for entry in objects(out) if "caption" in entry] == ["red.png", "blue.png"]
        assert err == "blip: 2 done, 4 failed\n"
    else:
        assert [line.split(":")[0] for line in out.splitlines()] == ["red.png", "blue.png"]
        assert len(err.splitlines()) == 5
        assert all(any(name in line for line in err.splitlines()) for name in bad)


def test_only_bad_pictures(blip, pictures):
    code, out, err = blip("answer", "bad.jpg", "why?")
    assert (code, out, len(err.splitlines())) == (1, "", 1)


def test_folders_patterns_and_standard_input(blip, pictures, monkeypatch):
    def images(*arguments):
        return [entry["image"] for entry in objects(blip("caption", *arguments, "--json")[1]) if "caption" in entry]

    assert images(".") == ["./blue.png", "./green.png", "./red.png"]
    assert images(".", "--recursive") == ["./blue.png", "./green.png", "./red.png", "./below/white.png"]
    assert images("[bg]*.png") == ["blue.png", "green.png"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"red.png\nbelow\n")))
    assert images("-") == ["red.png", "below/white.png"]


def test_sidecars(blip, pictures):
    code, out, err = blip("caption", ".", "--recursive", "--sidecar", ".txt", "--prefix", "sks, ")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "blip: 4 done, 1 failed"
    captions = {path.name: path.read_text() for path in Path(".").rglob("*.txt")}
    assert sorted(captions) == ["blue.txt", "green.txt", "red.txt", "white.txt"]
    assert all(text.startswith("sks, ") and text.endswith("\n") for text in captions.values())
    Path("red.txt").write_text("by hand")
    Path("blue.txt").unlink()
    code, out, err = blip("caption", *pictures, "red.txt", "--sidecar", ".txt", "--json")
    assert (code, err) == (0, "blip: 1 done, 2 done before\n")
    assert [entry["image"] for entry in objects(out)] == ["blue.png"]
    assert Path("red.txt").read_text() == "by hand"
    assert blip("caption", "red.png", "--sidecar", ".txt", "--overwrite")[0] == 0
    assert Path("red.txt").read_text() != "by hand"


def test_two_pictures_of_one_sidecar(blip, pictures):
    Image.new("RGB", (9, 9)).save("red.bmp")
    for _ in range(2):
        code, _, err = blip("caption", "red.png", "red.bmp", "--sidecar", ".txt")
        assert code == 1
        assert "red.bmp: would share its .txt file with red.png" in err


@pytest.mark.parametrize("name", ["all.jsonl", "all.csv"])
def test_output_file(blip, pictures, name):
    code, out, err = blip("caption", *pictures, "--output", name, "--scores", "--batch-size", "2")
    assert (code, out, err) == (0, "", "blip: 3 done\n")
    if name.endswith(".csv"):
        entries = list(csv.DictReader(io.StringIO(Path(name).read_text())))
        assert list(entries[0]) == ["image", "caption", "confidence", "log_prob"]
    else:
        entries = objects(Path(name).read_text())
        assert list(entries[0]) == ["image", "caption", "confidence", "log_prob", "tokens", "token_log_probs"]
    assert [entry["image"] for entry in entries] == [os.path.abspath(name) for name in pictures]


def test_a_stopped_run_goes_on(blip, pictures):
    arguments = ["caption", *pictures, "--output", "all.jsonl", "--sidecar", ".txt"]
    assert blip(*arguments)[0] == 0
    whole = Path("all.jsonl").read_bytes()
    Path("all.jsonl").write_bytes(whole[:-5])  # killed in the middle of the last line ...
    Path("blue.txt").unlink()  # ... and before the last sidecar
    code, _, err = blip(*arguments)
    assert (code, err) == (0, "blip: 1 done, 2 done before\n")
    assert Path("all.jsonl").read_bytes() == whole
    assert Path("blue.txt").exists()


def test_nothing_is_loaded_when_nothing_is_to_be_done(blip, pictures, no_models):
    Path("all.jsonl").write_text("".join(json.dumps({"image": name, "caption": "x"}) + "\n" for name in pictures))
    for name in pictures:
        Path(name).with_suffix(".cap").write_text("x")
    for target in (["--output", "all.jsonl"], ["--sidecar", ".cap"]):
        code, out, err = blip("caption", *pictures, *target, model="no-such/model")
        assert (code, out, err) == (0, "", "blip: 0 done, 3 done before\n")
    assert blip("caption", "*.gif", model="no-such/model")[0] == 1
    assert blip("match", "*.gif", "x", model="no-such/model")[0] == 1


def test_a_failing_model_leaves_an_output_to_be_overwritten_whole(blip, pictures):
    Path("all.jsonl").write_text('{"image": "red.png", "caption": "x"}\n')
    assert blip("caption", "red.png", "--output", "all.jsonl", "--overwrite", model="./nowhere")[0] == 1
    assert Path("all.jsonl").read_text() == '{"image": "red.png", "caption": "x"}\n'


def test_interrupt(blip, pictures, monkeypatch):
    """What was finished is kept, nothing else is there, and the next run does the rest."""
    write = TextWriter._generate
    calls = []

    def interrupted(self, inputs, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(self, inputs, **options)

    monkeypatch.setattr(TextWriter, "_generate", interrupted)
    arguments = ["caption", *pictures, "--batch-size", "1", "--output", "all.csv", "--sidecar", ".txt"]
    code, _, err = blip(*arguments)
    assert (code, err) == (130, "blip: interrupted\n")
    assert len(Path("all.csv").read_text().splitlines()) == 2
    assert sorted(path.name for path in Path(".").glob("*.t*")) == ["red.txt"]
    assert blip(*arguments)[0] == 0
    assert len(Path("all.csv").read_text().splitlines()) == 4


def test_killed_process_goes_on(models, pictures):
    """A real process, killed with no chance to tidy up, again and again: no caption is lost and none comes twice."""
    for i in range(60):
        Image.new("RGB", (8, 8), (i * 4, 0, 0)).save(f"many{i:02}.png")
    command = [sys.executable, "-m", "blip_core.cli", "caption", "many*.png", "--model", str(models / "caption")]
    command += ["--output", "all.jsonl", "--batch-size", "1", "--max-tokens", "60", "--min-tokens", "60"]
    for lines in (5, 15):
        process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not Path("all.jsonl").exists() or Path("all.jsonl").read_bytes().count(b"\n") < lines:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert Path("all.jsonl").read_bytes().count(b"\n") < 60
    command[command.index("60") :] = ["3"]
    assert subprocess.run(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL).returncode == 0
    assert [entry["image"] for entry in objects(Path("all.jsonl").read_text())] == [
        os.path.abspath(f"many{i:02}.png") for i in range(60)
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["describe"],
        ["caption", "--model", "m"],
        ["answer", "x.png", "--model", "m"],
        ["answer", "x.png", " ", "--model", "m"],
        ["match", "x.png", "", "--model", "m"],
        ["caption", "x.png", "--model", "m", "--beams", "0"],
        ["caption", "x.png", "--model", "m", "--beams", "many"],
        ["caption", "x.png", "--model", "m", "--batch-size", "-1"],
        ["caption", "x.png", "--model", "m", "--top-p", "0.9"],
        ["caption", "x.png", "--model", "m", "--seed", "1"],
        ["caption", "x.png", "--model", "m", "--sample", "--top-p", "1.5"],
        ["caption", "x.png", "--model", "m", "--sample", "--temperature", "nan"],
        ["caption", "x.png", "--model", "m", "--min-tokens", "5", "--max-tokens", "4"],
        ["answer", "x.png", "why?", "--model", "m", "--min-tokens", "5", "--max-tokens", "4"],
        ["caption", "x.png", "--model", "m", "--sidecar", "txt"],
        ["caption", "x.png", "--model", "m", "--sidecar", ".PNG"],
        ["caption", "x.png", "--model", "m", "--sidecar", "./../x"],
        ["caption", "x.png", "--model", "m", "--output", "captions.txt"],
        ["caption", "x.png", "--model", "m", "--engine", "jax"],
        ["caption", "x.png", "--model", "m", "--dtype", "int8"],
    ],
)
def test_usage_errors(arguments, capsys, no_models):
    err = usage_error(*arguments, capsys=capsys)
    assert err.splitlines()[-1].startswith("blip")
    assert "error: " in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "./nowhere"], "nowhere"),
        (["--engine", "pt", "--device", "nonsense"], "device 'nonsense' does not work in PyTorch"),
        (["--prompt", "word " * 600], "60"),
        (["--max-tokens", "600"], "512"),
    ],
)
def test_errors_are_one_line(models, pictures, capfd, arguments, said):
    if "pt" in arguments:
        require("pt")
    code = main(["caption", "red.png", "--model", str(models / "caption"), *arguments])
    out, err = capfd.readouterr()
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith("blip: error: ")
    assert said in err


def test_a_checkpoint_without_the_head_is_refused(blip, models, pictures):
    code, out, err = blip("caption", "red.png", model=models / "match")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "does not fit this command" in err


def test_a_framework_that_is_missing_is_named(blip, pictures, monkeypatch):
    monkeypatch.setitem(ENGINES, "tf", replace(ENGINES["tf"], package="no_such_package"))
    code, _, err = blip("caption", "red.png", "--engine", "tf")
    assert code == 1
    assert "no_such_package, which is not installed" in err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_out_of_memory(blip, pictures, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(TextWriter, "_generate", fail)
    code, _, err = blip("caption", "red.png")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "--batch-size" in err


def test_a_reader_that_has_seen_enough(models, pictures):
    """`blip ... | head -1` ends without a word."""
    command = [sys.executable, "-m", "blip_core.cli", "caption", *pictures, "--model", str(models / "caption")]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        main(["caption", "--help"])
    assert end.value.code == 0
    assert "--no-repeat-ngram" in capsys.readouterr().out


def test_file_names_of_any_bytes(blip, pictures):
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.png")
    os.rename("red.png", name)
    assert blip("caption", name)[0] == 0
    code, out, _ = blip("caption", name, "--json", "--output", "all.jsonl")
    assert code == 0
    assert objects(out)[0]["image"] == name
    assert blip("caption", name, "--output", "all.jsonl")[2] == "blip: 0 done, 1 done before\n"


def test_progress_is_for_terminals(models, pictures):
    """A bar on a terminal, on standard error; none in a pipe."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-m", "blip_core.cli", "caption", *pictures, "--model", str(models / "caption")]
    done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=theirs)
    assert done.returncode == 0
    os.set_blocking(ours, False)
    shown = b""
    while b"3/3" not in shown:
        shown += os.read(ours, 4096)  # BlockingIOError where nothing more was shown
    assert len(done.stdout.splitlines()) == 3
    piped = subprocess.run(command, env=ENVIRONMENT, capture_output=True)
    assert (piped.returncode, piped.stderr) == (0, b"")
