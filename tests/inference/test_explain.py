"""Maps of attention: those of the models in both frameworks, and those of words."""

from __future__ import annotations

import numpy as np
import pytest

from blip_core import BlipConfig, BlipProcessor, BlipTextConfig, BlipTokenizer, BlipVisionConfig
from blip_core.checks import chosen_layer, patch_grid
from blip_core.inference.attribution import Word, find_words, peak, strengths, word_maps
from tests.helpers.colours import PATCH, draw_patches, save_colour_model
from tests.helpers.frameworks import FRAMEWORKS, PyTorch
from tests.helpers.lazy_frameworks import blip_pt, torch
from tests.helpers.random_models import CONFIGS_OF, difference, inputs, numpy, randomized
from tests.helpers.tensorflow_models import models, to_pt, to_tf

MATCHER, CAPTIONER = "BlipForImageTextRetrieval", "BlipForConditionalGeneration"
CONFIG = CONFIGS_OF["wide"]


@pytest.fixture(scope="module")
def colour_model(tmp_path_factory):
    return save_colour_model(tmp_path_factory.mktemp("colours"))


def batch(rows=4, columns=4, pictures=2):
    """Two texts, one of them padded, and pictures of so many patches."""
    values = inputs(MATCHER, CONFIG)
    size = (pictures, 3, rows * CONFIG.vision_config.patch_size, columns * CONFIG.vision_config.patch_size)
    return values | {"pixel_values": np.random.default_rng(1).normal(size=size).astype(np.float32)}


# the models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradcam", "attention"])
@pytest.mark.parametrize("head", [MATCHER, CAPTIONER])
@pytest.mark.parametrize("name", CONFIGS_OF)
def test_both_frameworks_give_the_same_maps(name, head, method, tmp_path):
    config = CONFIGS_OF[name]
    pt, tf_model = models(head, config, tmp_path)
    values = inputs(MATCHER, config)
    for layer in range(config.text_config.num_hidden_layers):
        maps = pt.explain(**to_pt(values), layer=layer, method=method)
        side = config.vision_config.image_size // config.vision_config.patch_size
        assert maps.shape == (2, 7, side, side)
        assert maps.dtype == torch.float32
        assert difference(maps, tf_model.explain(**to_tf(values), layer=layer, method=method)) < 1e-5
        assert maps.min() >= 0
        assert not maps[1, 4:].any()  # padding
        assert maps.any()


@pytest.mark.parametrize("head", [MATCHER, CAPTIONER])
def test_pictures_that_are_not_square(head, tmp_path):
    pt, tf_model = models(head, CONFIG, tmp_path)
    values = batch(rows=3, columns=6) | {"interpolate_pos_encoding": True}
    maps = pt.explain(**to_pt(values))
    assert maps.shape == (2, 7, 3, 6)
    assert difference(maps, tf_model.explain(**to_tf(values))) < 1e-5
    pixels = values.pop("pixel_values")
    with torch.no_grad():
        embeds = pt.vision_model(torch.from_numpy(pixels), interpolate_pos_encoding=True).last_hidden_state
    values["image_embeds"] = embeds.numpy()
    assert torch.equal(pt.explain(**to_pt(values), grid=(3, 6)), maps)
    with pytest.raises(ValueError, match=r"18 patches, which are not 4 x 4; give grid=\(rows, columns\)"):
        pt.explain(**to_pt(values))


def recorded(monkeypatch, nudge=None):
    """Keep the probabilities of each cross-attention, and add `nudge` (layer, index, step) to one of them."""
    attention, kept = blip_pt.text_attention.attention, []

    def watched(query, key, value, mask, dropout, output_attentions):
        if key.shape[2] != 17:  # attention of the text to itself
            return attention(query, key, value, mask, dropout, output_attentions)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        probabilities = (scores.exp() / scores.exp().sum(dim=-1, keepdim=True)).clone()
        if nudge is not None and nudge[0] == len(kept):
            probabilities[nudge[1]] += nudge[2]
        kept.append(probabilities)
        return probabilities @ value, probabilities

    monkeypatch.setattr(blip_pt.text_attention, "attention", watched)
    return kept


