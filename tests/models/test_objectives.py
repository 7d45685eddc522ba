"""Training objectives and rankings in both frameworks, beyond the original's numbers (`test_original.py`)."""

from __future__ import annotations

import numpy as np
import pytest

from blip_core import BlipConfig, BlipVisionConfig
from tests.helpers.contrastive_models import CONTRASTIVE, pairs, tiny
from tests.helpers.frameworks import (
    FRAMEWORKS,
    PyTorch,
    TensorFlow,
    answer_list,
    original,
    question_batch,
    to_tokens,
)
from tests.helpers.lazy_frameworks import keras, tf, torch
from tests.helpers.random_models import CONFIGS_OF, difference, inputs, numpy
from tests.helpers.tensorflow_models import to_tf


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return FRAMEWORKS[request.param]


# answers from a list ------------------------------------------------------------------------------------------------


def one_by_one(framework, model, batch, answers):
    """Minus the training loss of each answer to each question, (questions, answers)."""
    ids, mask, count = answers["answer_ids"], answers["answer_attention_mask"], len(batch["input_ids"])
    texts = {"input_ids": np.tile(ids, (count, 1)), "attention_mask": np.tile(mask, (count, 1))}
    texts["input_ids"][:, 0] = model.config.text_config.bos_token_id
    labels = np.where(texts["attention_mask"], texts["input_ids"], -100)
    question = numpy(framework.run(model, {**batch, "labels": ids[:count]}).question_embeds).astype(np.float32)
    states = {"encoder_hidden_states": question, "encoder_attention_mask": batch["attention_mask"]}
    states = {name: np.repeat(value, len(ids), axis=0) for name, value in states.items()}
    output = framework.run(model.text_decoder, {**texts, **states, "labels": labels, "reduction": "none"})
    return -numpy(output.loss).reshape(count, len(ids))


def test_ranking_all_answers_as_scoring_each_by_itself(framework, monkeypatch):
    monkeypatch.setattr("blip_core.inference.text_scoring.NODES", 7)  # several tries
    model, reference = original(framework, "BlipForQuestionAnswering", "vqa")
    batch, answers = question_batch(reference), answer_list(reference["candidates"])
    expected = one_by_one(framework, model, batch, answers)
    ranked = framework.ask(model.rank_answers, {**batch, **answers})
    assert np.array_equal(ranked.indices, np.argsort(-expected, axis=1))
    assert np.array_equal(ranked.indices[:, 0], ranked.best)
    assert difference(np.sort(expected)[:, ::-1], ranked.scores) < 1e-6
    scores = framework.ask(model.score_texts, {**batch, **answers})
    assert difference(np.take_along_axis(numpy(scores.log_probs), numpy(ranked.indices), 1), ranked.log_probs) < 1e-6
    model.text_decoder.config.label_smoothing = 0.0
    expected = one_by_one(framework, model, batch, answers)
    assert difference(expected, scores.log_probs) < 1e-6
    tokens = numpy(scores.token_log_probs)
    assert np.array_equal(~np.isnan(tokens[0]), answers["answer_attention_mask"][:, 1:] == 1)
    assert difference(np.nansum(tokens, axis=2), expected) < 1e-6


def test_scores_of_captions(framework):
    model, reference = original(framework, "BlipForConditionalGeneration", "caption")
    ids, mask = to_tokens(["120 121 122", "120 121", "130", "120 121 125 126"])
    scores = framework.ask(
        model.score_texts, {"pixel_values": reference["pixel_values"], "input_ids": ids, "attention_mask": mask}
    )
    assert scores.log_probs.shape == (3, 4)
    for row in range(4):
        length = int(mask[row].sum())
        text = np.repeat(ids[row : row + 1, :length], 3, axis=0)
        text[:, 0] = model.config.text_config.bos_token_id
        logits = numpy(framework.run(model, {"pixel_values": reference["pixel_values"], "input_ids": text}).logits)
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        expected = np.take_along_axis(log_probs[:, :-1], text[:, 1:, None], axis=2)[..., 0]
        assert difference(expected, numpy(scores.token_log_probs)[:, row, : length - 1]) < 1e-5
        assert difference(expected.sum(axis=1), numpy(scores.log_probs)[:, row]) < 1e-5


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["114 157", "", "115"], "Answer 1 of the list is empty"),
        (["114 157", "115", "114 157"], "Answers 0 and 2 of the list are the same"),
    ],
)
def test_answer_lists_that_cannot_be_ranked(framework, texts, message):
    model, reference = original(framework, "BlipForQuestionAnswering", "vqa")
    with pytest.raises(ValueError, match=message):
        framework.ask(model.rank_answers, {**question_batch(reference), **answer_list(texts)})


