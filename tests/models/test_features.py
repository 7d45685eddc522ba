"""Features of pictures, of texts and of both, and zero-shot classification by them, in both frameworks."""

from __future__ import annotations

import numpy as np
import pytest

from blip_core import label_texts
from tests.helpers.contrastive_models import pairs, tiny
from tests.helpers.frameworks import FRAMEWORKS, original
from tests.helpers.random_models import CONFIGS_OF, difference, numpy

HEAD = "BlipForImageTextRetrieval"


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return FRAMEWORKS[request.param]


def batch():
    values = pairs("", 3)
    return {name: values[name] for name in ("pixel_values", "input_ids", "attention_mask")}


def texts_of(values):
    return {name: values[name] for name in ("input_ids", "attention_mask")}


def test_features_as_the_original(framework):
    model, reference = original(framework, HEAD, "itm")
    model.config.enc_token_id = None  # the original's inference leaves [CLS] in place
    pictures = {"pixel_values": reference["pixel_values"]}
    texts = {name: reference[name] for name in ("input_ids", "attention_mask")}
    image = framework.ask(model.extract_features, pictures | {"mode": "image"})
    text = framework.ask(model.extract_features, texts | {"mode": "text"})
    similarity = numpy(image.image_embeds_proj)[:, 0] @ numpy(text.text_embeds_proj)[:, 0].T
    assert difference(reference["itc_similarity"], similarity) < 1e-5
    grounded = framework.ask(model.get_multimodal_features, pictures | texts)
    assert difference(reference["itm_logits"], model.itm_head(grounded)) < 1e-5


def test_shapes_and_relations_of_features(framework):
    model, values = tiny(framework, HEAD), batch()
    model = model if framework is FRAMEWORKS["tf"] else model.eval()
    pictures, texts = {"pixel_values": values["pixel_values"]}, texts_of(values)
    image = framework.ask(model.extract_features, pictures | {"mode": "image"})
    text = framework.ask(model.extract_features, texts | {"mode": "text"})
    grounded = framework.ask(model.extract_features, values)
    assert (image.keys(), text.keys(), grounded.keys()) == (
        ("image_embeds", "image_embeds_proj"), ("text_embeds", "text_embeds_proj"), ("multimodal_embeds",)
    )  # fmt: skip
    shapes = {name: tuple(value.shape) for name, value in (*image.items(), *text.items(), *grounded.items())}
    assert shapes == {
        "image_embeds": (3, 17, 24),
        "image_embeds_proj": (3, 17, 16),
        "text_embeds": (3, 7, 32),
        "text_embeds_proj": (3, 7, 16),
        "multimodal_embeds": (3, 7, 32),
    }
    for features in (image.image_embeds_proj, text.text_embeds_proj):
        assert np.allclose(np.linalg.norm(numpy(features), axis=-1), 1, atol=1e-6)
    one = framework.ask(model.get_image_features, pictures)
    assert difference(one, numpy(image.image_embeds_proj)[:, 0]) < 1e-6
    assert difference(framework.ask(model.get_text_features, texts), numpy(text.text_embeds_proj)[:, 0]) < 1e-6
    again = framework.ask(model.extract_features, {"image_embeds": image.image_embeds, **texts})
    assert difference(grounded.multimodal_embeds, again.multimodal_embeds) < 1e-6
    score = framework.run(model, values).itm_score
    assert difference(score, model.itm_head(framework.ask(model.get_multimodal_features, values))) < 1e-6


def test_features_are_the_same_alone_and_padded(framework):
    model, values = tiny(framework, HEAD), batch()
    model = model if framework is FRAMEWORKS["tf"] else model.eval()
    together = framework.ask(model.extract_features, values).multimodal_embeds
    plain = framework.ask(model.extract_features, texts_of(values) | {"mode": "text"}).text_embeds
    for i, length in enumerate(values["attention_mask"].sum(axis=1)):
        alone = {
            "pixel_values": values["pixel_values"][i : i + 1],
            "input_ids": values["input_ids"][i : i + 1, :length],
        }
        found = framework.ask(model.extract_features, alone).multimodal_embeds
        assert difference(found, numpy(together)[i : i + 1, :length]) < 1e-5
        found = framework.ask(model.extract_features, {"input_ids": alone["input_ids"], "mode": "text"}).text_embeds
        assert difference(found, numpy(plain)[i : i + 1, :length]) < 1e-5


