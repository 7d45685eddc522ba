"""Texts are what they are wherever their padding is: every head, its losses and its methods, in both frameworks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tests.helpers.contrastive_models import pairs, tiny
from tests.helpers.frameworks import FRAMEWORKS
from tests.helpers.random_models import CONFIGS_OF, HEADS, difference, head_config, inputs, numpy, randomized

WITH_TEXT = [head for head in HEADS if head != "BlipVisionModel"]
CONFIG = CONFIGS_OF["wide"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same random model of each head in a framework, made when it is first asked for."""
    import torch

    import blip_pt

    made = {}

    def model(framework, head, config=CONFIG):
        if (framework, head) not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                folder = tmp_path_factory.getbasetemp() / f"padding-{head}"
                if not folder.exists():
                    torch.manual_seed(1)
                    randomized(getattr(blip_pt, head)(head_config(head, config))).save_pretrained(folder)
                made[framework, head] = framework.of(head).from_pretrained(folder)
        return made[framework, head]

    return model


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return FRAMEWORKS[request.param]


def moved(values, left, right=0):
    """The inputs with `left` columns more, texts ending `right` columns before the last."""
    mask = values["attention_mask"]
    size, places = mask.shape[1] + left, {}
    for name in ("input_ids", "attention_mask", "labels", "decoder_input_ids", "decoder_attention_mask"):
        if name not in values or values[name].ndim != 2:
            continue
        filler = -100 if name == "labels" else 0
        array = np.full((len(mask), size), filler, np.int64)
        for row, old, real in zip(array, values[name], mask, strict=True):
            count = int(real.sum())
            row[size - right - count : size - right] = old[:count]
        places[name] = array
    return values | places


def tokens(array, mask):
    """The states of real tokens, text by text."""
    return np.concatenate([row[real == 1] for row, real in zip(numpy(array), mask, strict=True)])


def same(head, expected, found, before, after):
    """Both outputs agree in all that does not stand at padding."""
    compared = 0
    for name, value in expected.items():
        if value is None or name.startswith(("vision", "hidden", "attentions", "text_model")):
            continue
        one, other = numpy(value), numpy(found[name])
        of_texts = one.ndim == 3 and one.shape[1] == before["input_ids"].shape[1]
        if of_texts:
            one, other = tokens(one, before["attention_mask"]), tokens(other, after["attention_mask"])
        assert difference(one, other) < 2e-6, (head, name)
        compared += 1
    assert compared


@pytest.mark.parametrize("head", WITH_TEXT)
def test_heads_give_the_same_for_any_padding(framework, models, head):
    model, values = models(framework, head), inputs(head, CONFIG)
    expected = framework.run(model, values)
    for left, right in ((4, 0), (5, 2)):
        other = moved(values, left, right)
        found = framework.run(model, other)
        same(head, expected, found, values, other)
        assert (found.get("loss") is None) == ("labels" not in values and head != "BlipForPreTraining")


