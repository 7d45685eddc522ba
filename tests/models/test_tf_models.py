"""The TensorFlow models against the PyTorch ones, on the same folders."""

import json
import warnings

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch.utils import _pytree as pytree

import blip_pt
import blip_tf
from blip_core import BlipConfig
from blip_tf.nn import ACTIVATIONS
from tests.helpers.tensorflow_models import (
    CONFIGS_OF,
    HEADS,
    difference,
    head_config,
    inputs,
    models,
    numpy,
    to_pt,
    to_tf,
)

CASES = [(head, name) for head in HEADS for name in CONFIGS_OF]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Both models of a head and a configuration, made once."""
    made = {}

    def load(head, name):
        if (head, name) not in made:
            made[head, name] = models(head, CONFIGS_OF[name], tmp_path_factory.mktemp(head))
        return made[head, name]

    return load


def objective(output, framework):
    """A number that depends on all results: the loss, and every output weighted by a fixed pattern."""
    total = 0.0
    for field, value in output.items():
        if field.endswith(("hidden_states", "attentions", "_output")):
            continue
        pattern = np.cos(np.arange(np.prod(value.shape), dtype=np.float32)).reshape(value.shape)
        total = total + (value * framework(pattern)).sum() if framework is torch.from_numpy else (
            total + tf.reduce_sum(value * framework(pattern))
        )  # fmt: skip
    return total


def check_gradients(pt, tf_model, expected, found, tape):
    """Compare the gradients of both models' objectives by parameter."""
    pt.zero_grad()
    expected.backward()
    table = tf_model.table()
    gradients = tape.gradient(found, [tf_model.get_parameter(p.name) for p in table])
    largest = max(float(p.grad.abs().max()) for p in pt.parameters() if p.grad is not None)
    for parameter, gradient in zip(table, gradients, strict=True):
        wanted = pt.get_tensor(parameter.name).grad
        if wanted is None:
            assert gradient is None, parameter.name
            continue
        wanted = parameter.to_tensorflow(wanted.numpy())
        gradient = tf.convert_to_tensor(gradient).numpy()
        if parameter.name.endswith("key.bias"):  # zero but for rounding: softmax ignores a common shift
            assert np.abs(gradient - wanted).max() < 1e-6 * largest, parameter.name
        elif np.abs(wanted).max() == 0:
            assert np.abs(gradient).max() == 0, parameter.name
        else:
            assert difference(wanted, gradient) < 1e-4, parameter.name


@pytest.mark.parametrize(("head", "name"), CASES)
def test_outputs_and_gradients(loaded, head, name):
    pt, tf_model = loaded(head, name)
    values = inputs(head, CONFIGS_OF[name])
    values |= {"return_loss": True} if head == "BlipModel" else {}
    assert tf_model.num_parameters() == pt.num_parameters() == sum(parameter.numel() for parameter in pt.parameters())
    everything = {"output_hidden_states": True, "output_attentions": True} if head != "BlipForPreTraining" else {}
    expected = pt(**to_pt(values), **everything)
    with tf.GradientTape() as tape:
        found = tf_model(**to_tf(values), **everything)
        total = objective(found, tf.constant)
    assert found.keys() == expected.keys()
    assert type(found) is type(expected)
    leaves = pytree.tree_leaves(expected), tf.nest.flatten(found)
    assert len(leaves[0]) > 4
    for one, other in zip(*leaves, strict=True):
        assert difference(one, other) < 1e-5

    check_gradients(pt, tf_model, objective(expected, torch.from_numpy), total, tape)