def test_grounded_texts_begin_with_enc(framework):
    model, values = tiny(framework, HEAD), batch()
    model = model if framework is FRAMEWORKS["tf"] else model.eval()
    expected = numpy(framework.ask(model.extract_features, values).multimodal_embeds)
    values["input_ids"] = np.concatenate([np.full((3, 1), 89), values["input_ids"][:, 1:]], axis=1)
    assert model.config.enc_token_id == 89
    model.config.enc_token_id = None
    assert difference(expected, framework.ask(model.extract_features, values).multimodal_embeds) < 1e-6
    values["input_ids"][:, 0] = 88
    assert difference(expected, framework.ask(model.extract_features, values).multimodal_embeds) > 1e-3


def test_features_are_the_same_in_both_frameworks():
    pt, tf = (tiny(framework, HEAD) for framework in FRAMEWORKS.values())
    pt.eval()
    for mode in ("image", "text", "multimodal"):
        values = batch() | {"mode": mode}
        one, other = (FRAMEWORKS[n].ask(m.extract_features, values) for n, m in (("pt", pt), ("tf", tf)))
        assert one.keys() == other.keys()
        assert all(difference(one[name], other[name]) < 1e-5 for name in one)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "both"}, "mode must be 'image', 'text' or 'multimodal', got 'both'"),
        ({"pixel_values": None}, "Give either pixel_values or image_embeds"),
        ({"input_ids": None}, "Give the texts as input_ids"),
        ({"mode": "text", "input_ids": None}, "Give the texts as input_ids"),
        ({"pixel_values": batch()["pixel_values"][:2]}, "2 pictures do not go with 3 texts"),
    ],
)
def test_features_of_nothing(framework, values, message):
    with pytest.raises(ValueError, match=message):
        framework.ask(tiny(framework, HEAD).extract_features, batch() | values)


# classification -----------------------------------------------------------------------------------------------------


def test_label_texts():
    assert label_texts(["dog", "{cat}"], ["a {}", "two {}s"]) == ["a dog", "two dogs", "a {cat}", "two {cat}s"]
    assert label_texts(["dog"]) == ["a picture of dog"]


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ([], ["{}"], "labels must be a text or a list of them"),
        ("dog", ["{}"], "labels must be a text or a list of them"),
        (["dog", 3], ["{}"], r"labels\[1\] must be a text"),
        (["dog", " "], ["{}"], "Label 1 is empty; leave it out"),
        (["dog", "cat", "dog"], ["{}"], "Labels 0 and 2 are the same, 'dog'"),
        (["dog"], [], "templates must be a text or a list of them"),
        (["dog"], ["{}", "a photo"], "needs one {} where the label goes, got 'a photo'"),
        (["dog"], ["{} and {}"], "needs one {}"),
    ],
)
def test_bad_labels_and_templates(labels, templates, message):
    with pytest.raises(ValueError, match=message):
        label_texts(labels, templates)


def test_classify(framework):
    model, values = tiny(framework, HEAD), batch()
    model = model if framework is FRAMEWORKS["tf"] else model.eval()
    labels = {name: np.concatenate([value, value[::-1]]) for name, value in texts_of(values).items()}  # 3 x 2 texts
    features = framework.ask(model.get_label_features, labels | {"templates": 2})
    texts = numpy(framework.ask(model.get_text_features, labels)).reshape(3, 2, -1).mean(axis=1)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    assert difference(texts, features) < 1e-6
    pictures = numpy(framework.ask(model.get_image_features, {"pixel_values": values["pixel_values"]}))
    (model.temp.data.fill_ if framework is FRAMEWORKS["pt"] else model.temp.assign)(0.2)
    for given, used in ((None, 0.2), (0.5, 0.5)):
        weights = np.exp(pictures @ texts.T / used)
        found = framework.ask(
            model.classify, {"pixel_values": values["pixel_values"], "label_features": features, "temperature": given}
        )
        assert difference(weights / weights.sum(axis=1, keepdims=True), found) < 1e-5


def test_the_temperature_without_a_learned_one(framework):
    model, values = framework.of(HEAD)(CONFIGS_OF["wide"]), batch()
    features = framework.ask(model.get_label_features, texts_of(values))
    given = {"pixel_values": values["pixel_values"], "label_features": features}
    plain = framework.ask(model.classify, given)
    assert difference(framework.ask(model.classify, given | {"temperature": 0.07}), plain) < 1e-6


def test_what_cannot_be_classified(framework):
    model, values = tiny(framework, HEAD), batch()
    with pytest.raises(ValueError, match="3 texts do not go with 2 templates of each label"):
        framework.ask(model.get_label_features, texts_of(values) | {"templates": 2})
    for given, message in (
        ({}, "Give label_features to classify by"),
        ({"label_features": np.ones((3, 9), np.float32)}, r"label_features must be of shape \(labels, 16\), got"),
        ({"label_features": np.ones((3, 16), np.float32), "temperature": 0.0}, "temperature must be above 0, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            framework.ask(model.classify, {"pixel_values": values["pixel_values"]} | given)
