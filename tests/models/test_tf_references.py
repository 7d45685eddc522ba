"""The TensorFlow models on checkpoints of transformers."""

from pathlib import Path

import pytest
import tensorflow as tf
from torch.utils import _pytree as pytree

import blip_pt
import blip_tf
from tests.helpers.tensorflow_models import difference, inputs, to_pt, to_tf

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
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
