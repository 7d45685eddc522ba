"""The TensorFlow models against the original implementation's numbers, and on checkpoints of transformers."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from torch.utils import _pytree as pytree

import blip_pt
import blip_tf
from tests.tf_helpers import difference, inputs, to_pt, to_tf

REFERENCE = Path(__file__).parent / "data" / "reference"
ORIGINAL, TRANSFORMERS = REFERENCE / "original", REFERENCE / "transformers"


@pytest.mark.parametrize("head", ["BlipModel", "BlipForConditionalGeneration"])
def test_a_checkpoint_of_transformers(head):
    """Its `pytorch_model.bin` in both frameworks."""
    kinds = getattr(blip_pt, head), getattr(blip_tf, "TF" + head)
    pt, tf_model = (kind.from_pretrained(TRANSFORMERS / head) for kind in kinds)
    values = inputs(head, pt.config)
    expected = pt(**to_pt(values))
    for one, other in zip(pytree.tree_leaves(expected), tf.nest.flatten(tf_model(**to_tf(values))), strict=True):
        assert difference(one, other) < 1e-5


def original(head, name):
    config = {
        "text_config": {"num_attention_heads": 2, "bos_token_id": 198, "sep_token_id": 102},
        "vision_config": {"num_attention_heads": 3},
        "enc_token_id": 199,
    }
    data = np.load(ORIGINAL / f"{name}.npz")
    return getattr(blip_tf, head).from_pretrained(ORIGINAL / f"{name}.pth", config=config), data


def check_gradient_norms(model, tape, loss, data):
    expected = dict(zip(data["grad_names"].tolist(), data["grad_norms"].tolist(), strict=True))
    largest, compared = max(expected.values()), 0
    table = model.table()
    for parameter, gradient in zip(
        table, tape.gradient(loss, [model.get_parameter(p.name) for p in table]), strict=True
    ):
        names = parameter.places("visual_encoder." if parameter.name.startswith("vision_model.") else
                                 parameter.part.prefixes[0])  # fmt: skip
        name = next((name for name in names if name in expected), None)
        if name is not None:
            norm = float(tf.norm(tf.convert_to_tensor(gradient)))
            assert abs(norm - expected[name]) < 1e-4 * max(expected[name], 1e-3 * largest), name
            compared += 1
    assert compared > 0.9 * len(table)


def test_captioning_as_the_original():
    model, data = original("TFBlipForConditionalGeneration", "caption")
    ids, mask = data["input_ids"].copy(), data["attention_mask"]
    ids[:, 0] = 198
    labels = np.where(mask, ids, -100)
    labels[:, : data["prompt_length"]] = -100
    with tf.GradientTape() as tape:
        output = model(data["pixel_values"], ids, mask, labels)
    assert difference(data["image_embeds"], output.image_embeds) < 1e-5
    assert difference(data["logits"], output.logits) < 1e-5
    assert difference(data["loss"], output.loss) < 1e-5
    check_gradient_norms(model, tape, output.loss, data)


def test_matching_as_the_original():
    model, data = original("TFBlipForImageTextRetrieval", "itm")
    model.config.enc_token_id = None  # the original's inference leaves [CLS] in place
    texts = data["input_ids"], data["attention_mask"]
    assert difference(data["itm_logits"], model(data["pixel_values"], *texts).itm_score) < 1e-5
    found = model(data["pixel_values"], *texts, use_itm_head=False).itm_score
    assert difference(data["itc_similarity"], found) < 1e-5


def test_answering_as_the_original():
    model, data = original("TFBlipForQuestionAnswering", "vqa")

    def texts(lines, filler):
        rows = [[101, *map(int, line.split()), 102] for line in lines]
        width = max(map(len, rows))
        return np.array([row + [filler] * (width - len(row)) for row in rows])

    ids = texts(data["questions"], 0)
    labels = texts(data["answers"], -100)
    labels[:, 0] = 198
    with tf.GradientTape() as tape:
        loss = model(
            data["pixel_values"], ids, (ids != 0).astype(int), labels,
            decoder_attention_mask=(labels != -100).astype(int),
            answer_counts=data["n_answers"].tolist(), answer_weights=data["weights"],
        ).loss  # fmt: skip
    assert difference(data["loss"], loss) < 1e-5
    check_gradient_norms(model, tape, loss, data)
