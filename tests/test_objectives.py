"""The training objectives and rankings of the paper in both frameworks, against the original's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.frameworks import FRAMEWORKS, check_gradients, original, to_tokens
from tests.helpers import difference


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return FRAMEWORKS[request.param]


# NLVR ---------------------------------------------------------------------------------------------------------------


def nlvr_batch(reference):
    ids, mask = to_tokens(reference["sentences"])
    pictures = reference["pixel_values"]  # all first pictures, then all second ones
    pairs = np.stack(np.split(pictures, 2), axis=1)
    return {"pixel_values": pairs, "input_ids": ids, "attention_mask": mask, "labels": reference["targets"]}


def test_nlvr_as_the_original(framework):
    model, reference = original(framework, "BlipForNLVR", "nlvr")
    output, gradients = framework.gradients(model, nlvr_batch(reference))
    assert difference(reference["logits"], output.logits) < 1e-5
    assert difference(reference["loss"], output.loss) < 1e-5
    check_gradients(model, gradients, reference)