@pytest.mark.parametrize("head", ["BlipTextModel", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"])
def test_gaps_count_for_nothing(framework, models, head):
    """A mask with 0 between real tokens reads the text without them."""
    model, values = models(framework, head), inputs(head, CONFIG)
    values.pop("labels", None)
    if head == "BlipForQuestionAnswering":
        values["decoder_input_ids"] = values["input_ids"]
    wide = {name: np.insert(values[name], 2, 0, axis=1) for name in ("input_ids", "attention_mask")}
    expected, found = (framework.run(model, given) for given in (values, values | wide))
    name = {"BlipTextModel": "pooler_output", "BlipForQuestionAnswering": "logits"}.get(head, "itm_score")
    assert difference(expected[name], found[name]) < 2e-6


def test_similarities_and_features(framework, models):
    model, values = models(framework, "BlipForImageTextRetrieval"), inputs("BlipForImageTextRetrieval", CONFIG)
    other = moved(values, 3)
    texts = ("input_ids", "attention_mask")
    expected, found = (framework.run(model, given | {"use_itm_head": False}).itm_score for given in (values, other))
    assert difference(expected, found) < 2e-6
    for method, names in (("get_text_features", texts), ("get_multimodal_features", ("pixel_values", *texts))):
        call = getattr(model, method)
        expected, found = (framework.ask(call, {n: given[n] for n in names}) for given in (values, other))
        assert difference(expected, found) < 2e-6
    maps = [numpy(framework.ask(model.explain, given)) for given in (values, other)]
    assert difference(tokens(maps[0], values["attention_mask"]), tokens(maps[1], other["attention_mask"])) < 1e-5


def test_contrastive_losses(framework):
    """Retrieval's fine-tuning, momentum encoders and queues included; pre-training is among the heads above."""
    values, found = pairs("", 3) | {"image_ids": np.arange(3)}, []
    for given in (values, moved(values, 2)):
        model = tiny(framework, "BlipForImageTextRetrieval")
        output = framework.run(model, given, training=True)
        found.append([numpy(output[name]) for name in ("loss", "loss_itc", "loss_itm")])
        found[-1].append(framework.weights(model)["text_queue"].sum())
    assert difference(np.array(found[0]), np.array(found[1])) < 1e-5


def test_answers_given_as_labels_alone(framework, models):
    """With -100 in the place of [DEC], as the processor makes them, and with a first token, on either side."""
    model, values = models(framework, "BlipForQuestionAnswering"), inputs("BlipForQuestionAnswering", CONFIG)
    expected = framework.run(model, values).loss
    for first in (False, True):
        labels = values["labels"].copy()
        labels[:, 0] = -100 if first else labels[:, 0]
        on_the_left = np.stack([np.roll(row, (row == -100)[1:].sum()) for row in labels])
        for given in (labels, on_the_left):
            assert difference(expected, framework.run(model, values | {"labels": given}).loss) < 2e-6
    masked = moved(values, 3)
    masked["decoder_attention_mask"] = masked["attention_mask"]
    assert difference(expected, framework.run(model, masked).loss) < 2e-6


def test_captions_and_their_maps(framework, models, recwarn):
    model = models(framework, "BlipForConditionalGeneration")
    values = inputs("BlipForConditionalGeneration", CONFIG)
    values["input_ids"][:, 0] = 88
    other = moved(values, 3)
    assert difference(framework.run(model, values).loss, framework.run(model, other).loss) < 2e-6
    assert not [w for w in recwarn if "[DEC]" in str(w.message)]
    del values["labels"], other["labels"]
    expected, found = (framework.ask(model.generate, given | {"max_new_tokens": 5}) for given in (values, other))
    assert np.array_equal(numpy(expected), numpy(found))
    maps = [numpy(framework.ask(model.explain, given)) for given in (values, other)]
    assert difference(tokens(maps[0], values["attention_mask"]), tokens(maps[1], other["attention_mask"])) < 1e-5
    assert not maps[1][other["attention_mask"] == 0].any()


def test_generated_answers(framework, models):
    model, values = models(framework, "BlipForQuestionAnswering"), inputs("BlipForQuestionAnswering", CONFIG)
    del values["labels"]
    other = moved(values, 5)
    options = {"max_new_tokens": 6, "num_beams": 2, "return_dict_in_generate": True}
    expected, found = (framework.ask(model.generate, given | options) for given in (values, other))
    assert np.array_equal(numpy(expected.sequences), numpy(found.sequences))
    assert difference(expected.sequences_scores, found.sequences_scores) < 2e-6
    count = int(values["attention_mask"][1].sum())
    alone = {"pixel_values": values["pixel_values"][1:], "input_ids": values["input_ids"][1:, :count]}
    text = numpy(framework.ask(model.generate, alone | options).sequences)[0]
    assert np.array_equal(text, numpy(found.sequences)[1, : len(text)])