def match_score(model, values):
    with torch.no_grad():
        return model(**values).itm_score[:, 1]


def caption_score(model, values):
    """The log-probability of captions, from the loss."""
    ids = values["input_ids"].clone()
    ids[:, 0] = model.config.text_config.bos_token_id
    labels = ids.masked_fill(values["attention_mask"] == 0, -100)
    states = model.vision_model(values["pixel_values"]).last_hidden_state
    model.text_decoder.config.label_smoothing = 0.0
    with torch.no_grad():
        output = model.text_decoder(
            ids, values["attention_mask"], encoder_hidden_states=states, labels=labels, reduction="none"
        )
    return -output.loss


@pytest.mark.parametrize(("head", "score", "shift"), [(MATCHER, match_score, 0), (CAPTIONER, caption_score, 1)])
def test_gradcam_as_by_numeric_differentiation(head, score, shift, monkeypatch):
    """Each probability is moved up and down, in float64, and the score is seen to change."""
    torch.manual_seed(1)
    model = randomized(getattr(blip_pt, head)(CONFIG)).double()
    values = to_pt(batch()) | {"pixel_values": torch.from_numpy(batch()["pixel_values"]).double()}
    maps, step, compared = model.explain(**values, layer=0), 1e-4, 0
    for text, token, patch in ((0, 1, 0), (0, 2, 9), (0, 4, 15), (0, 6, 3), (1, 1, 6), (1, 2, 7), (1, 3, 12)):
        expected = 0.0
        for head_number in range(2):
            index = text, head_number, token - shift, patch + 1
            scores = []
            for sign in (1, -1):
                with monkeypatch.context() as patched:
                    kept = recorded(patched, nudge=(0, index, sign * step))
                    scores.append(score(model, values)[text])
            probability = kept[0][index] + step
            expected += float(probability * ((scores[0] - scores[1]) / (2 * step)).clamp(min=0)) / 2
        found = float(maps[text, token].flatten()[patch])
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-9 * float(maps.max()))
        compared += expected > 0
    assert compared >= 4


def test_attention_is_that_of_the_call():
    model = randomized(blip_pt.BlipForImageTextRetrieval(CONFIG))
    values = to_pt(batch())
    for layer, attention in enumerate(model(**values, output_attentions=True).cross_attentions):
        expected = attention.mean(dim=1)[..., 1:].unflatten(-1, (4, 4)) * values["attention_mask"][..., None, None]
        assert difference(expected, model.explain(**values, layer=layer, method="attention")) < 1e-6


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("method", ["gradcam", "attention"])
def test_texts_of_one_picture_as_each_by_itself(framework, method, tmp_path):
    model = dict(zip(FRAMEWORKS, models(MATCHER, CONFIG, tmp_path), strict=True))[framework]
    explain = FRAMEWORKS[framework].ask
    values = batch(pictures=1) | {"method": method, "layer": 0}
    together = numpy(explain(model.explain, values))
    for text, length in ((0, 7), (1, 4)):
        own = {name: values[name][text : text + 1, :length] for name in ("input_ids", "attention_mask")}
        assert difference(explain(model.explain, values | own), together[text : text + 1, :length]) < 1e-5


