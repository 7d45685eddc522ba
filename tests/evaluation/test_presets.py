"""Presets of `blip evaluate`: the original's values, and the same predictions of both forms of a checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest

from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTokenizer
from blip_core.cli import main
from blip_core.evaluation.presets import PRESETS, get_preset, loading_options, original_settings
from blip_core.processing.vocabulary import read_vocabulary
from blip_core.tasks import TASKS
from tests.helpers.frameworks import FRAMEWORKS, INSTALLED, original, require
from tests.helpers.published_forms import coco, msrvtt_clips, vqa

EMOJI = Path(__file__).parents[1] / "data" / "emoji"
PICTURES = ("1f98a.png", "1f355.png", "1f697.png", "1f433.png")
# From the original's configuration files and programs, as far as evaluation reads them.
CAPTION = {"image_size": 384, "prompt": "a picture of ", "num_beams": 3, "max_length": 20, "min_length": 5}
ORIGINAL = {
    "coco": {"task": "caption", **CAPTION, "repetition_penalty": 1.0},
    "nocaps": {"task": "caption", **CAPTION, "repetition_penalty": 1.1},
    "coco-retrieval": {"task": "retrieval", "image_size": 384, "rerank": 256, "max_words": 30, "frames": 1},
    "flickr": {"task": "retrieval", "image_size": 384, "rerank": 128, "max_words": 30, "frames": 1},
    "msrvtt": {"task": "retrieval", "image_size": 384, "rerank": 128, "max_words": 40, "frames": 8},
    "vqa-rank": {"task": "vqa", "image_size": 480, "candidates": 128},
    "vqa-generate": {"task": "vqa", "image_size": 480, "num_beams": 3, "max_length": 10, "min_length": 1,
                     "repetition_penalty": 1.0},
    "nlvr": {"task": "nlvr", "image_size": 384},
}  # fmt: skip
PUBLISHED = {
    "coco": ("133.5", "39.9", "132.8", "40.1", "136.7"), "nocaps": ("109.1", "14.7", "109.6", "113.2"),
    "coco-retrieval": ("82.0", "64.5", "82.5", "64.8"), "flickr": ("96.9", "87.5"), "msrvtt": (),
    "vqa-rank": ("78.23", "78.29"), "vqa-generate": (), "nlvr": ("82.48", "83.25"),
}  # fmt: skip
SAME = {  # generation_config.json of a checkpoint must not come through
    "do_sample": False, "length_penalty": 1.0, "no_repeat_ngram_size": 0, "early_stopping": False,
    "max_new_tokens": None, "min_new_tokens": None,
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_is_the_originals(name):
    row = PRESETS[name]
    values = {"task": row.task, "image_size": row.image_size, **row.options}
    assert values == ORIGINAL[name] | (SAME if "num_beams" in ORIGINAL[name] else {})
    assert all(figure in row.figures for figure in PUBLISHED[name])
    assert (row.needs, row.videos) == ("choices" if name == "vqa-rank" else "", name == "msrvtt")
    task = TASKS[row.task]
    assert {"image_to_text": 35, "vqa": 35, "retrieval": 35}.get(row.task) in (None, task.max_length)


def test_help_and_page_state_the_figures(capsys):
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for name, figures in PUBLISHED.items():
        with pytest.raises(SystemExit):
            main(["evaluate", PRESETS[name].task, "--help"])
        told = " ".join(capsys.readouterr().out.split())
        section = page.partition(f"\n### `{name}`")[2].partition("\n### ")[0]
        for text in (*figures, PRESETS[name].checkpoint, PRESETS[name].split):
            assert text in told, (name, text)
            assert text in " ".join(section.split()), (name, text)


def test_what_a_checkpoint_lacks():
    config = BlipConfig()
    assert original_settings(config) == {
        "enc_token_id": 30523,
        "vision_config": {"layer_norm_eps": 1e-6},
        "text_config": {"label_smoothing": 0.1},
    }
    assert original_settings(BlipConfig.base()) == {}
    config.enc_token_id = 7  # a tokenizer of its own
    assert "enc_token_id" not in original_settings(config)
    with pytest.raises(ValueError, match="preset of vqa must be one of vqa-rank, vqa-generate, got 'coco'"):
        get_preset("coco", "vqa")


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """The original's reference models as it leaves them and as Hugging Face's converter does, and data for each."""
    root = tmp_path_factory.mktemp("forms")
    words = [str(number) for number in range(200)]
    words[0], words[100], words[101], words[102], words[103] = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
    words[198:] = ["[DEC]", "[ENC]"]
    (root / "vocab.txt").write_text("\n".join(words) + "\n")
    processor = BlipProcessor(
        BlipImageProcessor(size={"height": 48, "width": 48}), BlipTokenizer(read_vocabulary(root / "vocab.txt"))
    )
    framework = FRAMEWORKS[INSTALLED[0]]
    for task, reference in (("caption", "caption"), ("vqa", "vqa"), ("retrieval", "retrieval"), ("nlvr", "nlvr")):
        model, _ = original(framework, TASKS[task].head, reference)
        for form in ("original", "hugging_face"):
            folder = root / f"{task}_{form}"
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        assert config["enc_token_id"] == 199
        del config["enc_token_id"]
        config["vision_config"]["layer_norm_eps"] = 1e-5
        config["text_config"]["label_smoothing"] = 0.0
        (folder / "config.json").write_text(json.dumps(config))
    texts = ["7 21 33", "8 150", "9 10 11 12 13", "190 3"]
    names = [str(EMOJI / name) for name in PICTURES]
    number = dict(enumerate(names))
    captions = [{"image": name, "image_id": i, "caption": [texts[i], texts[i - 1]]} for i, name in number.items()]
    asked = [
        {"image": name, "question_id": 10 * i + k, "question": text, "answer": texts}
        for i, name in number.items()
        for k, text in enumerate(texts)
    ]
    pairs = [
        {"images": [name, names[i - 1]], "sentence": text, "label": i % 2}
        for i, name in number.items()
        for text in texts
    ]
    for task, entries in {"caption": captions, "retrieval": captions, "vqa": asked, "nlvr": pairs}.items():
        (root / f"{task}.json").write_text(json.dumps(entries))
    (root / "answers.json").write_text(json.dumps([f"{n} {n + 1}" for n in range(3, 190, 5)] + texts))
    return root


def run(forms, task, form, framework, tmp_path, *options):
    arguments = ["--data", str(forms / f"{task}.json"), "--model", str(forms / f"{task}_{form}"), *options]
    assert main(["evaluate", task, "--engine", framework, "--output", str(tmp_path / "all.json"), *arguments]) == 0
    found = json.loads((tmp_path / "all.json").read_text())
    return found["metrics"], found["examples"]


CHECKED = [(name, "pt") for name in ("coco", "nocaps", "coco-retrieval", "flickr", "vqa-rank", "vqa-generate", "nlvr")]
CHECKED += [pytest.param(name, "tf", marks=pytest.mark.slow) for name, _ in CHECKED]


@pytest.mark.parametrize(("name", "framework"), CHECKED)
def test_both_forms_of_a_checkpoint_give_equal_predictions(forms, tmp_path, capfd, framework, name):
    task = PRESETS[name].task
    options = ["--preset", name] + (["--choices", str(forms / "answers.json")] if PRESETS[name].needs else [])
    found = [run(forms, task, form, framework, tmp_path, *options) for form in ("original", "hugging_face")]
    assert found[0] == found[1]
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("blip: as the original")]
    size = PRESETS[name].image_size
    assert told == [
        f"blip: as the original evaluates, --preset {name} gives it pictures of {size} pixels",
        f"blip: as the original evaluates, --preset {name} sets what the checkpoint lacks ([ENC] (token 199), Layer"
        f"Norm eps 1e-06, label smoothing 0.1) and gives it pictures of {size} pixels",
    ]


def test_videos_are_ranked_by_eight_frames(forms, tmp_path, capfd):
    """Text-to-video, in the form of the original's data."""
    require("av")
    path = msrvtt_clips(tmp_path / "msrvtt")
    common = ["evaluate", "retrieval", "--preset", "msrvtt", "--data", str(path), "--engine", INSTALLED[0], "--json"]
    found = []
    for form in ("original", "hugging_face"):
        assert main([*common, "--model", str(forms / f"retrieval_{form}")]) == 0
        found.append(json.loads(capfd.readouterr().out))
    assert found[0]["metrics"] == found[1]["metrics"]
    assert (found[0]["counted"], found[0]["preset"]) == ({"pictures": 3, "texts": 3}, "msrvtt")
    assert 1 <= found[0]["metrics"]["text_to_image_median_rank"] <= 3


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_without_a_preset_the_forms_differ(forms, tmp_path, framework):
    one, other = (run(forms, "nlvr", form, framework, tmp_path)[1] for form in ("original", "hugging_face"))
    apart = [abs(a["probability"] - b["probability"]) for a, b in zip(one, other, strict=True)]
    assert max(apart) > 1e-4


