"""`blip evaluate` and its Python calls over tiny random models, in each framework that is installed."""

import json

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTextConfig, BlipTokenizer, BlipVisionConfig
from blip_core.checkpoints.saving import write_pretrained
from blip_core.cli import main
from blip_core.datasets import open_dataset
from blip_core.engines import engine_of, get_engine
from blip_core.evaluation import evaluate_answers, evaluate_captions, evaluate_nlvr, evaluate_retrieval
from blip_core.metrics import caption_scores, recalls
from blip_core.parameters.models import parameters
from blip_core.tasks import get_task
from tests.helpers.frameworks import FRAMEWORKS, INSTALLED

CAPTIONS = [
    ["a red square", "something red", "a square of one colour"],
    ["a green thing"],
    ["blue all over", "the sky without clouds"],
    ["a white picture", "snow in a storm, seen from very near"],
    ["black", "a night without a moon", "coal in a cellar"],
]
COLOURS = ("red", "green", "blue", "white", "black")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model for each task, and data for it: five pictures, and one that is broken."""
    root = tmp_path_factory.mktemp("evaluation")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig.from_text_vision_configs(
        BlipTextConfig(**sizes), BlipVisionConfig.base(**sizes, image_size=32), image_text_hidden_size=8
    )
    config.enc_token_id = 30523
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), BlipTokenizer())
    noise = np.random.default_rng(0)
    for task in ("caption", "vqa", "retrieval", "nlvr"):
        head = get_task(task).head
        rows = parameters(head, config)
        values = {row.name: noise.normal(0, 0.5, row.shape).astype(np.float32) for row in rows}
        write_pretrained(root / task, head, config, rows, lambda row, values=values: values[row.name])
        processor.save_pretrained(root / task)
    for number, colour in enumerate(COLOURS):
        picture = np.asarray(Image.new("RGB", (40, 30), colour)).astype(int) + noise.integers(-60, 60, (30, 40, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / f"{number}.png")
    (root / "bad.png").write_bytes(b"this is no picture")
    pictures = [f"{number}.png" for number in range(5)]
    write(root, "captions", [{"image": name, "caption": texts} for name, texts in zip(pictures, CAPTIONS, strict=True)])
    questions = [("what is it?", ["red"] * 6 + ["blue"] * 4), ("is it one colour", ["yes"] * 10), ("why", ["no idea"])]
    write(
        root,
        "questions",
        [
            {"image": name, "question": question, "question_id": f"{name}/{number}", "answer": answers}
            for name in pictures
            for number, (question, answers) in enumerate(questions)
        ],
    )
    write(
        root,
        "pairs",
        [
            {"images": [pictures[i], pictures[j]], "sentence": f"the {COLOURS[i]} one is left", "label": label}
            for i, j, label in ((0, 1, "True"), (1, 2, "False"), (3, 4, "True"), (4, 0, "False"))
        ],
    )
    return root


def write(root, name, entries):
    (root / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
    return root / f"{name}.json"


def load(folder, task, framework):
    model = get_engine(framework).model_class(get_task(task).head).from_pretrained(folder / task)
    return model, BlipProcessor.from_pretrained(folder / task)


@pytest.fixture
def evaluate(folder, capfd, monkeypatch, tmp_path):
    """Run `blip evaluate` in an empty folder; returns the exit code, the result, and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(task, data, *arguments, model=None):
        code = main(["evaluate", task, "--data", str(data), "--model", str(model or folder / task), *arguments])
        out, err = capfd.readouterr()
        return code, json.loads(out) if "--json" in arguments else out, err

    return run


