"""What callers hook into a search, and the options of transformers: formulas, on a table of logits."""

import numpy as np
import pytest

from blip_core.generation import GenerationConfig, generate
from blip_core.generation.generation_hooks import Hooks
from blip_core.generation.logits import LogitsProcessor, Place
from blip_core.generation.scores import softmax
from blip_core.generation.transition_scores import transition_scores
from tests.helpers.generation_table import TABLE, TableSession

END, PAD, VOCAB = 7, 0, len(TABLE)


def run(prompts=((5,),), hooks=None, **options):
    """What the table writes after prompts, padded to the longest."""
    longest = max(map(len, prompts))
    ids = np.array([[*prompt, *[PAD] * (longest - len(prompt))] for prompt in prompts])
    mask = np.array([[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in prompts])
    config = GenerationConfig(**{"eos_token_id": END, "pad_token_id": PAD, "max_new_tokens": 6, **options})
    return generate(TableSession(), ids, mask, config, hooks=Hooks.taken_from(hooks or {})[0])


def processed(scores, place=None, **options):
    """Scores after the steps that options ask for."""
    scores = np.array(scores, np.float32)
    config = GenerationConfig(**{"eos_token_id": 1, "do_sample": True, "top_k": 0, **options})
    processor = LogitsProcessor(config, len(scores))
    for step in (*processor.rules, *processor.filters):
        step(scores, place or Place([3]))
    return scores


# options ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"min_p": 0.49}, [0, 1, 2]),  # 0.4 x 0.49
        ({"min_p": 0.6}, [0, 1]),
        ({"min_p": 1.0}, [0]),
        ({"epsilon_cutoff": 0.15}, [0, 1, 2]),
        ({"epsilon_cutoff": 0.5}, [0]),  # the best one is always kept
        ({"typical_p": 0.2}, [1]),  # the entropy is 1.38, the surprises are 0.92, 1.35, 1.61, 2.12 and 3.91
        ({"typical_p": 0.5}, [0, 1, 2]),
        ({"typical_p": 0.4}, [1, 2]),
    ],
)
def test_filters(options, kept):
    scores = processed(np.log([0.4, 0.26, 0.2, 0.12, 0.02]), **options)
    assert np.flatnonzero(np.isfinite(scores)).tolist() == kept


def test_eta_follows_the_entropy():
    flat = np.zeros(1000)
    assert np.isfinite(processed(flat, eta_cutoff=0.01)).all()  # 0.01 is more than 1 / 1000, sqrt(0.01) / 1000 is less
    assert np.isfinite(processed(np.r_[flat, 1.0], epsilon_cutoff=0.01)).sum() == 1
    peaked = np.log([0.97, 0.02, 0.01])
    entropy = -(np.exp(peaked) * peaked).sum()
    least = min(0.015, np.sqrt(0.015) * np.exp(-entropy))
    assert np.isfinite(processed(peaked, eta_cutoff=0.015)).tolist() == [p >= least for p in np.exp(peaked)]


def test_biases_and_bans():
    place = Place([3, 4], prompt_length=2)
    bias = [[[2], 1.5], [[3, 4, 0], 9.0], [[4, 1], -2.0], [[0, 1], 5.0]]
    assert processed([0.0] * 5, place, sequence_bias=bias).tolist() == [0, -2, 1.5, 0, 0]  # the longest is too long
    assert processed([0.0] * 5, Place([9, 3, 4]), sequence_bias=bias).tolist() == [9, -2, 1.5, 0, 0]
    assert GenerationConfig(sequence_bias={(2,): 1.5}).sequence_bias == [[[2], 1.5]]
    assert np.isfinite(processed([0.0] * 5, place, suppress_tokens=[0, 4])).tolist() == [False, True, True, True, False]
    first = {"begin_suppress_tokens": [2]}
    assert not np.isfinite(processed([0.0] * 3, Place([0], prompt_length=1), **first)[2])
    assert np.isfinite(processed([0.0] * 3, Place([0, 1], prompt_length=1), **first)).all()
    prompt = Place([0, 1, 2], prompt_length=2)
    assert processed([4.0, -4.0, 4.0], prompt, encoder_repetition_penalty=2.0).tolist() == [8.0, -2.0, 4.0]


