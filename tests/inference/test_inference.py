"""Captioner, Answerer, Matcher, Classifier and Explainer, in each engine that is installed."""

import importlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blip_core
from blip_core import Answerer, Captioner, Classifier, Explainer, Matcher
from blip_core.jobs import read_ahead
from tests.helpers.frameworks import INSTALLED

KINDS = {Captioner: "caption", Answerer: "answer", Matcher: "match", Classifier: "match", Explainer: "match"}
CALLS = {
    Captioner: {"max_new_tokens": 5},
    Answerer: {"questions": "what is it?", "max_new_tokens": 5},
    Matcher: {"texts": ["a dog", "two red cats"]},
    Classifier: {"labels": ["dog", "cat", "red car"]},
    Explainer: {"text": "a red dog"},
}
kinds = pytest.mark.parametrize("kind", KINDS)
engines = pytest.mark.parametrize("engine", INSTALLED)


@pytest.fixture(scope="module")
def load(checkpoints):
    loaded = {}

    def load(kind, engine):
        if (kind, engine) not in loaded:
            loaded[kind, engine] = kind.from_pretrained(checkpoints / KINDS[kind], engine=engine, device="cpu")
        return loaded[kind, engine]

    return load


def close(one, other):
    """Equal but for the last digits of numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(close, one, other))
    return one == pytest.approx(other, abs=2e-5) if isinstance(one, float) else one == other


@engines
@kinds
def test_many_pictures_come_in_order_with_what_is_wrong(load, pictures, kind, engine):
    use = load(kind, engine)
    for size in (1, 2, 8):
        results = use(iter(pictures), **CALLS[kind], batch_size=size)
        assert iter(results) is results
        found = [result.to_dict() for result in results]
        assert [entry["image"] for entry in found] == pictures
        assert [sorted(entry) for entry in found if "error" in entry] == [["error", "image"]]
        assert "bad.png is not a picture" in found[1]["error"]
        for path, entry in zip(pictures, found, strict=True):
            json.dumps(entry)
            if "error" not in entry:
                assert close(use(path, **CALLS[kind]).to_dict(), entry)


@engines
@pytest.mark.parametrize("kind", [Captioner, Answerer])
def test_hooks_and_configurations_of_generation(load, pictures, kind, engine):
    use, seen = load(kind, engine), []
    hooks = {"logits_processor": [lambda ids, scores: seen.append(ids.shape[1]) or scores]}
    assert use(pictures[0], **CALLS[kind], **hooks).text == use(pictures[0], **CALLS[kind]).text
    assert 1 <= len(seen) <= 5
    options = {**CALLS[kind], "generation_config": {"max_new_tokens": 1}}
    del options["max_new_tokens"]
    assert len(use(pictures[0], **options).tokens) == 1
    with pytest.raises(ValueError, match="streamer must have the methods put and end"):
        use(pictures[0], **CALLS[kind], streamer=print)


@pytest.mark.skipif(len(INSTALLED) < 2, reason="needs two engines")
@kinds
def test_engines_agree_in_results_and_identity(load, pictures, kind):
    one, *others = (load(kind, engine) for engine in INSTALLED)
    for other in others:
        assert other.identity == one.identity
        assert len(one.identity) == 32
        for path in (pictures[0], pictures[3]):
            assert close(one(path, **CALLS[kind]).to_dict(), other(path, **CALLS[kind]).to_dict())


@kinds
def test_pictures_in_other_forms(load, pictures, kind):
    use, path = load(kind, INSTALLED[0]), pictures[0]
    expected = use(path, **CALLS[kind]).to_dict()
    with Image.open(path) as image:
        forms = [Path(path), Path(path).read_bytes(), io.BytesIO(Path(path).read_bytes()), image, np.asarray(image)]
        for form in forms:
            assert close(use(form, **CALLS[kind]).to_dict() | {"image": path}, expected)
    assert len(list(use(np.stack([np.asarray(Image.open(path))] * 2), **CALLS[kind]))) == 2


@kinds
def test_one_picture_that_cannot_be_read_raises(load, pictures, kind):
    with pytest.raises(OSError, match="not a picture"):
        load(kind, INSTALLED[0])(pictures[1], **CALLS[kind])


@engines
@kinds
def test_a_model_of_another_head_is_refused(load, kind, engine):
    other = Captioner if KINDS[kind] != "caption" else Answerer
    model = load(other, engine).model
    with pytest.raises(ValueError, match=f"{kind.__name__} needs a {kind.head}, got {type(model).__name__}"):
        kind(model, load(other, engine).processor)


@engines
@pytest.mark.parametrize(
    ("kind", "stored", "said"),
    [
        (Captioner, "answer", "holds a BlipForQuestionAnswering; use Answerer (blip answer)"),
        (Captioner, "match", "holds a BlipForImageTextRetrieval; use Matcher"),
        (Answerer, "caption", "use Captioner (blip caption)"),
        (Answerer, "pretrain", "holds a BlipForPreTraining"),
        (Matcher, "answer", "use Answerer"),
        (Explainer, "caption", "does not fit a Explainer"),
    ],
)
def test_a_checkpoint_of_another_head_is_refused(checkpoints, tmp_path, engine, kind, stored, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        kind.from_pretrained(checkpoints / stored, engine=engine)
    config = json.loads((checkpoints / stored / "config.json").read_text())
    shutil.copytree(checkpoints / stored, tmp_path / "unnamed")  # by its tensors alone
    (tmp_path / "unnamed" / "config.json").write_text(json.dumps({**config, "architectures": None}))
    with pytest.raises(ValueError, match=re.escape(said)):
        kind.from_pretrained(tmp_path / "unnamed", engine=engine)


@pytest.mark.parametrize("kind", [Captioner, Matcher])
def test_a_head_is_cut_out_of_a_pre_trained_model(checkpoints, pictures, kind):
    use = kind.from_pretrained(checkpoints / "pretrain")
    assert use(pictures[0], **CALLS[kind]).error is None


def test_errors_come_before_pictures_are_read(load, pictures, monkeypatch):
    monkeypatch.setattr(read_ahead, "_attempt", lambda read, item: pytest.fail("a picture was read"))
    one = INSTALLED[0]
    for kind, given in (
        (Captioner, {"num_beams": 0}),
        (Captioner, {"no_such_option": 1}),
        (Captioner, {"batch_size": 0}),
        (Answerer, {"questions": []}),
        (Answerer, {"questions": ["why", " "]}),
        (Answerer, {"questions": "why", "num_beams": 0}),
        (Matcher, {"texts": []}),
        (Classifier, {"labels": []}),
        (Classifier, {"labels": ["a"], "templates": ["no place"]}),
        (Classifier, {"labels": ["a"], "top": 0}),
        (Explainer, {"text": "..."}),
        (Explainer, {"text": "a dog", "layer": 2}),
        (Explainer, {"text": "a dog", "layer": 1}),
        (Explainer, {"text": "a dog", "method": "guess"}),
    ):
        with pytest.raises((ValueError, TypeError)):
            load(kind, one)(pictures, **given)


@engines
def test_captions_of_the_models_generate(load, pictures, engine):
    captioner = load(Captioner, engine)
    pixels = captioner.engine.to_tensor(captioner.read(pictures[0])[None], captioner.model)
    tokens = captioner.model.generate(pixel_values=pixels, max_new_tokens=6, num_beams=3)
    expected = captioner.processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    found = captioner(pictures[0], max_new_tokens=6, num_beams=3)
    assert found.text == expected
    assert found.log_prob == pytest.approx(sum(found.token_log_probs))
    assert found.confidence == pytest.approx(np.exp(found.log_prob / len(found.tokens)))
    best, *others = captioner(pictures[0], max_new_tokens=6, num_beams=3, num_return_sequences=3).others, 1
    assert len(best) == 2
    assert others


@engines
def test_prompts(load, pictures, engine):
    captioner = load(Captioner, engine)
    plain = captioner(pictures[0], max_new_tokens=4)
    given = captioner(pictures[0], prompt="a picture of", max_new_tokens=4)
    cut = captioner(pictures[0], prompt="a picture of", keep_prompt=False, max_new_tokens=4)
    assert given.text == f"a picture of {cut.text}"
    assert given.log_prob == cut.log_prob
    captioner.model.generation_config.prompt_ids = captioner.processor.tokenizer(
        "a picture of", add_special_tokens=False
    )["input_ids"]
    try:
        assert captioner(pictures[0], max_new_tokens=4).to_dict() == cut.to_dict()
        assert captioner(pictures[0], prompt="", max_new_tokens=4).text == plain.text
    finally:
        captioner.model.generation_config.prompt_ids = None


@engines
def test_samples_follow_from_seeds(load, pictures, engine):
    captioner, how = load(Captioner, engine), {"do_sample": True, "max_new_tokens": 6}
    one, other = (captioner(pictures[0], **how, seed=seed).text for seed in (1, 2))
    assert one != other
    assert [found.text for found in captioner([pictures[0]] * 2, **how, seed=2)] == [other] * 2


@engines
def test_questions_in_batches(load, pictures, engine):
    answerer, questions = load(Answerer, engine), ["what?", "who is on the left of it?", "why"]
    alone = [answerer(pictures[0], question, max_new_tokens=5).to_dict() for question in questions]
    for size in (1, 2, 5):
        found = answerer(pictures[0], questions, batch_size=size, max_new_tokens=5)
        assert close([one.to_dict() for one in found], alone)
    many = list(answerer(pictures, questions, max_new_tokens=5))
    assert close([one.to_dict() for one in many[0]], alone)
    assert [one.question for one in many[1]] == questions
    assert all(isinstance(one.error, OSError) for one in many[1])


@engines
def test_choices(load, pictures, engine):
    answerer, choices = load(Answerer, engine), ["a dog", "two cats", "red"]
    with pytest.warns(UserWarning, match="'RED' is left out"):
        found = answerer.choose(pictures[0], "what?", [*choices, "RED"])
    assert found.text == found.choices[0]["answer"]
    assert {one["answer"] for one in found.choices} == set(choices)
    assert sum(one["probability"] for one in found.choices) == pytest.approx(1)
    log_probs = np.array([one["log_prob"] for one in found.choices])
    shares = np.exp(log_probs) / np.exp(log_probs).sum()
    assert [one["probability"] for one in found.choices] == pytest.approx(shares.tolist())
    assert np.all(np.diff(log_probs) <= 0)
    for bad, said in (([], "choices"), (["a", "..."], None), (["a", "\u200b"], "no letter that the model reads")):
        if said:
            with pytest.raises(ValueError, match=said):
                answerer.choose(pictures[0], "what?", bad)


@engines
def test_matches_are_those_of_the_model(load, pictures, engine):
    matcher, texts = load(Matcher, engine), ["a dog", "two red cats on a wall", "grey"]
    tokens = matcher.processor(text=texts, padding=True, return_tensors="np")
    inputs = {name: matcher.engine.to_tensor(tokens[name], matcher.model) for name in ("input_ids", "attention_mask")}
    pixels = matcher.engine.to_tensor(matcher.read(pictures[0])[None], matcher.model)
    logits = matcher.engine.to_numpy(matcher.model(pixel_values=pixels, **inputs).itm_score)
    itc = matcher.engine.to_numpy(matcher.model(pixel_values=pixels, **inputs, use_itm_head=False).itm_score)[0]
    for size in (1, 2, 8):
        found = matcher(pictures[0], texts, batch_size=size)
        np.testing.assert_allclose(found.itm, 1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), atol=1e-5)
        np.testing.assert_allclose(found.itc, itc, atol=1e-5)
    features = matcher.image_features([pictures[0], pictures[2]])
    np.testing.assert_allclose(features[0] @ matcher.text_features(texts).T, itc, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    assert matcher.image_features([]).shape == (0, matcher.width)
    with pytest.raises(OSError, match="not a picture"):
        matcher.image_features(pictures)


@engines
def test_labels(load, pictures, engine):
    classifier, labels = load(Classifier, engine), ["dog", "cat", "red car"]
    found = classifier(pictures[0], labels)
    assert sorted(found.labels) == sorted(labels)
    assert found.probabilities.sum() == pytest.approx(1)
    assert found.label == found.labels[0]
    some = classifier(pictures[0], labels, top=2, itm=True)
    assert set(some.labels) == set(found.labels[:2])
    matched = Matcher(classifier.model, classifier.processor)(pictures[0], [f"a picture of {x}" for x in some.labels])
    np.testing.assert_allclose(some.itm, matched.itm, atol=1e-6)
    assert np.all(np.diff(some.itm) <= 0)


def test_explanations_can_be_drawn(load, pictures):
    found = load(Explainer, INSTALLED[0])(pictures[0], "a red dog")
    assert found.words == ("a", "red", "dog")
    assert found.maps.shape == (3, 2, 2)
    drawn = io.BytesIO()
    found.draw().save(drawn, "PNG")
    with pytest.raises(ValueError, match="must be uint8"):
        load(Explainer, INSTALLED[0])(np.zeros((3, 40, 30), np.float32), "a dog")


def test_names_are_imported_when_they_are_used():
    for name in ("Captioner", "Answerer", "Matcher", "Classifier", "Explainer"):
        assert name in blip_core.__all__
        assert getattr(blip_core, name) is getattr(importlib.import_module("blip_core.inference"), name)