def test_settings_of_the_user_win(forms, tmp_path):
    common = ("caption", "original", INSTALLED[0], tmp_path, "--preset", "coco")
    long = [len(entry["caption"].split()) for entry in run(forms, *common)[1]]
    short = [len(entry["caption"].split()) for entry in run(forms, *common, "--max-tokens", "2", "--beams", "1")[1]]
    assert max(short) <= 2 < max(long)


@pytest.mark.parametrize(
    ("task", "options", "code", "message"),
    [
        ("vqa", ("--preset", "vqa-rank"), 2, "ranks the answers of a list; name it by --choices"),
        ("vqa", ("--preset", "vqa-generate", "--choices", "x.json"), 2, "answers are generated with --preset vqa-gen"),
        ("vqa", ("--preset", "coco"), 2, "invalid choice: 'coco' (choose from"),
        ("retrieval", ("--preset", "msrvtt"), 1, "The preset msrvtt needs videos, and the data name pictures such as"),
        ("caption", ("--preset", "coco", "--predictions", "a.txt"), 2, "--predictions: must end in .json"),
    ],
)
def test_what_a_preset_lacks_is_one_sentence(forms, capfd, task, options, code, message):
    arguments = ["evaluate", task, "--data", str(forms / f"{task}.json"), "--model", "nowhere", *options]
    if code == 2:
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2
    else:
        assert main(arguments) == code
    err = capfd.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_an_export_is_refused(forms, monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    from blip_core.graphs.onnx_runtime import BlipForConditionalGeneration

    with pytest.raises(ValueError, match="An export has its settings and sizes fixed, got image_size=384"):
        BlipForConditionalGeneration.from_pretrained(tmp_path, image_size=384)


def test_a_split_that_was_trained_on_is_said(forms, tmp_path, capfd):
    assert loading_options(PRESETS["coco"], forms / "caption_original") == {"image_size": 384}
    path = vqa(tmp_path / "vqa")
    arguments = ["--data", str(path), "--model", str(forms / "vqa_original"), "--engine", INSTALLED[0]]
    predictions = tmp_path / "answers.json"
    code = main(["evaluate", "vqa", *arguments, "--predictions", str(predictions), "--max-tokens", "3", "--json"])
    out, err = capfd.readouterr()
    assert code == 0
    assert "of splits that the original's checkpoints for vqa were trained with" in err
    assert [row["question_id"] for row in json.loads(predictions.read_text())] == [42000, 73000, 74000]
    metrics = json.loads(out)["metrics"]
    assert metrics.keys() == {"accuracy", "accuracy_other"}
    assert metrics["accuracy"] == metrics["accuracy_other"]


def test_predictions_in_the_official_forms(forms, tmp_path, capfd):
    """Without captions and answers, too."""
    path = coco(tmp_path / "coco")
    value = json.loads(path.read_text())
    del value["annotations"]
    for image, domain in zip(value["images"], ("in-domain", "near-domain", "in-domain"), strict=True):
        image["domain"] = domain
    model = ["--model", str(forms / "caption_original"), "--engine", INSTALLED[0], "--max-tokens", "4", "--json"]
    arguments = ["evaluate", "caption", "--data", str(path), *model, "--predictions", str(tmp_path / "said.json")]
    path.write_text(json.dumps(value))
    assert main(arguments) == 0
    assert json.loads(capfd.readouterr().out)["counted"] == {"pictures": 0, "pictures without labels": 3}
    said = json.loads((tmp_path / "said.json").read_text())
    assert [sorted(row) for row in said] == [["caption", "image_id"]] * 3
    assert [row["image_id"] for row in said] == [42, 73, 74]
    assert main(arguments[:-2]) == 1  # nothing to compare with, and nothing to write
    assert "has no caption to compare with" in capfd.readouterr().err
    value["annotations"] = [{"image_id": image["id"], "caption": "a dog"} for image in value["images"]]
    path.write_text(json.dumps(value))
    assert main(arguments) == 0
    metrics = json.loads(capfd.readouterr().out)["metrics"]
    assert {"cider", "cider_in-domain", "cider_near-domain", "rouge_l_in-domain"} <= metrics.keys()
    names = [{"image": str(path.parents[1] / "val2014" / f"COCO_val2014_{n:012}.jpg")} for n in (42, 74)]
    (tmp_path / "own.json").write_text(json.dumps(names))
    arguments[3] = str(tmp_path / "own.json")
    assert main(arguments) == 0
    assert [row["image_id"] for row in json.loads((tmp_path / "said.json").read_text())] == [42, 74]


def test_ranks_of_retrieval(forms, tmp_path, capfd):
    arguments = ["--data", str(forms / "retrieval.json"), "--model", str(forms / "retrieval_original"), "--rerank", "2"]
    engine = ["--engine", INSTALLED[0], "--predictions", str(tmp_path / "ranks.json"), "--json"]
    assert main(["evaluate", "retrieval", *arguments, *engine]) == 0
    metrics = json.loads(capfd.readouterr().out)["metrics"]
    rows = json.loads((tmp_path / "ranks.json").read_text())
    assert len(rows) == 4 + 8
    assert all(len(row["best"]) == (8 if "text" not in row else 4) for row in rows)
    for way, some in (("image_to_text", rows[:4]), ("text_to_image", rows[4:])):
        ranks = [row["rank"] for row in some]
        assert metrics[f"{way}_median_rank"] == np.median(ranks)
        assert metrics[f"{way}_recall_1"] == np.mean([rank == 1 for rank in ranks])


def test_predictions_need_the_numbers_of_questions(forms, tmp_path, capfd):
    entries = json.loads((forms / "vqa.json").read_text())
    for entry in entries:
        del entry["question_id"]
    (tmp_path / "data.json").write_text(json.dumps(entries))
    arguments = ["--data", str(tmp_path / "data.json"), "--predictions", "a.json", "--model", "nowhere"]
    assert main(["evaluate", "vqa", *arguments]) == 1
    assert "--predictions names answers by their question_id, and data.json:0 has none" in capfd.readouterr().err