def test_forced_tokens_and_decay():
    assert processed([1.0, 2.0, 3.0], Place([0]), forced_bos_token_id=1).tolist() == [-np.inf, 0, -np.inf]
    assert processed([1.0, 2.0, 3.0], Place([0, 0]), forced_bos_token_id=1).tolist() == [1, 2, 3]
    last = Place([0, 0], longest=3)
    assert processed([1.0, 2.0, 3.0], last, forced_eos_token_id=1).tolist() == [-np.inf, 0, -np.inf]
    text = Place([0] * 6, prompt_length=2)
    decay = {"exponential_decay_length_penalty": (2, 1.5)}
    assert processed([1.0, -2.0, 3.0], text, **decay).tolist() == [1, -2 + 2 * (1.5**2 - 1), 3]
    assert processed([1.0, -2.0, 3.0], Place([0] * 4, prompt_length=2), **decay).tolist() == [1, -2, 3]
    assert softmax(processed([1.0, 2.0], renormalize_logits=True)).sum() == pytest.approx(1)
    assert np.exp(processed([1.0, 2.0], renormalize_logits=True)).sum() == pytest.approx(1)


def test_time_is_up():
    assert run(max_time=1e-9, eos_token_id=None).sequences.shape == (1, 2)
    assert run(max_time=1e-9, eos_token_id=None, num_beams=3).sequences.shape == (1, 2)
    assert run(max_time=60.0, eos_token_id=None).sequences.shape == (1, 7)


@pytest.mark.parametrize("name", ["output_scores", "output_logits", "output_attentions", "output_hidden_states"])
def test_details_alone_have_no_effect(name):
    with pytest.warns(UserWarning, match=f"{name}: no effect with greedy search"):
        found = run(**{name: True})
    assert list(found.keys()) == ["sequences"]


def test_options_of_other_packages():
    config = GenerationConfig().updated(use_cache=False, synced_gpus=False, num_beam_groups=1, assistant_model=None)
    assert config == GenerationConfig()
    with pytest.raises(ValueError, match=r"low_memory=True, penalty_alpha=0\.6: generate of this package does not"):
        GenerationConfig().updated(low_memory=True, penalty_alpha=0.6)


def test_a_configuration_of_another_package_is_understood():
    class Theirs:
        def to_dict(self):
            return {"max_length": 20, "num_beams": 3, "top_p": None, "eos_token_id": [2], "transformers_version": "5"}

    model = GenerationConfig(prompt_ids=[4])
    found = GenerationConfig.of(Theirs(), model)
    assert (found.num_beams, found.top_p, found.prompt_ids, found.length_limits(9)) == (3, 1.0, [4], (0, 29))
    assert GenerationConfig.of(None, model) is model
    assert GenerationConfig.of({"num_beams": 2}, model).num_beams == 2
    with pytest.raises(ValueError, match="generation_config must be a GenerationConfig, got int"):
        GenerationConfig.of(5, model)


# hooks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beams", [1, 3])
def test_processors_see_the_whole_batch(beams):
    seen = []

    def watch(ids, scores):
        seen.append((ids.copy(), scores.shape))
        changed = scores.copy()
        changed[:, 9] = 50
        return changed

    prompts = [(5,), (11, 12, 13)]
    found = run(prompts, {"logits_processor": [watch]}, num_beams=beams, max_new_tokens=4)
    assert found.sequences[0, :5].tolist() == [5, 9, 9, 9, 9]
    assert found.sequences[1].tolist() == [11, 12, 13, 9, 9, 9, 9]
    assert [shape for _, shape in seen] == [(2 * beams, VOCAB)] * 4
    assert seen[0][0].tolist() == [[PAD, PAD, 5]] * beams + [[11, 12, 13]] * beams  # padded on the left
    assert seen[1][0][[0, beams]].tolist() == [[PAD, PAD, 5, 9], [11, 12, 13, 9]]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_processor_that_changes_nothing_changes_nothing(beams):
    prompts = [(5,), (11, 12, 13), (2, 3)]
    plain = run(prompts, num_beams=beams, max_new_tokens=9)
    assert np.array_equal(run(prompts, {"logits_processor": lambda ids, scores: scores}, num_beams=beams,
                              max_new_tokens=9).sequences, plain.sequences)  # fmt: skip


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("answer", ["rows", "one"])
def test_criteria_end_texts(beams, answer):
    def three(ids, scores, **kwargs):
        assert scores is None
        late = ids.shape[1] >= 4
        return late if answer == "one" else np.full(len(ids), late)

    found = run([(5,), (6,)], {"stopping_criteria": [three]}, num_beams=beams, eos_token_id=None)
    assert found.sequences.shape == (2, 4)