@pytest.mark.slow
@pytest.mark.parametrize(
    "head", ["BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"]
)
def test_base_size(head, tmp_path):
    config = BlipConfig.base()
    pt, tf_model = models(head, config, tmp_path, scale=0.02)
    values, everything = inputs(head, config), {"output_hidden_states": True, "output_attentions": True}
    expected = pt(**to_pt(values), **everything)
    with tf.GradientTape() as tape:
        found = tf_model(**to_tf(values), **everything)
        total = objective(found, tf.constant)
    for one, other in zip(pytree.tree_leaves(expected), tf.nest.flatten(found), strict=True):
        assert difference(one, other) < 1e-5
    check_gradients(pt, tf_model, objective(expected, torch.from_numpy), total, tape)
    if hasattr(pt, "generate"):
        values.pop("labels")
        for options in ({"max_new_tokens": 20}, {"num_beams": 3, "max_new_tokens": 10}, {"do_sample": True, "seed": 1}):
            assert np.array_equal(
                pt.generate(**to_pt(values), **options), tf_model.generate(**to_tf(values), **options)
            )


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(name):
    from blip_pt.nn import ACTIVATIONS as PYTORCH

    x = np.linspace(-6, 6, 601, dtype=np.float32)
    assert difference(PYTORCH[name](torch.from_numpy(x)), ACTIVATIONS[name](tf.constant(x))) < 1e-6


@pytest.mark.parametrize("name", CONFIGS_OF)
def test_every_weight_is_in_the_table_and_exists_at_once(name):
    for head in HEADS:
        model = getattr(blip_tf, "TF" + head)(head_config(head, CONFIGS_OF[name]))
        found = {p.name: tuple(model.get_parameter(p.name).shape) for p in model.table()}
        assert found == {p.name: tuple(p.shape[axis] for axis in p.axes) for p in model.table()}
        assert {id(model.get_parameter(p.name)) for p in model.table()} == {id(weight) for weight in model.weights}
        counted = [shape for name, shape in found.items() if "queue" not in name]
        assert model.num_parameters() == sum(np.prod(shape, dtype=int) for shape in counted)
        named = "bias", "queue_ptr", "ptr_queue"
        weights = [weight for weight in model.weights if not any(name in weight.name for name in named)]
        assert all(np.abs(weight.numpy()).max() > 0 for weight in weights)


@pytest.mark.parametrize("head", HEADS)
def test_attributes_have_the_published_names(head):
    """The attributes that lead to a weight are the segments of its name, but for the one that Keras reserves."""
    model = getattr(blip_tf, "TF" + head)(head_config(head, CONFIGS_OF["wide"]))
    for parameter in model.table():
        names = [parameter.name, *parameter.copies(parameter.part.prefix)]
        for name in names:
            at = model
            for segment in name.split("."):
                index = isinstance(at, list)
                at = at[int(segment)] if index else getattr(at, "output_" if segment == "output" else segment)
            assert at is model.get_parameter(name) is model.get_parameter(names[0]), name


def test_random_weights_follow_the_seed():
    config = CONFIGS_OF["wide"].text_config
    made = []
    for seed in (4, 4, 5):
        tf.random.set_seed(seed)
        made.append(blip_tf.TFBlipTextModel(config).encoder.layer[1].intermediate.dense.weight.numpy())
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


@pytest.mark.parametrize("head", HEADS)
def test_saves_what_pytorch_saves(loaded, head, tmp_path):
    pt, tf_model = loaded(head, "deep")
    for folder, model in (("pt", pt), ("tf", tf_model)):
        model.save_pretrained(tmp_path / folder)
    names = {path.name for path in (tmp_path / "pt").iterdir()}
    assert names == {path.name for path in (tmp_path / "tf").iterdir()}
    for name in names:
        assert (tmp_path / "pt" / name).read_bytes() == (tmp_path / "tf" / name).read_bytes()


