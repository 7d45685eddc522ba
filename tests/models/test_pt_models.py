"""The PyTorch models by themselves: batches, precisions, gradients, and refusals."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch

import blip_pt
from blip_core import BlipConfig, BlipTextConfig
from blip_pt.nn import Linear, attention, onednn_can
from blip_pt.products import HAS_ONEDNN
from tests.helpers.pytorch_models import make, tensors
from tests.helpers.random_models import CONFIGS_OF, HEADS, difference

# batches ------------------------------------------------------------------------------------------------------------


def row(values: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    """One example of a batch, without its padding."""
    length = int(values["attention_mask"][index].sum())
    texts = ("input_ids", "attention_mask", "labels")
    return {k: v[index : index + 1, :length] if k in texts else v[index : index + 1] for k, v in values.items()}


@pytest.mark.parametrize("name", CONFIGS_OF)
@pytest.mark.parametrize(
    "head", ["BlipForConditionalGeneration", "BlipForImageTextRetrieval", "BlipForQuestionAnswering"]
)
def test_an_example_is_the_same_alone_and_in_a_batch(head, name):
    model, values = make(head, name), tensors(head, name)
    with torch.inference_mode():
        batch = model(**values)
        for index in range(2):
            alone, one = row(values, index), model(**row(values, index))
            if head == "BlipForImageTextRetrieval":
                assert difference(one.itm_score, batch.itm_score[index : index + 1]) < 1e-5
                continue
            length = alone["input_ids"].shape[1]
            assert difference(one.logits, batch.logits[index : index + 1, :length]) < 1e-5
        if head != "BlipForImageTextRetrieval":
            counts = [(row(values, i)["labels"][:, 1:] != -100).sum() for i in range(2)]
            losses = [model(**row(values, i)).loss for i in range(2)]
            weighted = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
            assert difference(weighted, batch.loss) < 1e-5


@pytest.mark.parametrize("name", CONFIGS_OF)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 5, "top_p": 0.9}])
@pytest.mark.parametrize("head", ["BlipForConditionalGeneration", "BlipForQuestionAnswering"])
def test_texts_are_the_same_alone_and_in_a_batch(head, options, name):
    model, values = make(head, name), tensors(head, name)
    del values["labels"]
    options = {"max_new_tokens": 9, "return_dict_in_generate": True, "output_scores": True, **options}
    batch = model.generate(**values, **options)
    for index in range(2):
        one = model.generate(**row(values, index), **options)
        length, new = one.sequences.shape[1], one.token_log_probs.shape[1]
        assert batch.sequences[index, :length].tolist() == one.sequences[0].tolist()
        assert not batch.sequences[index, length:].any()
        assert np.allclose(batch.token_log_probs[index, :new], one.token_log_probs[0], atol=1e-4, equal_nan=True)


def test_padding_on_the_left_changes_nothing_either():
    model, values = make("BlipForConditionalGeneration"), tensors("BlipForConditionalGeneration")
    pixels, ids = values["pixel_values"][:1], values["input_ids"][:1]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
    mask = torch.cat([torch.zeros(1, 3, dtype=torch.long), torch.ones_like(ids)], dim=1)
    expected = model.generate(pixels, ids, max_new_tokens=6)
    found = model.generate(pixels, padded, mask, max_new_tokens=6)
    assert found[0, -6:].tolist() == expected[0, -6:].tolist()


# image embeddings, one picture and many texts, other sizes ----------------------------------------------------------


@pytest.mark.parametrize("head", HEADS[4:7])
def test_image_embeds_stand_in_for_pictures(head):
    model, values = make(head), tensors(head)
    with torch.inference_mode():
        expected = model(**values)
        embeds = model.vision_model(values.pop("pixel_values")).last_hidden_state
        assert torch.equal(expected.image_embeds, embeds)
        found = model(image_embeds=embeds, **values)
        first = "itm_score" if head == "BlipForImageTextRetrieval" else "loss"
        assert torch.equal(found[first], expected[first])
        if hasattr(model, "generate"):
            del values["labels"]
            pixels = tensors(head)["pixel_values"]
            assert torch.equal(
                model.generate(image_embeds=embeds, **values), model.generate(pixel_values=pixels, **values)
            )


def test_one_picture_may_serve_many_texts():
    # Double precision: a batch of one and a batch of two are multiplied by other kernels, which round otherwise.
    model, values = make("BlipForImageTextRetrieval").double(), tensors("BlipForImageTextRetrieval")
    one = values["pixel_values"][:1].double()
    with torch.inference_mode():
        expected = model(values["input_ids"], one.expand(2, -1, -1, -1), True, values["attention_mask"]).itm_score
        assert difference(expected, model(values["input_ids"], one, True, values["attention_mask"]).itm_score) < 1e-12


def test_features_are_normalised_and_compare_as_the_similarities():
    model, values = make("BlipForImageTextRetrieval"), tensors("BlipForImageTextRetrieval")
    with torch.inference_mode():
        pictures = model.get_image_features(values["pixel_values"])
        texts = model.get_text_features(values["input_ids"], values["attention_mask"])
        assert torch.allclose(pictures.norm(dim=-1), torch.ones(2))
        assert pictures.shape == texts.shape == (2, 16)
        similarity = model(**values, use_itm_head=False).itm_score
        assert difference(similarity, pictures @ texts.T) < 1e-6


def test_the_first_token_of_grounded_text_is_replaced_where_the_checkpoint_says_so():
    model, values = make("BlipForImageTextRetrieval"), tensors("BlipForImageTextRetrieval")
    replaced = {**values, "input_ids": values["input_ids"].index_fill(1, torch.tensor([0]), 89)}
    with torch.inference_mode():
        assert torch.equal(model(**values).itm_score, model(**replaced).itm_score)
        model.config.enc_token_id = None
        assert not torch.equal(model(**values).itm_score, model(**replaced).itm_score)


@pytest.mark.parametrize("size", [(40, 32), (32, 72), (36, 44)])
def test_pictures_of_other_sizes(size):
    model = make("BlipForConditionalGeneration")
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        embeds = model(pixels, interpolate_pos_encoding=True).image_embeds
    assert embeds.shape == (2, 1 + (size[0] // 8) * (size[1] // 8), 24)
    with pytest.raises(ValueError, match="interpolate_pos_encoding=True"):
        model(pixels)


def test_masked_encoder_states_are_not_read():
    model, values = make("BlipTextModel"), tensors("BlipTextModel")
    with torch.inference_mode():
        expected = model(**values).last_hidden_state
        hidden = values["encoder_attention_mask"] == 0
        assert hidden.any()
        values["encoder_hidden_states"] = values["encoder_hidden_states"].masked_fill(hidden[..., None], 7.0)
        assert difference(expected, model(**values).last_hidden_state) < 1e-6


# training -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["BlipForConditionalGeneration", "BlipForQuestionAnswering"])
def test_gradient_checkpointing_changes_nothing(head):
    model, values = make(head).train(), tensors(head)
    model(**values).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**values).loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-7), name


@pytest.mark.parametrize("head", HEADS[4:7])
def test_every_weight_learns(head):
    model, values = make(head).train(), tensors(head)
    output = model(**values)
    (output.itm_score if "itm_score" in output else output.loss).square().sum().backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert idle <= {"vision_proj.weight", "vision_proj.bias", "text_proj.weight", "text_proj.bias"}


def test_dropout_is_random_in_training_and_absent_in_evaluation():
    config = copy.deepcopy(CONFIGS_OF["wide"])
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.3
    config.vision_config.attention_dropout = 0.3
    model, values = blip_pt.BlipForConditionalGeneration(config), tensors("BlipForConditionalGeneration")
    assert model(**values).loss != model(**values).loss
    model.eval()
    assert model(**values).loss == model(**values).loss
    model.train()
    captions = [model.generate(values["pixel_values"]).tolist() for _ in range(2)]
    assert captions[0] == captions[1]
    assert model.training


def test_the_three_reductions_of_the_loss():
    model, values = make("BlipTextLMHeadModel"), tensors("BlipTextLMHeadModel")
    with torch.inference_mode():
        each = model(**values, reduction="none").loss
        assert each.shape == (2,)
        assert torch.allclose(model(**values, reduction="sum").loss, each.sum())
        assert torch.allclose(model(**values).loss, each.sum() / (values["labels"][:, 1:] != -100).sum())


# precisions and outputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head", HEADS[4:7])
def test_half_precision_takes_inputs_of_any_type(head, dtype, given):
    model, values = make(head).to(dtype), tensors(head)
    values["pixel_values"] = values["pixel_values"].to(given)
    with torch.inference_mode():
        output = model(**values)
        expected = make(head)(**tensors(head))
    first = "itm_score" if head == "BlipForImageTextRetrieval" else "logits"
    assert output[first].dtype == dtype
    assert difference(expected[first], output[first]) < (0.03 if dtype == torch.float16 else 0.15)


@pytest.mark.parametrize("head", HEADS[3:6])
def test_losses_are_as_wide_as_the_weights_and_float32_at_least(head):
    options = {"return_loss": True} if head == "BlipModel" else {}
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        assert make(head).to(dtype)(**tensors(head), **options).loss.dtype == expected


def test_a_mask_of_any_type():
    model, values = make("BlipForImageTextRetrieval"), tensors("BlipForImageTextRetrieval")
    with torch.inference_mode():
        scores = [
            model(**{**values, "attention_mask": values["attention_mask"].to(dtype)}).itm_score
            for dtype in (torch.int64, torch.bool, torch.float32)
        ]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


def test_outputs_are_attributes_keys_indices_tuples_and_trees():
    model, values = make("BlipForConditionalGeneration"), tensors("BlipForConditionalGeneration")
    output = model(**values, output_hidden_states=True)
    assert output[0] is output.loss is output["loss"] is output.to_tuple()[0]
    assert output[1] is output.logits
    assert list(output.keys())[:2] == ["loss", "logits"]
    assert "attentions" not in output
    assert len(output.hidden_states) == 4
    leaves, structure = torch.utils._pytree.tree_flatten(output)
    again = torch.utils._pytree.tree_unflatten([leaf + 0 for leaf in leaves], structure)
    assert torch.equal(again.logits, output.logits)
    assert len(again.hidden_states) == 4


def test_attention_maps_are_probabilities_and_change_nothing():
    model, values = make("BlipForConditionalGeneration"), tensors("BlipForConditionalGeneration")
    with torch.inference_mode():
        plain, shown = model(**values), model(**values, output_attentions=True)
    assert difference(plain.logits, shown.logits) < 1e-5
    assert len(shown.attentions) == 3
    assert shown.attentions[0].shape == (2, 3, 17, 17)
    assert shown.decoder_attentions[0].shape == (2, 2, 7, 7)
    assert shown.cross_attentions[0].shape == (2, 2, 7, 17)
    for maps in (*shown.attentions, *shown.decoder_attentions, *shown.cross_attentions):
        assert torch.allclose(maps.sum(-1), torch.ones(()), atol=1e-5)
    assert not shown.decoder_attentions[0].triu(1).any()


def test_the_deprecated_model_warns_and_has_features():
    with pytest.warns(FutureWarning, match="deprecated"):
        model = blip_pt.BlipModel(CONFIGS_OF["wide"]).eval()
    values = tensors("BlipModel")
    assert model.get_image_features(values["pixel_values"]).shape == (2, 12)
    assert model.get_text_features(values["input_ids"], values["attention_mask"]).shape == (2, 12)
    assert model.get_multimodal_features(**values).shape == (2, 12)


@pytest.mark.parametrize("part", ["vision_model", "text_encoder"])
def test_a_part_of_a_model_saves_and_loads_by_itself(tmp_path, part):
    encoder = getattr(make("BlipForImageTextRetrieval"), part)
    encoder.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no pooler")  # a BlipTextModel that is loaded has one
        again = type(encoder).from_pretrained(tmp_path)
    values = tensors("BlipVisionModel" if part == "vision_model" else "BlipTextModel")
    assert torch.equal(again(**values).last_hidden_state, encoder(**values).last_hidden_state)


def test_a_text_encoder_without_cross_attention():
    values = CONFIGS_OF["wide"].text_config.to_dict()
    config = BlipTextConfig.from_dict({**values, "is_decoder": False})
    model = blip_pt.BlipTextModel(config).eval()
    assert not [name for name, _ in model.named_parameters() if "crossattention" in name]
    values = tensors("BlipTextModel")
    with pytest.raises(ValueError, match="is_decoder=False"):
        model(**values)
    assert model(values["input_ids"], values["attention_mask"]).last_hidden_state.shape == (2, 7, 32)


# refusals -----------------------------------------------------------------------------------------------------------

CAPTION, MATCH, ANSWER = HEADS[4], HEADS[6], HEADS[5]


@pytest.mark.parametrize(
    ("head", "change", "said"),
    [
        (CAPTION, {"pixel_values": torch.zeros(3, 32, 32)}, "pixel_values must be floating-point"),
        (CAPTION, {"pixel_values": torch.zeros(2, 1, 32, 32)}, r"\(batch, 3, height, width\)"),
        (CAPTION, {"pixel_values": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}, "uint8"),
        (CAPTION, {"pixel_values": torch.zeros(2, 3, 40, 40)}, "made for 32 x 32"),
        (CAPTION, {"pixel_values": torch.zeros(2, 3, 4, 4), "interpolate_pos_encoding": True}, "smaller than a patch"),
        (CAPTION, {"pixel_values": None}, "either pixel_values or image_embeds"),
        (CAPTION, {"pixel_values": torch.zeros(3, 3, 32, 32)}, "3 pictures do not go with 2 texts"),
        (CAPTION, {"input_ids": torch.full((2, 7), 90)}, "between 0 and 89, got 90 to 90"),
        (CAPTION, {"input_ids": torch.full((2, 7), -1)}, "between 0 and 89"),
        (CAPTION, {"input_ids": torch.zeros(2, 7)}, "input_ids must be integers"),
        (CAPTION, {"input_ids": torch.ones(2, 0, dtype=torch.long)}, "input_ids must be integers of shape"),
        (CAPTION, {"input_ids": torch.ones(2, 41, dtype=torch.long), "attention_mask": None}, "at most 40"),
        (CAPTION, {"attention_mask": torch.ones(2, 6)}, r"attention_mask must be of shape \(2, 7\)"),
        (CAPTION, {"labels": torch.ones(2, 6, dtype=torch.long)}, r"labels must be of shape \(2, 7\)"),
        (MATCH, {"input_ids": None}, "Give the texts as input_ids"),
        (MATCH, {"pixel_values": None, "image_embeds": torch.zeros(2, 17, 23)}, r"\(batch, tokens, 24\)"),
        (ANSWER, {"labels": None}, "Give labels to train"),
        (ANSWER, {"answer_counts": [1]}, "answer_counts must give 2 whole numbers"),
        (ANSWER, {"answer_weights": [0.5]}, "one weight for each of 2 answers"),
    ],
)
def test_what_does_not_fit_is_refused(head, change, said):
    with pytest.raises(ValueError, match=said):
        make(head)(**{**tensors(head), **change})


def test_a_prompt_that_is_too_long_is_refused():
    model, values = make(CAPTION), tensors(CAPTION)
    with pytest.raises(ValueError, match="max_length"):
        model.generate(values["pixel_values"], values["input_ids"], max_length=5)
    with pytest.raises(ValueError, match="40"):
        model.generate(values["pixel_values"], values["input_ids"], max_new_tokens=60)
    with pytest.raises(TypeError, match="num_beam"):
        model.generate(values["pixel_values"], num_beam=3)
    with pytest.raises(ValueError, match="prompt_ids holds 99999, but the vocabulary has"):
        model.generate(values["pixel_values"], prompt_ids=[5, 99999])
    with pytest.raises(ValueError, match="input_ids must lie between"):
        model.generate(values["pixel_values"], values["input_ids"] + 99999)


@pytest.mark.parametrize("dtype", ["int8", "floaty", torch.int64])
def test_a_type_that_weights_cannot_have(tmp_path, dtype):
    make(CAPTION).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="dtype must be float32"):
        blip_pt.BlipForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)


def test_a_vision_large_question_answerer_exists(tmp_path):
    """transformers gives its answer decoder the vision width, so that text and vision must be as wide."""
    config = BlipConfig(
        text_config=CONFIGS_OF["wide"].text_config.to_dict(), vision_config=CONFIGS_OF["wide"].vision_config.to_dict()
    )
    assert config.text_config.hidden_size != config.vision_config.hidden_size
    model = blip_pt.BlipForQuestionAnswering(config)
    assert model.text_decoder.bert.encoder.layer[0].crossattention.self.key.weight.shape == (32, 32)
    assert model.text_encoder.encoder.layer[0].crossattention.self.key.weight.shape == (32, 24)


@pytest.mark.parametrize("head", HEADS)
def test_a_quantized_model_is_close(tmp_path, head):
    model, values = make(head).eval(), tensors(head)
    with torch.no_grad():
        expected = model(**values)
        found = model.quantize()(**values)
    for name, value in expected.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert 0 < difference(value, found[name]) < 0.2, name
    int8 = sum(buffer.numel() for buffer in model.buffers() if buffer.dtype == torch.int8)
    assert int8 > 0.4 * model.num_parameters()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        again = type(model).from_pretrained(tmp_path)(**values)
    name, value = next((n, v) for n, v in found.items() if isinstance(v, torch.Tensor))
    assert difference(value, again[name]) < 0.2, name


def test_products_without_gradients_are_those_with_gradients():
    """Where oneDNN multiplies (`blip_pt.nn.linear`), the results are PyTorch's own, and so are types and errors."""
    torch.manual_seed(0)
    layer = Linear(300, 260)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    for x in (torch.randn(7, 300), torch.randn(3, 300, 5).transpose(1, 2), torch.randn(300), torch.randn(2, 0, 300)):
        expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
        assert layer(x).requires_grad
        with torch.no_grad():
            found = layer(x)
        assert found.shape == expected.shape
        assert not x.numel() or difference(expected, found) < 1e-6
    x = torch.randn(7, 300)
    with torch.no_grad():
        layer.weight.data.mul_(2)  # no copy of the weights is kept
        assert difference(torch.nn.functional.linear(x, layer.weight, layer.bias), layer(x)) < 1e-6
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert torch.equal(
            torch.export.export(layer, (x,)).module()(x), torch.nn.functional.linear(x, *layer.parameters())
        )
        with pytest.raises(RuntimeError):
            layer(torch.randn(7, 299))