def test_criteria_end_single_rows():
    def after_a_while(ids, scores):
        return (ids[:, 0] == 5) & (ids.shape[1] >= 3)

    found = run([(5,), (6,)], {"stopping_criteria": after_a_while}, eos_token_id=None)
    assert found.sequences.shape == (2, 7)
    assert (found.sequences[0, 3:] == PAD).all()
    assert (found.sequences[1] != PAD).any()


@pytest.mark.parametrize("beams", [1, 2])
def test_allowed_tokens(beams):
    def allowed(item, tokens):
        return [10 + item, 12] if len(tokens) < 4 else [END]

    found = run([(5,), (6,)], {"prefix_allowed_tokens_fn": allowed}, num_beams=beams).sequences
    assert found[:, 4].tolist() == [END, END]
    assert set(found[0, 1:4]) <= {10, 12}
    assert set(found[1, 1:4]) <= {11, 12}


def test_streamers():
    class Stream(list):
        def put(self, value):
            self.append(value.tolist())

        def end(self):
            self.append("end")

    stream = Stream()
    found = run([(5,), (6,)], {"streamer": stream}, max_new_tokens=5).sequences
    assert stream[0] == [[5], [6]]
    assert np.array_equal(np.array(stream[1:-1]).T, found[:, 1:])
    assert stream[-1] == "end"
    with pytest.raises(ValueError, match="streamer needs num_beams=1"):
        run(hooks={"streamer": stream}, num_beams=2)


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"logits_processor": [5]}, "logits_processor must hold functions of"),
        ({"streamer": print}, "streamer must have the methods put and end"),
        ({"prefix_allowed_tokens_fn": 5}, "prefix_allowed_tokens_fn must be a function"),
        ({"prefix_allowed_tokens_fn": lambda item, tokens: []}, "allows no token after"),
        ({"logits_processor": [lambda ids, scores: scores[:, :3]]}, "must return scores of shape"),
        ({"stopping_criteria": [lambda ids, scores: np.zeros(7, bool)]}, "must return one bool, or 1"),
    ],
)
def test_wrong_hooks(hooks, message):
    with pytest.raises(ValueError, match=message):
        run(hooks=hooks)


# scores of texts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beams", [1, 3])
def test_transition_scores(beams):
    details = {"output_scores": True, "output_logits": True, "return_dict_in_generate": True}
    found = run([(5,), (6,)], num_beams=beams, repetition_penalty=1.4, **details)
    assert len(found.logits) == len(found.scores)
    own = transition_scores(found.sequences, found.logits, found.beam_indices, normalize_logits=True)
    assert np.allclose(own, np.nan_to_num(found.token_log_probs), atol=1e-5)
    chosen = transition_scores(found.sequences, found.scores, found.beam_indices)
    if beams > 1:
        lengths = (found.beam_indices >= 0).sum(axis=1)
        assert np.allclose(chosen.sum(axis=1) / lengths, found.sequences_scores, atol=1e-5)
    with pytest.raises(ValueError, match="scores are missing"):
        transition_scores(found.sequences, ())
    with pytest.raises(ValueError, match="not of one call"):
        transition_scores(found.sequences[:1, :2], found.scores, found.beam_indices)
