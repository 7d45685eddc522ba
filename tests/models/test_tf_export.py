"""Exported models: SavedModels in a process without this package, LiteRT files."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import blip_tf
from blip_core import BlipConfig, GenerationConfig
from blip_core.generation import generate
from blip_tf.export import signatures
from tests.helpers.tensorflow_models import CONFIGS_OF, difference, head_config, inputs

CONFIG = BlipConfig.from_dict(CONFIGS_OF["wide"].to_dict())
CONFIG.vision_config.num_hidden_layers = 1
HEADS = ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval")
SEP = CONFIG.text_config.sep_token_id
NEW_TOKENS = 9

# What runs where the package is not: every signature of the folders, once, on the arrays beside them.
ELSEWHERE = """
import sys
for name in ("blip_core", "blip_pt", "blip_tf", "conversion", "torch"):
    sys.modules[name] = None
import numpy as np, tensorflow as tf
given = dict(np.load(sys.argv[1] + "/inputs.npz"))
texts = {name: given[name] for name in ("input_ids", "attention_mask")}
pixels = {"pixel_values": given["pixel_values"]}
found = {}
for head in sys.argv[2:]:
    signatures = tf.saved_model.load(sys.argv[1] + "/" + head).signatures
    calls = {"image_features": pixels, "text_features": texts, "caption": pixels | texts, "answer": pixels | texts}
    if "image_features" in signatures:
        embeds = {"image_embeds": signatures["image_features"](tf.constant(given["pixel_values"]))["image_embeds"]}
        calls |= {name: embeds | texts for name in ("question_states", "itm_scores", "itc_scores")}
    for name in signatures.keys() & calls.keys():
        outputs = signatures[name](**{key: tf.constant(value) for key, value in calls[name].items()})
        found |= {f"{head} {name} {key}": value.numpy() for key, value in outputs.items()}
np.savez(sys.argv[1] + "/outputs.npz", **found)
"""


def model_of(head):
    keras.utils.set_random_seed(3)
    model = getattr(blip_tf, "TF" + head)(head_config(head, CONFIG))
    if hasattr(model, "text_decoder"):
        bias = model.text_decoder.cls.predictions.bias
        bias.assign(tf.tensor_scatter_nd_update(bias.value, [[SEP]], [1.7]))  # so that texts end, at unlike lengths
    return model


@pytest.fixture(scope="module")
def texts():
    """Two prompts of unlike length that end in [SEP], the shorter one padded on the right."""
    values = {
        name: array.astype(np.int32) for name, array in inputs(HEADS[1], CONFIG).items() if array.dtype.kind == "i"
    }
    ids, mask = values["input_ids"], values["attention_mask"]
    ids[range(2), mask.sum(axis=1) - 1] = SEP
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def pixels():
    return {"pixel_values": inputs(HEADS[0], CONFIG)["pixel_values"]}


@pytest.fixture(scope="module")
def models():
    return {head: model_of(head) for head in HEADS}


@pytest.fixture(scope="module")
def exported(models, texts, pixels, tmp_path_factory):
    """The folder of the exported models, and what their signatures give in a process of their own."""
    folder = tmp_path_factory.mktemp("exported")
    for head, model in models.items():
        model.export(folder / head, max_new_tokens=NEW_TOKENS)
    np.savez(folder / "inputs.npz", **texts, **pixels)
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(folder), *HEADS], check=True, cwd=folder, timeout=300)
    return folder, dict(np.load(folder / "outputs.npz"))


def test_signatures_in_a_process_without_the_package(models, exported, texts, pixels):
    captioner, answerer, matcher = (models[head] for head in HEADS)
    _, found = exported
    embeds = {head: models[head].vision_model(**pixels).last_hidden_state for head in HEADS}
    _, states = answerer.encode_question(None, embeds[HEADS[1]], False, **texts)
    expected = {
        **{f"{head} image_features image_embeds": value for head, value in embeds.items()},
        **{f"{h} image_features pooler_output": m.vision_model(**pixels).pooler_output for h, m in models.items()},
        f"{HEADS[0]} caption sequences": captioner.generate(**pixels, **texts, max_new_tokens=NEW_TOKENS),
        f"{HEADS[1]} answer sequences": answerer.generate(**pixels, **texts, max_new_tokens=NEW_TOKENS),
        f"{HEADS[1]} question_states encoder_states": states,
        f"{HEADS[2]} image_features image_features": matcher.get_image_features(**pixels),
        f"{HEADS[2]} text_features text_features": matcher.get_text_features(**texts),
        f"{HEADS[2]} itm_scores itm_score": matcher(**pixels, **texts).itm_score,
        f"{HEADS[2]} itc_scores itc_score": matcher(**pixels, **texts, use_itm_head=False).itm_score,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith("sequences"):
            assert np.array_equal(found[name], value), name
            ends = (found[name] == SEP).argmax(axis=1)
            assert ends[0] != ends[1], name
        else:
            assert difference(value, found[name]) < 1e-5, name


def test_pretraining_has_no_scores_of_embeddings():
    """Its call takes pictures alone, so that it could not be traced for them."""
    expected = {"image_features", "text_features", "caption", "begin", "step"}
    assert signatures(model_of("BlipForPreTraining"), NEW_TOKENS).keys() == expected


def test_prompts_of_any_form(models, exported, pixels):
    caption = tf.saved_model.load(exported[0] / HEADS[0]).signatures["caption"]
    picture = {"pixel_values": pixels["pixel_values"][1:]}
    for prompt in ([7], [7, SEP], [7, SEP, 0], [0, 7, 12]):
        ids = np.array([prompt], np.int32)
        given = {**picture, "input_ids": ids, "attention_mask": (ids != 0).astype(np.int32)}
        expected = models[HEADS[0]].generate(**given, max_new_tokens=NEW_TOKENS)
        found = caption(**{name: tf.constant(value) for name, value in given.items()})
        assert np.array_equal(found["sequences"], expected), prompt


class ExportedSession:
    """The decoding session of `blip_core.generation`, of an exported model's signatures."""

    def __init__(self, signatures, states, mask, rows, capacity):
        self.run = signatures["step"]
        self.caches = dict(
            signatures["begin"](encoder_states=states, rows=tf.constant(rows), capacity=tf.constant(capacity))
        )
        self.states_mask = tf.constant(mask, tf.int32)
        self.real = np.zeros((rows, capacity), np.int32)
        self.length = 0

    def prefill(self, input_ids, attention_mask):
        end = self.length + input_ids.shape[1]
        self.real[:, self.length : end] = attention_mask
        output = self.run(
            input_ids=tf.constant(input_ids, tf.int32),
            attention_mask=tf.constant(self.real),
            length=tf.constant(self.length),
            encoder_attention_mask=self.states_mask,
            **self.caches,
        )
        self.length = end
        self.caches |= {name: output[name] for name in ("keys", "values")}
        return output["logits"].numpy()

    def step(self, tokens):
        return self.prefill(tokens[:, None], np.ones((len(tokens), 1)))

    def select(self, rows):
        self.real = self.real[rows]
        for name in ("keys", "values"):
            self.caches[name] = tf.gather(self.caches[name], rows, axis=1)