def test_long_attention_without_gradients_is_that_with_gradients():
    query, key, value = (torch.randn(2, length, 3, 16).transpose(1, 2) for length in (1100, 300, 300))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    with torch.inference_mode():
        found, _ = attention(query, key, value, None, 0.0, False)
        assert difference(expected, found) < 1e-6
        mask = torch.randn(2, 1, 1, 300)
        expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
        assert torch.equal(attention(query, key, value, mask, 0.0, False)[0], expected)


@pytest.mark.skipif(not HAS_ONEDNN, reason="PyTorch's own products are taken on this processor")
def test_onednn_takes_plain_products_alone():
    weight, x = torch.randn(260, 300), torch.randn(7, 300)
    with torch.inference_mode():
        assert onednn_can(x, weight, None)
        assert not onednn_can(x.double(), weight.double(), None)
    assert not onednn_can(x, torch.nn.Parameter(weight), None)


def test_an_adapter_around_a_layer_comes_before_the_activation():
    """What wraps a `Linear`, as LoRA does, is part of the layer, not of what its activation gives."""

    class Adapter(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x, *args):
            return self.layer(x, *args) + 0.5

    model, values = make("BlipForConditionalGeneration").eval(), tensors("BlipForConditionalGeneration")
    vision, text = model.vision_model.encoder.layers[0].mlp, model.text_decoder.bert.encoder.layer[0].intermediate
    vision.fc1, text.dense = Adapter(vision.fc1), Adapter(text.dense)
    with torch.no_grad():
        found = model(**values).logits
        vision.fc1, text.dense = vision.fc1.layer, text.dense.layer
        vision.fc1.bias += 0.5
        text.dense.bias += 0.5
        assert difference(model(**values).logits, found) < 1e-6


def test_attention_that_trains_in_half_precision_is_the_fused_one():
    noise = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 17, 8, generator=noise)
    mask = torch.zeros(2, 1, 1, 17)
    mask[1, ..., 9:] = -torch.inf
    whole = [x.clone().requires_grad_() for x in (query, key, value)]
    half = [x.bfloat16().requires_grad_() for x in (query, key, value)]
    expected, _ = attention(*whole, mask, 0.0, False)
    found, probabilities = attention(*half, mask.bfloat16(), 0.0, False)
    assert found.grad_fn.name() != expected.grad_fn.name()
    assert probabilities is None
    expected.sum().backward()
    found.sum().backward()
    assert difference(expected.detach(), found.detach().float()) < 2e-2
    for one, other in zip(whole, half, strict=True):
        assert difference(one.grad, other.grad.float()) < 2e-2 * max(1.0, float(one.grad.abs().max()))