@pytest.mark.parametrize(
    ("task", "data", "options"),
    [
        ("caption", "captions", ("--prompt", "a picture of", "--max-tokens", "4")),
        ("vqa", "questions", ("--beams", "2", "--max-tokens", "4")),
        ("vqa", "questions", ("--choices", "choices.txt", "--candidates", "3")),
        ("retrieval", "captions", ("--rerank", "2")),
        ("nlvr", "pairs", ()),
    ],
)
def test_frameworks_and_batches_agree(folder, evaluate, tmp_path, task, data, options):
    (tmp_path / "choices.txt").write_text("red\nblue\nyes\nno idea\n\n", encoding="utf-8")
    results = []
    for framework, size in [(INSTALLED[0], "2"), *((framework, "5") for framework in INSTALLED)]:
        common = ("--engine", framework, "--batch-size", size, "--output", "all.json", "--json")
        code, result, err = evaluate(task, folder / f"{data}.json", *options, *common)
        assert (code, err) == (0, "")
        stored = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
        assert stored["metrics"] == result["metrics"]
        results.append((result["counted"], stored["examples"], result["metrics"]))
    for counted, entries, metrics in results[1:]:
        assert counted == results[0][0]
        assert metrics == pytest.approx(results[0][2], abs=1e-6)
        for entry, first in zip(entries, results[0][1], strict=True):
            assert [v for v in entry.values() if not isinstance(v, float)] == [
                v for v in first.values() if not isinstance(v, float)
            ]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_captions_are_scored_without_the_prompt(folder, tmp_path, monkeypatch, framework):
    model, processor = load(folder, "caption", framework)
    dataset = open_dataset(folder / "captions.json", "caption")
    options = {"prompt": "a picture of", "max_new_tokens": 5, "min_new_tokens": 5}
    said = [entry["caption"] for entry in evaluate_captions(model, processor, dataset, **options).entries]
    assert len(set(said)) > 1
    assert not any(caption.startswith("a picture of") for caption in said)
    asked = model.generation_config.updated(prompt_ids=processor.tokenizer("a picture of")["input_ids"][1:-1])
    monkeypatch.setattr(model, "generation_config", asked)
    length = {"max_new_tokens": 5, "min_new_tokens": 5}
    assert [entry["caption"] for entry in evaluate_captions(model, processor, dataset, **length).entries] == said
    references = [[said[0]], [said[1], "something else"], ["far from it"], [said[3]], ["nothing like it"]]
    entries = [{"image": f"{i}.png", "caption": text} for i, texts in enumerate(references) for text in texts]
    dataset = open_dataset(write(tmp_path, "own", entries), "caption", image_root=folder)
    result = evaluate_captions(model, processor, dataset, **options)
    scores = caption_scores(said, references)
    assert result.counted == {"pictures": 5}
    assert result.metrics["cider"] == scores.cider > 1
    assert result.metrics["bleu_4"] == scores.bleu[3] > 0.1


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_answers_are_compared_with_those_of_ten_people(folder, framework):
    model, processor = load(folder, "vqa", framework)
    dataset = open_dataset(folder / "questions.json", "vqa")
    result = evaluate_answers(model, processor, dataset, choices=["red"])
    assert [entry["accuracy"] for entry in result.entries[:3]] == [1.0, 0.0, 0.0]
    assert result.metrics == {"accuracy": pytest.approx(1 / 3)}
    assert evaluate_answers(model, processor, dataset, choices=["no idea"]).entries[2]["accuracy"] == 1.0


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_retrieval_is_what_all_pairs_give(folder, framework):
    """ITC of all with all, ITM of the candidates pair by pair, as the original does it."""
    model, processor = load(folder, "retrieval", framework)
    texts = [text for group in CAPTIONS for text in group]
    owners = [number for number, group in enumerate(CAPTIONS) for _ in group]
    pixels = processor(images=[str(folder / f"{i}.png") for i in range(5)], return_tensors="np")["pixel_values"]
    tokens = {k: engine_of(model).to_tensor(v, model) for k, v in processor(text=texts, return_tensors="np").items()}
    itc = engine_of(model).to_numpy(
        model(pixel_values=engine_of(model).to_tensor(pixels, model), **tokens, use_itm_head=False).itm_score
    )
    itm = np.stack(
        [
            engine_of(model).to_numpy(
                model(pixel_values=engine_of(model).to_tensor(pixels[i : i + 1], model), **tokens).itm_score
            )[:, 1]
            for i in range(5)
        ]
    )
    right_texts = [{j for j, owner in enumerate(owners) if owner == i} for i in range(5)]
    dataset = open_dataset(folder / "captions.json", "retrieval")
    for k in (0, 3, 100):
        result = evaluate_retrieval(model, processor, dataset, rerank=k, batch_size=2)
        for way, scores, right in (
            ("image_to_text", (itc, itm), right_texts),
            ("text_to_image", (itc.T, itm.T), [{owner} for owner in owners]),
        ):
            score = np.where(np.argsort(np.argsort(-scores[0], axis=1), axis=1) < k, scores[1] + 100, 0) + scores[0]
            expected = recalls(np.argsort(-score, axis=1).tolist(), right)
            assert {n: result.metrics[f"{way}_recall_{n}"] for n in (1, 5, 10)} == pytest.approx(expected), (way, k)
        assert result.counted == {"pictures": 5, "texts": 11}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_nlvr_counts_right_judgements(folder, framework):
    model, processor = load(folder, "nlvr", framework)
    result = evaluate_nlvr(model, processor, open_dataset(folder / "pairs.json", "nlvr"))
    assert [entry["judged"] for entry in result.entries] == [int(e["probability"] > 0.5) for e in result.entries]
    assert result.metrics["accuracy"] == np.mean([entry["judged"] == entry["label"] for entry in result.entries])


