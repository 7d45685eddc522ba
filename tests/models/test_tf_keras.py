"""The TensorFlow models as citizens of Keras: fit, precision policies, saving, freezing, graphs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import blip_tf
from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor
from tests.helpers.tensorflow_models import CONFIGS_OF, HEADS, difference, head_config, inputs, to_tf

CONFIG = BlipConfig.from_dict(CONFIGS_OF["wide"].to_dict())
# A graph is made for almost every test: keep it small.
CONFIG.text_config.num_hidden_layers = CONFIG.vision_config.num_hidden_layers = 1
CAPTIONER = "BlipForConditionalGeneration"


def fresh(head=CAPTIONER, config=CONFIG):
    keras.utils.set_random_seed(7)
    return getattr(blip_tf, "TF" + head)(head_config(head, config))


def dropping(**values):
    """The configuration with dropout."""
    settings = CONFIG.to_dict()
    settings["text_config"] |= {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    settings["vision_config"] |= {"attention_dropout": 0.3}
    return BlipConfig.from_dict(settings | values)


def dataset(head=CAPTIONER, batches=3, batch_size=None):
    values = {name: np.concatenate([value] * batches) for name, value in inputs(head, CONFIG).items()}
    return tf.data.Dataset.from_tensor_slices(values).batch(batch_size or 2)


def gradients(model, values, **options):
    with tf.GradientTape() as tape:
        output = model(**values, **options)
        loss = output.get("loss")
        loss = tf.reduce_sum(tf.sin(output[0])) if loss is None else loss  # squares would cancel in a LayerNorm
    names = [parameter.name for parameter in model.table()]
    slopes = zip(names, tape.gradient(loss, [model.get_parameter(name) for name in names]), strict=True)
    return loss, {name: tf.convert_to_tensor(slope) for name, slope in slopes if slope is not None}


def check_same_gradients(expected, found):
    largest = max(float(tf.reduce_max(tf.abs(slope))) for slope in expected.values())
    assert expected.keys() == found.keys()
    for name, slope in expected.items():
        # Those of the keys' biases are zero but for rounding: softmax ignores a common shift.
        scale = largest if name.endswith("key.bias") else float(tf.reduce_max(tf.abs(slope)))
        assert np.abs(slope - found[name]).max() <= 1e-5 * scale, name


@pytest.mark.parametrize("head", HEADS)
def test_summary(head):
    lines = []
    fresh(head).summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert f"{fresh(head).count_params():,}" in text
    assert "unbuilt" not in text


def test_fit_evaluate_predict():
    model = fresh()
    model.compile(optimizer=keras.optimizers.AdamW(3e-3), jit_compile=False)
    before = model.evaluate(dataset(), verbose=0)
    history = model.fit(dataset(), epochs=3, verbose=0, validation_data=dataset(batches=1)).history
    assert history["loss"][0] > history["loss"][-1]
    assert set(history) == {"loss", "val_loss"}
    assert model.evaluate(dataset(), verbose=0) < before
    found = model.predict(dataset(), verbose=0)
    assert type(found).__name__ == "BlipForConditionalGenerationOutput"
    assert found.logits.shape == (6, 7, 90)
    # one slot of each kind for every weight, and two numbers
    assert len(model.optimizer.variables) == 2 * len(model.trainable_weights) + 2


def test_fit_with_callbacks(tmp_path):
    model = fresh()
    model.compile(optimizer=keras.optimizers.AdamW(3e-3), jit_compile=False)
    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 3e-3 if epoch < 2 else 30.0)
    patience = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    held_out = dataset(batches=1)
    found = model.fit(dataset(), epochs=9, verbose=0, validation_data=held_out, callbacks=[best, rates, patience, log])
    assert len(found.history["loss"]) < 9
    least = min(found.history["val_loss"])
    again = keras.models.load_model(tmp_path / "best.keras")
    assert model.evaluate(held_out, verbose=0) == pytest.approx(least, rel=1e-5)
    assert again.evaluate(held_out, verbose=0) == pytest.approx(least, rel=1e-5)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + len(found.history["loss"])


def test_fit_on_what_the_processor_makes():
    """Three pictures learn their captions, from files to tokens and back."""
    size = {"height": 32, "width": 32}
    processor = BlipProcessor(BlipImageProcessor(size=size))
    text = {"vocab_size": 30524, "bos_token_id": 30522, "sep_token_id": 102}
    settings = CONFIG.to_dict()
    settings["text_config"] |= text
    model = fresh(config=BlipConfig.from_dict(settings))
    captions = ["a cat", "green tree", "the red car"]
    pictures = [np.full((32, 32, 3), color, np.uint8) for color in ((250, 200, 0), (0, 150, 0), (200, 0, 0))]
    values = processor(pictures, captions, return_labels=True, return_tensors="tf")
    batches = tf.data.Dataset.from_tensor_slices(dict(values)).repeat(60).batch(3)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=False)
    model.fit(batches, verbose=0)
    tokens = model.generate(processor(pictures, return_tensors="tf").pixel_values, max_new_tokens=6)
    assert processor.batch_decode(tokens, skip_special_tokens=True) == captions


def test_fit_takes_labels_apart_and_batches_of_any_length():
    model = fresh()
    model.compile(optimizer="sgd", jit_compile=False)
    apart = dataset().map(lambda batch: (batch, batch.pop("labels")))
    assert np.isfinite(model.fit(apart, verbose=0).history["loss"]).all()

    def batches():
        for length in (3, 5, 4):
            yield {
                name: value[:, :length] if value.ndim == 2 else value
                for name, value in inputs(CAPTIONER, CONFIG).items()
            }

    shapes = {
        name: (None, None) if value.ndim == 2 else (None, 3, 32, 32)
        for name, value in inputs(CAPTIONER, CONFIG).items()
    }
    signature = {
        name: tf.TensorSpec(shape, tf.float32 if name == "pixel_values" else tf.int64) for name, shape in shapes.items()
    }
    ragged = tf.data.Dataset.from_generator(batches, output_signature=signature)
    assert np.isfinite(model.fit(ragged, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("head", ["BlipForQuestionAnswering", "BlipTextLMHeadModel"])
def test_fit_of_other_heads(head):
    model = fresh(head)
    model.compile(optimizer=keras.optimizers.SGD(0.03), jit_compile=False)
    losses = model.fit(dataset(head), epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]


def test_fit_refuses_what_it_cannot_do():
    model = fresh()
    with pytest.raises(ValueError, match="own loss; leave out loss, metrics"):
        model.compile(optimizer="sgd", loss="mse", metrics=["accuracy"])
    model.compile(optimizer="sgd", jit_compile=False, run_eagerly=True)
    with pytest.raises(ValueError, match="give labels"):
        model.fit(dataset("BlipForImageTextRetrieval"), verbose=0)
    with pytest.raises(ValueError, match="dictionary"):
        model.fit(np.zeros((2, 3, 32, 32), np.float32), verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("head", [CAPTIONER, "BlipForQuestionAnswering"])
def test_fit_with_xla(head):
    losses = []
    for jit in (False, True):
        model = fresh(head)
        model.compile(optimizer=keras.optimizers.AdamW(3e-3), jit_compile=jit)
        losses.append(model.fit(dataset(head), epochs=2, verbose=0).history["loss"])
    assert difference(losses[0], losses[1]) < 1e-4


def test_xla():
    model, values = fresh("BlipForImageTextRetrieval"), to_tf(inputs("BlipForImageTextRetrieval", CONFIG))
    found = tf.function(lambda given: model(**given), jit_compile=True, autograph=False)(values)
    assert difference(model(**values).itm_score, found.itm_score) < 1e-5


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    values = to_tf(inputs(CAPTIONER, CONFIG))
    whole = fresh()
    keras.config.set_dtype_policy(policy)
    try:
        model = fresh()
    finally:
        keras.config.set_dtype_policy("float32")
    model.set_weights(whole.get_weights())
    assert {weight.dtype for weight in model.weights} == {"float32"}
    output = model(**values)
    assert output.logits.dtype == policy.removeprefix("mixed_")
    assert output.loss.dtype == tf.float32
    assert difference(whole(**values).logits, tf.cast(output.logits, tf.float32)) < 0.05
    model.gradient_checkpointing_enable()
    model.compile(optimizer=keras.optimizers.SGD(0.03), jit_compile=False)
    losses = model.fit(dataset(), epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert model.generate(values["pixel_values"], max_new_tokens=3).shape == (2, 4)


def test_mixed_precision_at_load(tmp_path):
    fresh().save_pretrained(tmp_path)
    model = blip_tf.TFBlipForConditionalGeneration.from_pretrained(tmp_path, dtype="mixed_bfloat16")
    assert model.dtype_policy.name == "mixed_bfloat16"
    assert {weight.dtype for weight in model.weights} == {"float32"}


@pytest.mark.parametrize("head", HEADS)
def test_keras_files(head, tmp_path):
    model, values = fresh(head), to_tf(inputs(head, CONFIG))
    model.save_weights(tmp_path / "model.weights.h5")
    other = fresh(head)
    other.initialize()
    assert not all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))
    other.load_weights(tmp_path / "model.weights.h5")
    model.generation_config = model.generation_config.updated(num_beams=2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.generation_config == model.generation_config
    for one in (other, again):
        assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), one.get_weights(), strict=True))
    assert difference(model(**values)[0], again(**values)[0]) == 0


def test_keras_file_of_a_model_in_training(tmp_path):
    model = fresh()
    model.compile(optimizer=keras.optimizers.AdamW(3e-3), jit_compile=False)
    model.fit(dataset(), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert int(again.optimizer.iterations.numpy()) == 3
    assert difference(model.optimizer.variables[3], again.optimizer.variables[3]) == 0
    expected, found = (one.fit(dataset(), verbose=0).history["loss"] for one in (model, again))
    assert difference(expected, found) < 1e-6


def test_frozen_parts():
    model = fresh()
    everything = len(model.trainable_weights)
    model.vision_model.trainable = False
    assert len(model.trainable_weights) == everything - len(model.vision_model.weights)
    vision, text = model.vision_model.get_weights(), model.text_decoder.get_weights()
    model.compile(optimizer="sgd", jit_compile=False)
    model.fit(dataset(), verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(vision, model.vision_model.get_weights(), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(text, model.text_decoder.get_weights(), strict=True))


@pytest.mark.parametrize("head", HEADS)
def test_graph_as_eager(head):
    model, values = fresh(head), to_tf(inputs(head, CONFIG))
    values |= {"return_loss": True} if head == "BlipModel" else {}
    expected = gradients(model, values)
    given = {name: value for name, value in values.items() if tf.is_tensor(value)}
    options = {name: value for name, value in values.items() if name not in given}
    found = tf.function(lambda tensors: gradients(model, tensors, **options), autograph=False)(given)
    assert difference(expected[0], found[0]) < 1e-5
    check_same_gradients(expected[1], found[1])


@pytest.mark.parametrize("head", [CAPTIONER, "BlipForQuestionAnswering"])
@pytest.mark.parametrize("graph", [False, True])
def test_gradient_checkpointing(head, graph):
    model, values = fresh(head, dropping()), to_tf(inputs(head, CONFIG))

    def run():
        tf.random.set_seed(3)
        model.gradient_checkpointing_enable()
        call = tf.function(lambda: gradients(model, values, training=True), autograph=False) if graph else (
            lambda: gradients(model, values, training=True)
        )  # fmt: skip
        return call()

    first, second = run(), run()  # dropout is drawn once and the same again in the backward pass
    assert difference(first[0], second[0]) < 1e-6
    check_same_gradients(first[1], second[1])

    still = fresh(head)
    expected = gradients(still, values, training=True)
    still.gradient_checkpointing_enable()
    found = gradients(still, values, training=True)
    assert difference(expected[0], found[0]) < 1e-6
    check_same_gradients(expected[1], found[1])
    still.gradient_checkpointing_disable()
    assert not still.vision_model.encoder.gradient_checkpointing


def test_checkpointed_dropout_has_the_gradient_of_its_loss():
    """A step against the gradient lowers the loss by what the gradient says, with the same dropout."""
    model, values = fresh(config=dropping()), to_tf(inputs(CAPTIONER, CONFIG))
    model.gradient_checkpointing_enable()

    def seeded():
        tf.random.set_seed(11)
        return gradients(model, values, training=True)

    loss, slopes = seeded()
    rate = 1e-3
    for name, slope in slopes.items():
        model.get_parameter(name).assign_sub(rate * slope)
    expected = float(loss) - rate * sum(float(tf.reduce_sum(slope**2)) for slope in slopes.values())
    assert abs(float(seeded()[0]) - expected) < 0.1 * abs(float(loss) - expected)


def test_dropout_in_training_only():
    model, values = fresh(config=dropping()), to_tf(inputs(CAPTIONER, CONFIG))
    assert difference(model(**values).logits, model(**values).logits) == 0
    assert difference(model(**values).logits, fresh()(**values).logits) < 1e-6
    tf.random.set_seed(1)
    first = model(**values, training=True).logits
    assert difference(first, model(**values, training=True).logits) > 0.01
    tf.random.set_seed(1)
    assert difference(first, model(**values, training=True).logits) == 0