def test_other_bad_answers(framework):
    model, reference = original(framework, "BlipForQuestionAnswering", "vqa")
    batch = question_batch(reference)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        framework.ask(model.rank_answers, {**batch, **answer_list(["114"]), "k": 0})
    with pytest.raises(ValueError, match="Give the answers as answer_ids"):
        framework.ask(model.rank_answers, batch)
    with pytest.raises(ValueError, match="Text 1 has 1 tokens"):
        framework.ask(model.score_texts, {**batch, "answer_ids": np.array([[101, 114, 102], [101, 0, 0]])})
    with pytest.raises(ValueError, match="must lie between 0 and 199, got 101 to 200"):
        framework.ask(model.score_texts, {**batch, "answer_ids": np.array([[101, 114, 200]])})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"answer_counts": [2, 1]}, r"answer_counts must give 2 whole numbers of sum 2, got \[2.0, 1.0\]"),
        ({"answer_counts": [3, -1]}, "answer_counts must give"),
        ({"answer_counts": [2]}, "answer_counts must give"),
        ({"answer_counts": np.array([1.7, 1.7])}, "answer_counts must give"),
        ({"answer_weights": [1.0, 2.0, 3.0]}, r"answer_weights must give one weight for each of 2 answers, got \(3,\)"),
        ({"answer_weights": np.ones((2, 1), np.float32)}, r"one weight for each of 2 answers, got \(2, 1\)"),
    ],
)
def test_answers_that_do_not_add_up(framework, given, message):
    head = "BlipForQuestionAnswering"
    with pytest.raises(ValueError, match=message):
        framework.run(tiny(framework, head), inputs(head, CONFIGS_OF["wide"]) | given)


def test_ranking_a_long_list_as_scoring_each_by_itself(framework):
    """As many answers as the original's list has, through tries of full size."""
    model, noise = tiny(framework, "BlipForQuestionAnswering"), np.random.default_rng(0)
    answers = {" ".join(map(str, noise.integers(6, 40, noise.integers(1, 4)))) for _ in range(9000)}
    ids, mask = to_tokens(sorted(answers)[:3128])
    ids = np.select([ids == 101, ids == 102], [1, 5], ids)  # this vocabulary is small
    answers = {"answer_ids": ids, "answer_attention_mask": mask}
    batch = {name: value[:1] for name, value in inputs("BlipForQuestionAnswering", CONFIGS_OF["wide"]).items()}
    del batch["labels"]
    expected = one_by_one(framework, model, batch, answers)
    ranked = framework.ask(model.rank_answers, {**batch, **answers, "k": 3128})
    assert ranked.indices.shape == (1, 3128)
    assert numpy(ranked.best) == [expected.argmax()]
    assert difference(np.sort(expected)[:, ::-1], ranked.scores) < 1e-5
    assert difference(np.take_along_axis(expected, numpy(ranked.indices), 1), ranked.scores) < 1e-5


# retrieval and pre-training -----------------------------------------------------------------------------------------


POINTERS = {"BlipForImageTextRetrieval": "ptr_queue", "BlipForPreTraining": "queue_ptr"}


@pytest.mark.parametrize("head", CONTRASTIVE)
def test_training_goes_on_from_a_saved_model(framework, head, tmp_path):
    model, other = tiny(framework, head), "tf" if framework is FRAMEWORKS["pt"] else "pt"
    framework.run(model, pairs(head), training=True)
    model.save_pretrained(tmp_path)
    saved = framework.weights(model)
    assert saved[POINTERS[head]] == [3]
    expected = framework.run(model, pairs(head, seed=1), training=True)
    for reader in (framework, FRAMEWORKS[other]):
        loaded = reader.of(head).from_pretrained(tmp_path)
        found = reader.weights(loaded)
        assert found.keys() == saved.keys()
        assert all(np.array_equal(saved[name], found[name]) for name in saved)
        again = reader.run(loaded, pairs(head, seed=1), training=True)
        assert difference(expected.loss, again.loss) < 1e-6