def test_saves_in_shards(loaded, tmp_path):
    _, model = loaded("BlipForConditionalGeneration", "wide")
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    again = blip_tf.TFBlipForConditionalGeneration.from_pretrained(tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", tf.bfloat16, "float64"])
def test_other_precisions(loaded, dtype, tmp_path):
    _, whole = loaded("BlipForConditionalGeneration", "wide")
    whole.save_pretrained(tmp_path / "whole")
    model = blip_tf.TFBlipForConditionalGeneration.from_pretrained(tmp_path / "whole", dtype=dtype)
    name = tf.as_dtype(dtype).name
    assert {weight.dtype for weight in model.weights} == {name}
    assert keras.config.dtype_policy().name == "float32"
    values = to_tf(inputs("BlipForConditionalGeneration", CONFIGS_OF["wide"]))
    expected, found = whole(**values), model(**values)
    assert found.logits.dtype == name
    assert found.loss.dtype == (name if name == "float64" else "float32")
    # Eight steps of the type. Some processors round bfloat16 inside of a product, too, others only its result.
    limit = max(1e-5, 8 * float(ml_dtypes.finfo(name).eps))  # 0.0078 in float16, 0.0625 in bfloat16
    assert difference(expected.logits, tf.cast(found.logits, tf.float32)) < limit
    half = tf.cast(values["pixel_values"], tf.float16)
    assert np.isfinite(numpy(tf.cast(model(half).logits, tf.float32))).all()
    tokens = model.generate(half, max_new_tokens=5)
    assert tokens.shape == (2, 6)
    model.save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == name
    again = blip_tf.TFBlipForConditionalGeneration.from_pretrained(tmp_path / "half", dtype="auto")
    assert {weight.dtype for weight in again.weights} == {name}
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    back = blip_pt.BlipForConditionalGeneration.from_pretrained(tmp_path / "half", dtype="auto")
    assert str(back.dtype) == f"torch.{name}"


def test_other_picture_sizes(loaded):
    config = CONFIGS_OF["wide"]
    for head in ("BlipVisionModel", "BlipForConditionalGeneration", "BlipForImageTextRetrieval"):
        pt, tf_model = loaded(head, "wide")
        values = inputs(head, config)
        values["pixel_values"] = np.random.default_rng(5).normal(size=(2, 3, 44, 24)).astype(np.float32)
        expected = pt(**to_pt(values), interpolate_pos_encoding=True)
        found = tf_model(**to_tf(values), interpolate_pos_encoding=True)
        assert difference(expected[0], found[0]) < 1e-5
        assert difference(expected.last_hidden_state, found.last_hidden_state) < 1e-5


def test_another_image_size_at_load(loaded, tmp_path):
    pt, _ = loaded("BlipVisionModel", "wide")
    pt.save_pretrained(tmp_path)
    values = {"pixel_values": np.random.default_rng(5).normal(size=(1, 3, 48, 48)).astype(np.float32)}
    expected = blip_pt.BlipVisionModel.from_pretrained(tmp_path, image_size=48)(**to_pt(values))
    found = blip_tf.TFBlipVisionModel.from_pretrained(tmp_path, image_size=48)(**to_tf(values))
    assert difference(expected.pooler_output, found.pooler_output) < 1e-5


def test_image_embeds_in_place_of_pictures(loaded):
    for head in ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"):
        _, model = loaded(head, "wide")
        values = to_tf(inputs(head, CONFIGS_OF["wide"]))
        expected = model(**values)
        embeds = model.vision_model(values.pop("pixel_values")).last_hidden_state
        assert difference(expected[0], model(image_embeds=embeds, **values)[0]) < 1e-6
        if hasattr(model, "generate"):
            assert model.generate(image_embeds=embeds, input_ids=values["input_ids"], max_new_tokens=3).shape[0] == 2


def test_features(loaded):
    values = inputs("BlipModel", CONFIGS_OF["deep"])
    pixels = {"pixel_values": values["pixel_values"]}
    texts = {name: value for name, value in values.items() if name not in pixels}
    for head in ("BlipModel", "BlipForImageTextRetrieval"):
        pt, tf_model = loaded(head, "deep")
        for method, given in (("get_image_features", pixels), ("get_text_features", texts)):
            found = getattr(tf_model, method)(**to_tf(given))
            assert difference(getattr(pt, method)(**to_pt(given)), found) < 1e-5
            if head == "BlipForImageTextRetrieval":
                assert difference(np.ones(2), np.linalg.norm(found, axis=1)) < 1e-5
        if head == "BlipModel":
            expected = pt.get_multimodal_features(**to_pt(values))
            assert difference(expected, tf_model.get_multimodal_features(**to_tf(values))) < 1e-5
        else:
            expected = pt(**to_pt(values), use_itm_head=False).itm_score
            assert difference(expected, tf_model(**to_tf(values), use_itm_head=False).itm_score) < 1e-5


def test_one_picture_with_many_texts(loaded):
    pt, tf_model = loaded("BlipForImageTextRetrieval", "wide")
    values = inputs("BlipForImageTextRetrieval", CONFIGS_OF["wide"])
    values["pixel_values"] = values["pixel_values"][:1]
    expected = pt(**to_pt(values), output_attentions=True)
    found = tf_model(**to_tf(values), output_attentions=True)
    assert difference(expected.itm_score, found.itm_score) < 1e-5
    assert difference(expected.cross_attentions[1], found.cross_attentions[1]) < 1e-5


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("weights", [None, [0.25, 0.5, 1.5]])
def test_several_weighted_answers(loaded, weights, graph):
    pt, tf_model = loaded("BlipForQuestionAnswering", "wide")
    values = inputs("BlipForQuestionAnswering", CONFIGS_OF["wide"])
    values["labels"] = np.array([[88, 9, 12, 5], [88, 7, 5, -100], [88, 30, 31, 5]])
    expected = pt(**to_pt(values), answer_counts=[2, 1], answer_weights=weights)
    values |= {"answer_counts": np.array([2, 1])} if graph else {"answer_counts": [2, 1]}
    if weights is not None:
        values["answer_weights"] = np.array(weights, np.float32)
    call = tf.function(lambda given: tf_model(**given), autograph=False) if graph else lambda given: tf_model(**given)
    assert difference(expected.loss, call(to_tf(values)).loss) < 1e-5


@pytest.mark.parametrize("head", HEADS[1:7])
def test_an_example_is_the_same_alone_and_in_a_batch(loaded, head):
    _, model = loaded(head, "wide")
    values = inputs(head, CONFIGS_OF["wide"])
    alone = {name: value[1:] for name, value in values.items()}
    alone |= {name: alone[name][:, :4] for name in ("input_ids", "attention_mask") if name in alone}
    if "labels" in alone and head != "BlipForQuestionAnswering":
        alone["labels"] = alone["labels"][:, :4]
    whole, part = model(**to_tf(values)), model(**to_tf(alone))
    if "logits" in part:
        assert difference(part.logits[:, :4], whole.logits[1:, :4]) < 1e-5
    elif "itm_score" in part:
        assert difference(part.itm_score, whole.itm_score[1:]) < 1e-5
    elif "text_embeds" in part:
        assert difference(part.text_embeds, whole.text_embeds[1:]) < 1e-5
    else:
        assert difference(part.last_hidden_state, whole.last_hidden_state[1:, :4]) < 1e-5


def test_outputs_go_through_graphs_and_trees(loaded):
    pt, model = loaded("BlipModel", "wide")
    values = to_tf(inputs("BlipModel", CONFIGS_OF["wide"]))
    found = tf.function(lambda given: model(**given), autograph=False)(values)
    assert type(found) is blip_tf.contrastive.BlipOutput
    assert found.loss is None
    assert found.text_model_output.pooler_output.shape == (2, 32)
    assert len(keras.tree.flatten(found)) == len(tf.nest.flatten(found)) == len(pytree.tree_leaves(pt(**to_pt(
        inputs("BlipModel", CONFIGS_OF["wide"])))))  # fmt: skip
    doubled = keras.tree.map_structure(lambda x: 2 * x, found)
    assert difference(doubled["text_embeds"], 2 * found.text_embeds) == 0


def bad_calls(pixels, ids, mask, embeds):
    """Calls that must be refused, by the model's name and, after a point, that of the method."""
    yield "caption", {"pixel_values": pixels[:, :2]}
    yield "caption", {"pixel_values": pixels[:, :, :16]}
    yield "caption", {"pixel_values": pixels[:, :, :4, :4], "interpolate_pos_encoding": True}
    yield "caption", {"pixel_values": pixels, "image_embeds": embeds}
    yield "caption", {}
    yield "caption", {"image_embeds": embeds[:, :, :5], "input_ids": ids}
    yield "caption", {"pixel_values": pixels, "input_ids": np.repeat(ids, 2, axis=0)[:3]}
    yield "caption", {"pixel_values": pixels, "input_ids": ids + 1000}
    yield "caption", {"pixel_values": pixels, "input_ids": ids - 1000}
    yield "caption", {"pixel_values": pixels, "input_ids": ids[0]}
    yield "caption", {"pixel_values": pixels, "input_ids": ids.astype(np.float32)}
    yield "caption", {"pixel_values": pixels, "input_ids": np.repeat(ids, 9, axis=1)}
    yield "caption", {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask[:1]}
    yield "caption", {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask[:, :3]}
    yield "caption", {"pixel_values": pixels, "input_ids": ids, "labels": ids[:, :3]}
    yield "answer", {"pixel_values": pixels, "labels": ids}
    yield "answer", {"pixel_values": pixels, "input_ids": ids}
    yield "answer", {"pixel_values": pixels, "input_ids": ids, "labels": ids[:1]}
    yield "answer", {"pixel_values": pixels, "input_ids": ids, "labels": ids, "answer_counts": [3, 1]}
    yield "answer", {"pixel_values": pixels, "input_ids": ids, "labels": ids, "answer_weights": [1.0]}
    yield "match", {"pixel_values": pixels}
    yield "match", {"pixel_values": pixels, "input_ids": np.repeat(ids, 2, axis=0)[:3]}
    yield "match", {"pixel_values": pixels, "input_ids": ids + 1000, "use_itm_head": False}
    yield "match", {"pixel_values": pixels, "input_ids": ids, "image_ids": np.arange(2)}
    yield "nlvr", {"pixel_values": pixels, "input_ids": ids}
    yield "nlvr", {"pixel_values": np.stack([pixels, pixels], axis=1), "input_ids": ids, "labels": ids}
    yield "nlvr", {"pixel_values": np.stack([pixels, pixels], axis=1), "input_ids": ids + 1000}
    yield "features", {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask[:1]}
    yield "features", {"pixel_values": pixels[:1], "input_ids": ids, "return_loss": True}
    yield "pretrain", {"pixel_values": pixels[:1], "input_ids": ids}
    yield "pretrain", {"pixel_values": pixels, "input_ids": ids + 1000}
    yield "pretrain", {"pixel_values": pixels[:, :2], "input_ids": ids}
    yield "caption.generate", {"pixel_values": pixels, "input_ids": ids + 1000}
    yield "caption.generate", {"pixel_values": pixels, "num_beams": 0}
    yield "caption.generate", {"pixel_values": pixels, "num_beams": 2, "stream": print}
    yield "caption.generate", {"pixel_values": pixels, "do_sample": True, "seed": [1, 2, 3]}
    yield "caption.score_texts", {"pixel_values": pixels}
    yield "caption.score_texts", {"pixel_values": pixels, "input_ids": ids + 1000}
    yield "caption.explain", {"pixel_values": pixels, "input_ids": ids, "layer": 9}
    yield "caption.explain", {"image_embeds": embeds, "input_ids": ids, "grid": (3, 3)}
    yield "answer.generate", {"pixel_values": pixels}
    yield "answer.generate", {"pixel_values": pixels, "input_ids": ids, "max_new_tokens": 99}
    yield "answer.rank_answers", {"pixel_values": pixels, "input_ids": ids, "answer_ids": ids, "k": 0}
    yield "answer.score_texts", {"pixel_values": pixels, "input_ids": ids, "answer_ids": ids[:, :0]}
    yield "match.explain", {"pixel_values": pixels, "input_ids": ids, "method": "guess"}
    yield "match.get_multimodal_features", {"pixel_values": pixels, "input_ids": np.repeat(ids, 2, axis=0)[:3]}


def test_refuses_what_pytorch_refuses_in_the_same_words(loaded, monkeypatch):
    """Before the vision encoder runs."""
    runs = []
    for encoder in (blip_pt.vision.VisionEncoder, blip_tf.vision.VisionEncoder):
        name = "forward" if encoder is blip_pt.vision.VisionEncoder else "call"
        run = getattr(encoder, name)
        monkeypatch.setattr(encoder, name, lambda *given, run=run, **more: runs.append(1) or run(*given, **more))
    values = inputs("BlipForConditionalGeneration", CONFIGS_OF["wide"])
    given = values["pixel_values"], values["input_ids"], values["attention_mask"], np.zeros((2, 17, 24), np.float32)
    heads = {
        "caption": "BlipForConditionalGeneration", "answer": "BlipForQuestionAnswering",
        "match": "BlipForImageTextRetrieval", "nlvr": "BlipForNLVR", "features": "BlipModel",
        "pretrain": "BlipForPreTraining",
    }  # fmt: skip
    for called, call in bad_calls(*given):
        head, _, method = called.partition(".")
        pt, tf_model = loaded(heads[head], "wide")
        with pytest.raises(ValueError, match=r"\w") as expected:
            getattr(pt, method or "__call__")(**to_pt(call))
        with pytest.raises(ValueError, match=r"\w") as found:
            getattr(tf_model, method or "__call__")(**to_tf(call))
        assert not runs, (called, str(found.value))
        assert str(found.value).replace("TFBlip", "Blip") == str(expected.value)
        assert "\n" not in str(found.value)


def test_warns_of_captions_that_do_not_begin_as_captions_do(loaded):
    """Their first token is left as given, in both."""
    values = inputs("BlipForConditionalGeneration", CONFIGS_OF["wide"])
    bos = CONFIGS_OF["wide"].text_config.bos_token_id
    other = {**values, "input_ids": values["input_ids"].copy()}
    values["input_ids"][:, 0], other["input_ids"][:, 0] = bos, bos - 1
    losses = []
    for model, convert in zip(loaded("BlipForConditionalGeneration", "wide"), (to_pt, to_tf), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            losses.append(float(numpy(model(**convert(values)).loss)))
            model(**{name: value for name, value in convert(other).items() if name != "labels"})
        with pytest.warns(UserWarning, match=rf"do not begin with \[DEC\] \({bos}\)"):
            losses.append(float(numpy(model(**convert(other)).loss)))
    assert abs(losses[0] - losses[1]) > 1e-4
    assert difference(np.array(losses[:2]), np.array(losses[2:])) < 1e-5


def test_refuses_a_type_that_weights_cannot_have(tmp_path, loaded):
    pt, tf_model = loaded("BlipTextModel", "wide")
    pt.save_pretrained(tmp_path)
    messages = []
    for model in (pt, tf_model):
        with pytest.raises(ValueError, match="dtype must be") as refused:
            type(model).from_pretrained(tmp_path, dtype="int8")
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    with pytest.raises(OSError, match="nowhere"):
        type(tf_model).from_pretrained(tmp_path / "nowhere")
    placed = type(tf_model).from_pretrained(tmp_path, device="cpu")
    assert "CPU" in placed.device


def test_a_head_from_a_checkpoint_that_lacks_a_part(loaded, tmp_path):
    pt, _ = loaded("BlipForConditionalGeneration", "wide")
    pt.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="initialised at random"):
        model = blip_tf.TFBlipForImageTextRetrieval.from_pretrained(tmp_path)
    assert difference(*(m.vision_model.encoder.layers[0].mlp.fc1.bias for m in (pt, model))) == 0
    assert np.abs(model.itm_head.weight.numpy()).max() > 0