def test_what_cannot_be_evaluated_is_left_out_and_said(folder, evaluate):
    entries = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    entries += [{"image": "bad.png", "caption": "broken"}, {"image": "0.png", "caption": 7}]
    entries += [{"image": "missing.png", "caption": "gone"}]
    data = write(folder, "worse", entries)
    for task, options in (("caption", ("--max-tokens", "2")), ("retrieval", ("--rerank", "2"))):
        code, result, err = evaluate(task, data, "--json", *options)
        assert code == 1
        assert (result["counted"]["pictures"], result["left_out"]) == (5, 3)
        assert [line.split(":")[2] for line in err.splitlines() if line.startswith("blip: worse")] == ["6", "7", "5"]
        clean = evaluate(task, folder / "captions.json", "--json", *options)[1]
        assert result["metrics"] == clean["metrics"]


@pytest.mark.needs("pt")
def test_a_training_model_evaluates_and_trains_on(folder):
    model, processor = load(folder, "nlvr", "pt")
    dataset = open_dataset(folder / "pairs.json", "nlvr")
    expected = evaluate_nlvr(model, processor, dataset).entries
    assert evaluate_nlvr(model.train(), processor, dataset).entries == expected
    assert model.training


def test_plain_output(folder, evaluate):
    code, out, _ = evaluate("nlvr", folder / "pairs.json")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "nlvr over 4 sentences"
    assert lines[1].split()[0] == "accuracy"


@pytest.mark.parametrize(
    ("task", "entries", "options", "message"),
    [
        ("caption", [], (), "No example"),
        ("caption", [{"image": "0.png"}], (), "has no caption"),
        ("vqa", [{"image": "0.png", "question": "what"}], (), "has no answer"),
        ("nlvr", [{"images": ["0.png", "1.png"], "sentence": "what"}], (), "has no label"),
        ("caption", [{"image": "bad.png", "caption": "broken"}], (), "Not one picture can be read"),
        ("vqa", None, ("--choices", "empty.txt"), "no answers to choose from"),
        ("vqa", None, ("--choices", "numbers.json"), "must hold texts alone"),
        ("vqa", None, ("--choices", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_bad_input_is_one_sentence(folder, evaluate, tmp_path, task, entries, options, message):
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    (tmp_path / "numbers.json").write_text('["one", 2]', encoding="utf-8")
    data = folder / "questions.json" if entries is None else write(folder, "bad", entries)
    code, out, err = evaluate(task, data, *options)
    assert (code, out) == (1, "")
    assert err.startswith("blip: error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_another_head_is_refused(folder, evaluate):
    code, _, err = evaluate("vqa", folder / "questions.json", model=folder / "caption")
    assert code == 1
    assert "does not fit this command" in err
    model, processor = load(folder, "caption", INSTALLED[0])
    with pytest.raises(ValueError, match="needs a BlipForNLVR"):
        evaluate_nlvr(model, processor, open_dataset(folder / "pairs.json", "nlvr"))
    with pytest.raises(ValueError, match="opened for vqa, not for caption"):
        evaluate_captions(model, processor, open_dataset(folder / "questions.json", "vqa"))


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("vqa", ("--candidates", "3"), "needs --choices"),
        ("vqa", ("--choices", "a.txt", "--beams", "3"), "not generated with --choices"),
        ("caption", ("--output", "all.csv"), "must end in .json"),
        ("retrieval", ("--beams", "3"), "there is no option --beams"),
    ],
)
def test_options_that_do_not_go_together(folder, evaluate, capfd, task, options, message):
    with pytest.raises(SystemExit) as error:
        evaluate(task, folder / "captions.json", *options)
    assert error.value.code == 2
    assert message in capfd.readouterr().err