@pytest.mark.parametrize("head", CONTRASTIVE)
def test_evaluation_changes_no_state(framework, head):
    model = tiny(framework, head)
    before = framework.weights(model)
    first, second = (framework.run(model, pairs(head)) for _ in range(2))
    assert float(numpy(first.loss)) == float(numpy(second.loss))
    after = framework.weights(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_models_of_one_task_are_cut_out_of_a_pretrained_one(framework, tmp_path, recwarn):
    model, values = tiny(framework, "BlipForPreTraining"), pairs("BlipForPreTraining")
    model.save_pretrained(tmp_path)
    expected = framework.run(model, values)
    texts = {name: values[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    captioner = framework.of("BlipForConditionalGeneration").from_pretrained(tmp_path)
    started = texts["input_ids"].copy()
    started[:, 0] = model.config.text_config.bos_token_id
    logits = framework.run(captioner, texts | {"input_ids": started}).logits
    assert difference(expected.logits, logits) < 1e-5
    matcher = framework.of("BlipForImageTextRetrieval").from_pretrained(tmp_path)
    assert difference(numpy(expected.itm_score)[:3], framework.run(matcher, texts).itm_score) < 1e-5
    assert matcher.has_momentum
    assert np.array_equal(framework.weights(matcher)["image_queue"], framework.weights(model)["image_queue"])
    assert (framework.weights(matcher)["idx_queue"] == -100).all()
    assert not [w for w in recwarn if "initialised at random" in str(w.message)]


def test_momentum_encoders_begin_as_copies(framework, tmp_path):
    model = framework.of("BlipForImageTextRetrieval")(CONFIGS_OF["wide"])
    model.save_pretrained(tmp_path)
    model = framework.of("BlipForImageTextRetrieval").from_pretrained(tmp_path)
    assert not model.has_momentum
    with pytest.raises(ValueError, match=r"no training state; call start_momentum\(\) before the optimizer is made"):
        framework.run(model, pairs("BlipForImageTextRetrieval"))
    model.start_momentum()
    weights = framework.weights(model)
    copies = [name for name in weights if "_m." in name]
    assert len(copies) > 50
    assert all(np.array_equal(weights[name], weights[name.replace("_m.", ".", 1)]) for name in copies)
    assert difference(np.ones(6), np.linalg.norm(weights["text_queue"], axis=0)) < 1e-6
    start = weights["text_encoder.encoder.layer.0.intermediate.dense.weight"]
    framework.adamw(model, lr=0.1, weight_decay=0.0)(pairs("BlipForImageTextRetrieval"))
    before = framework.weights(model)
    framework.run(model, pairs("BlipForImageTextRetrieval"), training=True)
    after = framework.weights(model)["text_encoder_m.encoder.layer.0.intermediate.dense.weight"]
    moved = 0.005 * (before["text_encoder.encoder.layer.0.intermediate.dense.weight"] - start)
    assert difference(moved, after - start) < 1e-3


def test_a_queue_of_any_size(framework):
    head = "BlipForImageTextRetrieval"
    for size, batch in ((5, 3), (3, 5)):
        model = tiny(framework, head, queue_size=size)
        kept: list[int] = []
        for step in range(3):
            values = pairs(head, batch, seed=step)
            values["image_ids"] = np.arange(batch) + batch * step
            framework.run(model, values, training=True)
            kept = [*kept, *values["image_ids"].tolist()]
        weights = framework.weights(model)
        assert sorted(weights["idx_queue"][0].tolist()) == kept[-size:]
        assert weights["ptr_queue"] == [3 * batch % size]
        assert weights["idx_queue"][0, weights["ptr_queue"][0] - 1] == kept[-1]


def test_negatives_are_never_the_right_pair():
    from blip_pt.momentum import draw as pt_draw
    from blip_tf.momentum import draw as tf_draw

    weights = np.array([[0, 1, 3], [2, 0, 2], [1e-30, 0, 0]], np.float32)
    for noise in (0.0, 0.24, 0.26, 1.0):  # 1 is what numbers just below it become in float32
        given = np.full(3, noise, np.float32)
        chosen = pt_draw(torch.from_numpy(weights), torch.from_numpy(given)).numpy()
        assert np.array_equal(chosen, [1 if noise < 0.25 else 2, 0 if noise < 0.5 else 2, 0])
        assert np.array_equal(chosen, tf_draw(tf.constant(weights), tf.constant(given)))


BAD_BATCHES = {
    r"image_ids must be of shape \(3,\), one whole number of each pair, got int64 of": {"image_ids": np.array([1, 2])},
    "got int64 of shape \\(1, 3\\)": {"image_ids": np.array([[1, 2, 3]])},
    "got float32 of shape": {"image_ids": np.array([0.2, 0.7, 1.5], np.float32)},
    "a text for each picture, got 2 pictures, 3 texts": {"pixel_values": pairs("")["pixel_values"][:2]},
    "no negatives to learn from": {"image_ids": np.array([4, 4, 4])},
    "noise must be of shape": {"noise": np.zeros((2, 4), np.float32)},
    "Give pixel_values to train": {"pixel_values": None},
    "With image_ids the call gives losses": {"output_attentions": True},
}


@pytest.mark.parametrize("message", BAD_BATCHES)
def test_batches_that_cannot_be_trained_on(framework, message):
    head = "BlipForImageTextRetrieval"
    with pytest.raises(ValueError, match=message):
        framework.run(tiny(framework, head), pairs(head) | BAD_BATCHES[message], training=True)


@pytest.mark.parametrize("head", CONTRASTIVE)
def test_a_batch_of_one_has_no_negatives(framework, head):
    with pytest.raises(ValueError, match="no negatives to learn from; use batches of two different pictures or more"):
        framework.run(tiny(framework, head), pairs(head, batch=1), training=True)


# training -----------------------------------------------------------------------------------------------------------


def batch_of(head, step):
    if head in CONTRASTIVE:
        return pairs(head, 4, seed=step)
    noise, values = np.random.default_rng(step), inputs(head, CONFIGS_OF["wide"])
    values["pixel_values"] = noise.normal(size=values["pixel_values"].shape).astype(np.float32)
    values["input_ids"] = np.where(values["attention_mask"], noise.integers(6, 80, (2, 7)), 0)
    if head != "BlipForNLVR":
        values["labels"] = np.where(values["attention_mask"], values["input_ids"], -100)
    if head == "BlipForQuestionAnswering":  # one question has two answers
        values["labels"] = np.concatenate([values["labels"], values["labels"][:1, ::-1]])
        values["answer_counts"], values["answer_weights"] = np.array([1, 2]), np.array([1, 0.3, 0.7], np.float32)
    return values


def trained_part(name, value):
    """A weight without the biases of keys, whose gradients are rounding errors: a softmax ignores a common shift."""
    if name.endswith("key.bias"):
        return value[:0]
    return np.delete(value.reshape(3, -1), 1, axis=0) if name.endswith("qkv.bias") else value


@pytest.mark.parametrize(
    "head",
    [
        *CONTRASTIVE,
        pytest.param("BlipForNLVR", marks=pytest.mark.slow),
        pytest.param("BlipForConditionalGeneration", marks=pytest.mark.slow),
        pytest.param("BlipForQuestionAnswering", marks=pytest.mark.slow),
    ],
)
def test_twenty_steps_are_the_same_in_both_frameworks(head):
    models = {framework: tiny(framework, head) for framework in FRAMEWORKS.values()}
    one, other = (framework.adamw(model, lr=2e-5, weight_decay=0.05) for framework, model in models.items())
    start = PyTorch.weights(models[PyTorch])
    for step in range(20):
        expected, found = one(batch_of(head, step)), other(batch_of(head, step))
        assert expected.keys() == found.keys()
        for name in expected:
            assert abs(found[name] - expected[name]) < 1e-4 * abs(expected[name]), (step, name)
    ends = [framework.weights(model) for framework, model in models.items()]
    moved = 0
    for name in start:
        before, expected, found = (trained_part(name, weights[name]) for weights in (start, *ends))
        if before.size and np.abs(expected).max() > 0:
            assert difference(expected, found) < 1e-4, name
            moved += not np.array_equal(before, expected)
    assert moved > 40


def test_stochastic_depth(framework):
    torch.manual_seed(0)
    tf.random.set_seed(0)
    config = BlipVisionConfig.from_dict(CONFIGS_OF["wide"].vision_config.to_dict() | {"drop_path_rate": 0.5})
    model = framework.of("BlipVisionModel")(config)
    assert [block.drop_path for block in model.encoder.layers] == [0, 0.25, 0.5]
    pixels = np.repeat(pairs("")["pixel_values"][:1], 400, axis=0)
    assert difference(*(framework.run(model, {"pixel_values": pixels}).last_hidden_state for _ in range(2))) == 0
    output = framework.run(model, {"pixel_values": pixels, "output_hidden_states": True}, training=True)
    states = [numpy(x) for x in output.hidden_states]
    first = (states[0], states[1])
    assert all(difference(state[:1].repeat(400, axis=0), state) < 1e-6 for state in first)  # the first block stays
    unchanged = np.abs(states[2] - states[1]).max(axis=(1, 2)) == 0
    assert 0.03 < unchanged.mean() < 0.1  # attention and MLP both left out: 1 in 16
    both = {tuple(np.round(change[0], 3)) for change in states[2] - states[1]}
    assert len(both) == 4


def test_stochastic_depth_of_original_checkpoints(framework):
    assert BlipConfig.large().vision_config.drop_path_rate == 0.1
    assert original(framework, "BlipForNLVR", "nlvr")[0].config.vision_config.drop_path_rate == 0.1
    assert original(framework, "BlipForQuestionAnswering", "vqa")[0].config.vision_config.drop_path_rate == 0.1
    assert original(framework, "BlipForPreTraining", "pretrain")[0].config.vision_config.drop_path_rate == 0


def test_no_negatives_in_a_graph():
    head = "BlipForImageTextRetrieval"
    model, values = tiny(FRAMEWORKS["tf"], head), to_tf(pairs(head) | {"image_ids": np.array([4, 4, 4])})
    with pytest.raises(tf.errors.InvalidArgumentError, match="no negatives to learn from"):
        tf.function(lambda given: model(**given).loss)(values)


def test_fit_and_keras_files_with_training_state(tmp_path):
    head = "BlipForImageTextRetrieval"
    model = tiny(FRAMEWORKS["tf"], head)
    model.compile(optimizer=keras.optimizers.SGD(1e-3))
    history = model.fit(tf.data.Dataset.from_tensors(to_tf(pairs(head))).repeat(4), epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    weights = TensorFlow.weights(model)
    assert weights["ptr_queue"] == [0]  # four batches of three in a queue of six
    model.save(tmp_path / "model.keras")
    loaded = TensorFlow.weights(keras.saving.load_model(tmp_path / "model.keras"))
    assert loaded.keys() == weights.keys()
    assert all(np.array_equal(weights[name], loaded[name]) for name in weights)


@pytest.mark.parametrize("head", CONTRASTIVE)
def test_the_temperature_stays_in_bounds(framework, head):
    model = tiny(framework, head)
    for given, kept in ((0.7, 0.5), (-0.2, 0.001), (0.3, 0.3)):
        if framework is PyTorch:
            model.temp.data.fill_(given)
        else:
            model.temp.assign(given)
        framework.run(model, pairs(head), training=True)
        assert float(framework.weights(model)["temp"]) == pytest.approx(kept)


def test_pretraining_with_ids_of_what_pairs_show():
    """Without ids each pair is for itself; pairs with one id share the targets, the same in both frameworks."""
    losses = {}
    for framework in FRAMEWORKS.values():
        model, values = tiny(framework, "BlipForPreTraining"), pairs("BlipForPreTraining", 4)
        for name, ids in (("none", None), ("own", [7, 3, 0, 9]), ("shared", [5, 5, 0, 9])):
            given = values if ids is None else values | {"image_ids": np.array(ids)}
            output = framework.run(model, given | {"alpha": 0.0})
            losses.setdefault(name, []).append(
                [float(numpy(output[loss])) for loss in ("loss_itc", "loss_itm", "loss_lm")]
            )
    assert np.array_equal(losses["none"], losses["own"])
    np.testing.assert_allclose(losses["shared"][0], losses["shared"][1], rtol=1e-5)
    assert abs(losses["shared"][0][0] - losses["own"][0][0]) > 1e-3
    assert losses["shared"][0][2] == losses["own"][0][2]


@pytest.mark.parametrize("ids", [None, [4, 8, 4, 2]])
def test_any_wrong_pair_may_be_drawn_and_never_a_right_one(framework, monkeypatch, ids):
    for head, least in (("BlipForImageTextRetrieval", 1e-30), ("BlipForPreTraining", 1e-4)):
        model, values, seen = tiny(framework, head), pairs(head, 4), []
        values |= {} if ids is None else {"image_ids": np.array(ids)}
        loss = type(model).matching_loss
        monkeypatch.setattr(type(model), "matching_loss", lambda *a, of=loss, to=seen: to.append(a[3]) or of(*a))
        framework.run(model, values)
        ids = values.get("image_ids", np.arange(4))
        for weights in seen[0]:
            right = ids[:, None] == ids
            assert (numpy(weights)[right] == 0).all()
            assert (numpy(weights)[~right] >= np.float32(least)).all()
            assert (numpy(weights).sum(axis=1) < 1 + 4e-4).all()


def test_training_state_is_made_where_a_checkpoint_lacks_it(framework, tmp_path):
    framework.of("BlipForImageTextRetrieval")(CONFIGS_OF["wide"]).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="no text decoder's self-attention, no language-modelling head"):
        model = framework.of("BlipForPreTraining").from_pretrained(tmp_path)
    before = framework.weights(model)
    copies = [name for name in before if "_m." in name]
    assert all(np.array_equal(before[name], before[name.replace("_m.", ".", 1)]) for name in copies)
    framework.adamw(model, lr=0.1, weight_decay=0.0)(pairs("BlipForPreTraining"))
    after = framework.weights(model)
    assert all(np.allclose(before[name], after[name], rtol=0, atol=1e-6) for name in copies)  # as the model was
    assert not np.array_equal(before["vision_proj.weight"], after["vision_proj.weight"])


def test_training_state_keeps_float32(framework, tmp_path):
    tiny(PyTorch, "BlipForPreTraining").save_pretrained(tmp_path)
    model = framework.of("BlipForPreTraining").from_pretrained(tmp_path, dtype="bfloat16")
    kinds = {
        str(w.dtype).removeprefix("torch.")
        for w in (model.text_encoder_m.encoder.layer[0].intermediate.dense.weight, model.temp)
    }
    kind = str(model.text_encoder.encoder.layer[0].intermediate.dense.weight.dtype).removeprefix("torch.")
    assert (kind, kinds - {"bfloat16"}) == ("bfloat16", {"float32"})
    assert np.isfinite(float(numpy(framework.run(model, pairs("BlipForPreTraining"), training=True).loss)))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_momentum_is_exact_under_a_mixed_policy(policy, tmp_path):
    head = "BlipForPreTraining"
    tiny(PyTorch, head).save_pretrained(tmp_path)
    model = TensorFlow.of(head).from_pretrained(tmp_path, dtype=policy)
    before = TensorFlow.weights(model)
    output = TensorFlow.run(model, pairs(head), training=True)
    assert np.isfinite(float(output.loss))
    after = TensorFlow.weights(model)
    for name in (
        "text_encoder_m.encoder.layer.0.intermediate.dense.weight",
        "vision_model_m.embeddings.class_embedding",
    ):
        expected = 0.995 * before[name] + 0.005 * before[name.replace("_m.", ".", 1)]
        assert difference(expected, after[name]) < 1e-6
    whole = TensorFlow.run(TensorFlow.of(head).from_pretrained(tmp_path), pairs(head), training=True)
    assert difference(whole.loss, output.loss) < 0.02