@pytest.mark.parametrize("head", [MATCHER, CAPTIONER])
def test_a_model_is_left_as_it_was(head):
    config = BlipConfig.from_dict(CONFIG.to_dict())
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.5
    model = randomized(getattr(blip_pt, head)(config))
    values = to_pt(batch())
    expected = model.explain(**values)
    model.train()
    model.text_encoder.eval() if head == MATCHER else model.text_decoder.eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(model.explain(**values), expected)  # no dropout
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not expected.requires_grad
    with torch.inference_mode():
        made_inside = {name: value.clone() for name, value in values.items()}
        assert torch.equal(model.explain(**made_inside), expected)
    model.requires_grad_(False)
    assert torch.equal(model.explain(**values), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 2}, "layers 0 to 1, got layer 2"),
        ({"layer": -1}, "layers 0 to 1, got layer -1"),
        ({"method": "lime"}, "method must be 'gradcam' or 'attention', got 'lime'"),
        ({"grid": (2, 8)}, r"grid must be 4 x 4 patches for these pixel_values, got \(2, 8\)"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        PyTorch.ask(blip_pt.BlipForImageTextRetrieval(CONFIG).explain, batch() | options)


def test_layers_and_grids():
    layers = [chosen_layer(None, "gradcam", BlipTextConfig(num_hidden_layers=n)) for n in (1, 2, 3, 12, 24)]
    assert layers == [0, 0, 1, 7, 14]
    config = BlipVisionConfig(image_size=32, patch_size=8)
    assert patch_grid(np.empty((1, 3, 24, 47)), None, None, config) == [3, 5]
    assert patch_grid(None, np.empty((1, 10, 4)), None, config) == [3, 3]
    assert patch_grid(None, np.empty((1, 13, 4)), (2, 6), config) == [2, 6]
    with pytest.raises(ValueError, match="Give either pixel_values or image_embeds"):
        patch_grid(None, None, None, config)


def test_words_find_their_colours(colour_model):
    """A model made by hand, whose words attend to their colours; each framework, and a picture that is not square."""
    processor = BlipProcessor.from_pretrained(colour_model)
    picture = draw_patches(4, 7, {(0, 5): "red", (3, 1): "green", (2, 3): "blue"}, (PATCH, PATCH))
    text = "a green square, blue and red"
    words = find_words(processor.tokenizer, text)
    for name, framework in FRAMEWORKS.items():
        model = framework.of(MATCHER).from_pretrained(colour_model)
        values = processor(picture, [text], do_resize=False, return_tensors=name)
        maps = word_maps(numpy(model.explain(**values, interpolate_pos_encoding=True))[0], words)
        found = {word.text: (peak(heat, (7, 4)), s) for word, heat, s in zip(words, maps, strengths(maps), strict=True)}
        assert found["red"][0] == (5.5, 0.5)
        assert found["green"][0] == (1.5, 3.5)
        assert found["blue"][0] == (3.5, 2.5)
        assert min(found[word][1] for word in ("red", "green", "blue")) > 0.5
        assert max(found[word][1] for word in ("a", "square,", "and")) < 1e-6


# words --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("An unbelievably red dog", [("An", (1,)), ("unbelievably", (2, 3, 4, 5, 6)), ("red", (7,)), ("dog", (8,))]),
        ("the dog's ball, (red).", [("the", (1,)), ("dog's", (2, 4)), ("ball,", (5,)), ("(red).", (8,))]),
        ("café - 犬🐕", [("café", (1,)), ("犬", (3,)), ("🐕", (4,))]),
    ],
)
def test_words(text, expected):
    tokenizer = BlipTokenizer()
    assert [tuple(word) for word in find_words(tokenizer, text)] == expected
    special = {0, len(tokenizer.encode(text)) - 1}
    assert not special & {place for _, places in expected for place in places}


@pytest.mark.parametrize("text", ["", "  ", "?!"])
def test_a_text_without_words(text):
    with pytest.raises(ValueError, match="has no words"):
        find_words(BlipTokenizer(), text)


def test_the_map_of_a_word_is_the_mean_of_its_pieces():
    maps = np.random.default_rng(0).random((6, 2, 3))
    found = word_maps(maps, [Word("one", (2,)), Word("two", (1, 4))])
    assert np.array_equal(found, [maps[2], (maps[1] + maps[4]) / 2])