@pytest.mark.parametrize("options", [{"num_beams": 3, "early_stopping": True}, {"do_sample": True}], ids=str)
def test_any_search_over_the_exported_step(models, exported, texts, pixels, options):
    head = HEADS[1]
    signatures = tf.saved_model.load(exported[0] / head).signatures
    embeds = signatures["image_features"](tf.constant(pixels["pixel_values"]))["image_embeds"]
    given = {name: tf.constant(value[:1]) for name, value in texts.items()}
    states = signatures["question_states"](image_embeds=embeds[:1], **given)["encoder_states"]
    session = ExportedSession(signatures, states, texts["attention_mask"][:1], 1, 1 + NEW_TOKENS)
    text = CONFIG.text_config
    config = GenerationConfig(
        max_new_tokens=NEW_TOKENS, bos_token_id=text.bos_token_id, eos_token_id=SEP, pad_token_id=0, **options
    )
    found = generate(session, np.array([[text.bos_token_id]]), np.ones((1, 1), int), config, seed=5).sequences
    expected = models[head].generate(pixel_values=pixels["pixel_values"][:1], **given, generation_config=config, seed=5)
    assert np.array_equal(found, expected)


def test_weights_keep_their_names(models, exported):
    reader = tf.train.load_checkpoint(exported[0] / HEADS[0] / "variables" / "variables")
    names = [name.removeprefix("parameters/") for name in reader.get_variable_to_shape_map()]
    names = {name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for name in names if name.endswith("VARIABLE_VALUE")}
    names = {name.replace("..", ".") for name in names}  # TensorFlow doubles dots
    assert names == {parameter.name for parameter in models[HEADS[0]].table()}


def test_refuses_what_it_cannot_export(models, exported, tmp_path):
    with pytest.raises(FileExistsError, match="another folder"):
        models[HEADS[0]].export(exported[0] / HEADS[0])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        models[HEADS[0]].export(tmp_path / "none", max_new_tokens=0)
    with pytest.raises(ValueError, match="no encoder"):
        models[HEADS[0]].text_decoder.export_litert(tmp_path / "decoder.tflite")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = blip_tf.TFBlipVisionModel(CONFIG.vision_config)
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ValueError, match="this model in bfloat16"):
        half.export_litert(tmp_path / "half.tflite")
    assert not list(tmp_path.iterdir())


def test_encoders_in_litert(models, texts, pixels, tmp_path):
    matcher = models[HEADS[2]]
    matcher.export_litert(tmp_path / "whole.tflite")
    matcher.export_litert(tmp_path / "small.tflite", quantize=True)
    expected = {
        "image_features": (pixels, matcher.get_image_features(**pixels)),
        "text_features": (texts, matcher.get_text_features(**texts)),
    }
    for file, tolerance in (("whole.tflite", 1e-5), ("small.tflite", 0.1)):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(tmp_path / file))
        assert interpreter.get_signature_list().keys() == expected.keys()
        for name, (given, value) in expected.items():
            found = interpreter.get_signature_runner(name)(**given)[name]
            assert difference(value, found) < tolerance, (file, name)
    assert (tmp_path / "small.tflite").stat().st_size < (tmp_path / "whole.tflite").stat().st_size
