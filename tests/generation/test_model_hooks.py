"""Hooks and details of `generate` of the models: tensors of the framework go in and out."""

import numpy as np
import pytest

from tests.helpers.random_models import CONFIGS_OF, numpy

CONFIG = CONFIGS_OF["wide"]
PIXELS = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module", params=["pt", "tf"])
def captioner(request):
    """A captioner, its pictures, and the type of its framework's tensors."""
    if request.param == "pt":
        import torch

        import blip_pt

        torch.manual_seed(3)
        return blip_pt.BlipForConditionalGeneration(CONFIG).eval(), torch.from_numpy(PIXELS), torch.Tensor
    import tensorflow as tf

    import blip_tf

    tf.random.set_seed(3)
    return blip_tf.TFBlipForConditionalGeneration(CONFIG), tf.constant(PIXELS), tf.Tensor


@pytest.mark.parametrize("beams", [1, 2])
def test_hooks_get_tensors(captioner, beams):
    model, pixels, kind = captioner
    seen = []

    def raise_nine(input_ids, scores):
        seen.extend([input_ids, scores])
        raised = np.asarray(scores).copy()
        raised[:, 9] += 90
        return raised

    def third(input_ids, scores, **kwargs):
        seen.append(input_ids)
        return input_ids[:, 0] * 0 + int(input_ids.shape[1] >= 4) == 1

    def allowed(item, tokens):
        seen.append(tokens)
        return [9, 10 + item]

    hooks = {
        "logits_processor": [raise_nine, lambda input_ids, scores: scores * 2],
        "stopping_criteria": [third],
        "prefix_allowed_tokens_fn": allowed,
    }
    found = model.generate(pixels, num_beams=beams, **hooks)
    assert np.asarray(found).tolist() == [[88, 9, 9, 9]] * 2
    assert all(isinstance(tensor, kind) for tensor in seen)


def test_a_streamer_gets_tensors(captioner):
    model, pixels, kind = captioner

    class Stream(list):
        def put(self, value):
            assert isinstance(value, kind)
            self.append(np.asarray(value))

        def end(self):
            self.append(None)

    stream = Stream()
    found = np.asarray(model.generate(pixels, streamer=stream, max_new_tokens=5))
    assert stream[0].tolist() == [[88], [88]]
    assert np.array_equal(np.array(stream[1:-1]).T, found[:, 1:])
    assert stream[-1] is None


@pytest.mark.parametrize("beams", [1, 2])
def test_details(captioner, beams):
    model, pixels, kind = captioner
    prompts = np.array([[88, 20, 21], [88, 30, 31]])
    details = dict.fromkeys(("output_scores", "output_logits", "output_attentions", "output_hidden_states"), True)
    options = {"max_new_tokens": 4, "eos_token_id": None, "num_beams": beams, "return_dict_in_generate": True}
    ids = prompts if kind.__module__.startswith("tensorflow") else model.generate(pixels).new_tensor(prompts)
    found = model.generate(pixels, ids, **options, **details)
    rows, heads, width = 2 * beams, 2, 32
    assert len(found.logits) == len(found.attentions) == len(found.hidden_states) == len(found.cross_attentions) == 4
    for step in range(4):
        new, length = (3, 3) if step == 0 else (1, 3 + step)
        assert [tuple(layer.shape) for layer in found.attentions[step]] == [(rows, heads, new, length)] * 2
        assert [tuple(layer.shape) for layer in found.cross_attentions[step]] == [(rows, heads, new, 17)] * 2
        assert [tuple(layer.shape) for layer in found.hidden_states[step]] == [(rows, new, width)] * 3
        assert np.allclose(np.asarray(found.attentions[step][0]).sum(axis=-1), 1, atol=1e-5)
    last = numpy(model.text_decoder.cls(found.hidden_states[2][-1]))[:, -1]
    assert np.allclose(last, np.asarray(found.logits[2]), atol=1e-4)
    scores = model.compute_transition_scores(found.sequences, found.logits, found.beam_indices, normalize_logits=True)
    assert isinstance(scores, kind)
    assert np.allclose(np.asarray(scores), np.asarray(found.token_log_probs), atol=1e-5)


def test_a_configuration_as_keyword(captioner):
    model, pixels, _ = captioner
    found = model.generate(pixels, generation_config={"max_new_tokens": 3, "eos_token_id": None}, use_cache=True)
    assert found.shape[1] <= 4
    again = model.generate(pixels, max_new_tokens=3, eos_token_id=None, use_cache=False)
    assert np.array_equal(numpy(again), numpy(found))
    with pytest.raises(ValueError, match="low_memory=True"):
        model.generate(pixels, low_memory=True)
