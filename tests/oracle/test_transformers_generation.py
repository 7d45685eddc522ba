"""Generation search against `generate` of transformers, on single examples of a tiny random text decoder."""

import itertools
import json
import random

import numpy as np
import pytest
import torch
from transformers import (
    BlipTextConfig,
    BlipTextLMHeadModel,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers import GenerationConfig as TheirConfig
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import CausalLMOutput

from blip_core.generation import GenerationConfig, generate
from blip_core.generation.generation_hooks import Hooks, Tensors
from blip_core.generation.scores import draw
from blip_core.generation.transition_scores import transition_scores
from tests.helpers.generation_table import REFERENCE, TABLE
from tests.helpers.transformers_pairs import assert_close, inputs

pytestmark = pytest.mark.oracle
VOCAB, END, PAD = 64, 7, 0


class Session:
    """A decoding session that runs the whole text through the model at every step."""

    def __init__(self, model, states):
        self.model, self.states = model, states

    def prefill(self, input_ids, attention_mask):
        assert attention_mask.all()
        self.texts = torch.tensor(input_ids)
        return self.logits()

    def step(self, tokens):
        self.texts = torch.cat([self.texts, torch.tensor(tokens)[:, None]], dim=1)
        return self.logits()

    def select(self, rows):
        assert not np.array_equal(rows, np.arange(len(self.texts)))
        self.texts = self.texts[torch.tensor(rows)]

    def logits(self):
        states = self.states.expand(len(self.texts), -1, -1)
        with torch.no_grad():
            return self.model(self.texts, encoder_hidden_states=states, is_decoder=True).logits[:, -1].float().numpy()


@pytest.fixture(scope="module")
def models():
    """Decoders whose end token comes early, now and then, and hardly ever.

    They compute in float64, so that the KV cache of the one and the whole texts of the other give the same float32.
    """

    def build(seed, end_bias, scale):
        torch.manual_seed(seed)
        config = BlipTextConfig(
            vocab_size=VOCAB, hidden_size=16, encoder_hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, sep_token_id=END,
        )  # fmt: skip
        model = BlipTextLMHeadModel(config).double().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 2:
                    parameter.normal_(std=scale if "decoder" in name else 1.0)
            model.cls.predictions.bias[END] += end_bias
        return model

    return [build(1, 2.2, 0.3), build(2, 4.0, 0.6), build(3, 5.0, 1.0), build(4, -5.0, 0.3)]


def options(rng, beams, sample):
    """Random options that can work together."""
    chosen = {"num_beams": beams, "do_sample": sample, "pad_token_id": PAD, "eos_token_id": END}
    prompt = [rng.randrange(8, VOCAB) for _ in range(rng.randint(1, 6))]
    maybe = lambda chance=0.3: rng.random() < chance  # noqa: E731
    length = rng.choice(["max_length", "max_new_tokens", None])
    room = rng.randint(1, 16)
    if length:
        chosen[length] = room + (len(prompt) if length == "max_length" else 0)
    if maybe():
        chosen["min_new_tokens"] = rng.randint(0, room)
    if maybe():
        chosen["min_length"] = rng.randint(0, len(prompt) + room)
    if maybe(0.2):
        chosen["eos_token_id"] = rng.choice([None, [END, 9], [END]])
    if maybe():
        chosen["repetition_penalty"] = rng.choice([1.1, 1.5, 0.8])
    if maybe():
        chosen["no_repeat_ngram_size"] = rng.choice([1, 2, 3])
    if maybe():
        words = [[rng.randrange(VOCAB) for _ in range(rng.randint(1, 2))] for _ in range(rng.randint(1, 25))]
        chosen["bad_words_ids"] = [*words, [END], prompt[-2:]]
    if beams > 1:
        if maybe(0.6):
            chosen["length_penalty"] = rng.choice([-1.0, 0.0, 0.5, 2.0, -0.3])
        chosen["early_stopping"] = rng.choice([False, True, "never"])
        chosen["num_return_sequences"] = rng.randint(1, beams)
    if sample:
        chosen["top_k"] = rng.choice([0, 50, 20, 12])
        chosen["temperature"] = rng.choice([1.0, 0.7, 1.4])
        chosen["top_p"] = rng.choice([1.0, 0.9, 0.5])
        if beams == 1:
            chosen["num_return_sequences"] = rng.randint(1, 3)
    return prompt, chosen


TENSORS = Tensors(torch.from_numpy, torch.from_numpy, np.asarray)


def compare(model, prompt, chosen, seed=None, make_hooks=dict):
    """`make_hooks` is called for each of the two, as hooks may have a state."""
    torch.manual_seed(len(prompt))
    states = torch.randn(1, 5, 16, dtype=torch.float64)
    chosen = {**chosen, "output_scores": True, "output_logits": True, "return_dict_in_generate": True}
    theirs = model.generate(torch.tensor([prompt]), encoder_hidden_states=states, **chosen, **make_hooks())
    ids, hooks = np.array([prompt]), Hooks.taken_from(make_hooks())[0].with_tensors(TENSORS)
    config = GenerationConfig().updated(**chosen)
    ours = generate(Session(model, states), ids, np.ones_like(ids), config, seed=seed, hooks=hooks)
    lengths = len(prompt) + (~np.isnan(ours.token_log_probs)).sum(axis=1)
    ends = ours.sequences.shape[1]
    assert theirs.sequences.shape == ours.sequences.shape, (prompt, chosen, theirs.sequences, ours.sequences)
    for mine, other, length in zip(ours.sequences, theirs.sequences.numpy(), lengths, strict=True):
        assert mine[:length].tolist() == other[:length].tolist(), (prompt, chosen)
        assert (mine[length:] == PAD).all()
        # transformers' beam search takes a pad_token_id of 0 for none and fills with the end token
        assert set(other[length:]) <= {PAD, END}
    assert ends == lengths.max()
    assert len(ours.scores) == len(theirs.scores) == len(ours.logits) == len(theirs.logits)
    whole = chosen["num_beams"] == 1 or make_hooks is dict
    pairs = zip(ours.scores + ours.logits, theirs.scores + theirs.logits, strict=True)
    for mine, other in pairs if whole else ():  # hooks leave fewer texts than beams; what fills the rest is no text
        live = ~np.isnan(mine).any(axis=1)
        mine, other = mine[live], other.numpy()[live]
        assert np.array_equal(np.isinf(mine), np.isinf(other)), (prompt, chosen)
        mine, other = mine[np.isfinite(mine)], other[np.isfinite(mine)]
        error = float(np.abs(mine - other).max(initial=0) / np.abs(other).max(initial=1e-9))
        assert error <= 1e-6, (prompt, chosen)
    if chosen["num_beams"] > 1:
        np.testing.assert_allclose(ours.sequences_scores, theirs.sequences_scores.numpy(), rtol=1e-5, atol=1e-6)
        assert np.array_equal(ours.beam_indices, theirs.beam_indices.numpy())
    for normalize in (False, True):
        beams = ours.beam_indices if chosen["num_beams"] > 1 else None
        mine = transition_scores(ours.sequences, ours.scores, beams, normalize_logits=normalize)
        other = model.compute_transition_scores(
            theirs.sequences, theirs.scores, theirs.get("beam_indices"), normalize_logits=normalize
        ).numpy()
        live = ~np.isnan(ours.token_log_probs)
        np.testing.assert_allclose(mine[live], other[live], rtol=1e-5, atol=1e-6)
        assert not mine[~live].any()
    return ours


SINGLE = [
    {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}, {"min_length": 12}, {"min_new_tokens": 9},
    {"max_new_tokens": 1}, {"max_length": 20}, {"eos_token_id": [END, 9, 11]}, {"eos_token_id": None},
    {"bad_words_ids": [[20], [21, 22], [END]]}, {},
    {"sequence_bias": [[[20], 2.5], [[31, 22], -3.0], [[END], 1.5], [[12, 31, 40], 4.0]]},
    {"suppress_tokens": [9, 20, 21]}, {"begin_suppress_tokens": [END, 22, 23]}, {"renormalize_logits": True},
    {"forced_eos_token_id": END, "max_new_tokens": 6},
    {"exponential_decay_length_penalty": (3, 1.6)},
]  # fmt: skip


@pytest.mark.parametrize("beams", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("option", SINGLE, ids=str)
def test_each_option_alone(models, beams, option):
    for model in models:
        compare(model, [1, 12, 31], {"num_beams": beams, "pad_token_id": PAD, "eos_token_id": END, **option})


@pytest.mark.parametrize("option", [{"encoder_repetition_penalty": 1.7}, {"encoder_repetition_penalty": 0.6}], ids=str)
def test_the_penalty_of_the_prompt(models, option):
    """Without beams: transformers applies it to the first beam alone."""
    for model in models:
        compare(model, [1, 12, 31, 12], {"num_beams": 1, "pad_token_id": PAD, "eos_token_id": END, **option})


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("prompt", [[1], [1, 12]])
def test_what_begins_a_text(models, beams, prompt):
    for option in ({"forced_bos_token_id": 30}, {"forced_bos_token_id": 30, "begin_suppress_tokens": [END, 12, 20]}):
        for model in models:
            compare(model, prompt, {"num_beams": beams, "pad_token_id": PAD, "eos_token_id": END, **option})


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
def test_beam_options(models, early_stopping, length_penalty):
    for model in models:
        for beams in (2, 4):
            chosen = {"length_penalty": length_penalty, "early_stopping": early_stopping, "max_new_tokens": 15}
            chosen |= {"num_beams": beams, "num_return_sequences": beams, "eos_token_id": END, "pad_token_id": PAD}
            compare(model, [1, 40], chosen)


@pytest.mark.parametrize("block", range(10))
@pytest.mark.filterwarnings("ignore")
def test_random_combinations(models, block):
    rng = random.Random(block)
    ended = 0
    for _ in range(60):
        prompt, chosen = options(rng, rng.randint(1, 5), sample=False)
        ours = compare(rng.choice(models), prompt, chosen)
        ended += (ours.sequences == END).any()
    assert 15 < ended < 60


class NotEnough(Exception):
    """Fewer tokens have a probability than are to be drawn; what transformers does then is not defined."""


@pytest.mark.parametrize("block", range(8))
@pytest.mark.filterwarnings("ignore")
def test_sampling_with_the_same_noise(models, block, monkeypatch):
    """With our random numbers put under `torch.multinomial`, sampling and beam sampling are equal token for token."""
    rng = random.Random(1000 + block)
    compared = 0
    for case in range(40):
        streams = {}

        def multinomial(probabilities, num_samples, case=case, streams=streams):
            rows = []
            for i, row in enumerate(probabilities.numpy()):
                key = np.random.SeedSequence(case, spawn_key=(i,))
                stream = streams.setdefault(i, np.random.Generator(np.random.Philox(key)))
                with np.errstate(divide="ignore"):
                    rows.append(draw(np.log(row), stream.random(num_samples)))
                if len(rows[-1]) < num_samples:
                    raise NotEnough
            return torch.tensor(np.array(rows))

        monkeypatch.setattr(torch, "multinomial", multinomial)
        prompt, chosen = options(rng, rng.choice([1, 1, 2, 3, 4]), sample=True)
        try:
            compare(rng.choice(models), prompt, chosen, seed=case)
            compared += 1
        except NotEnough:
            pass
    assert compared > 20


FILTERS = [
    {"min_p": 0.02}, {"typical_p": 0.9}, {"epsilon_cutoff": 0.01}, {"eta_cutoff": 0.01}, {"renormalize_logits": True},
    {
        "min_p": 0.01, "typical_p": 0.97, "eta_cutoff": 0.005, "top_k": 30, "temperature": 1.3,
        "renormalize_logits": True,
    },
]  # fmt: skip


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("option", FILTERS, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_each_filter_of_samples(models, beams, option, monkeypatch):
    stream = []

    def multinomial(probabilities, num_samples):
        rows = []
        for row in probabilities.numpy():
            with np.errstate(divide="ignore"):
                rows.append(draw(np.log(row), stream[0].random(num_samples)))
            if len(rows[-1]) < num_samples:
                raise NotEnough
        return torch.tensor(np.array(rows))

    monkeypatch.setattr(torch, "multinomial", multinomial)
    compared = 0
    for seed, model in itertools.product(range(2), models):
        stream[:] = [np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(0,))))]
        chosen = {"num_beams": beams, "do_sample": True, "pad_token_id": PAD, "eos_token_id": END, "top_k": 0, **option}
        try:
            compare(model, [1, 12, 31], chosen, seed=seed)
            compared += 1
        except NotEnough:
            pass
    assert compared


class Shift(LogitsProcessor):
    """Moves scores by what was written and by the row, so that a wrong order of either shows."""

    def __call__(self, input_ids, scores):
        rows = torch.arange(len(scores), dtype=scores.dtype)[:, None] * 0.01
        return scores + torch.sin(input_ids[:, -1:] * torch.arange(scores.shape[1])) + rows


class EvenEnd(StoppingCriteria):
    """Ends a text whose last token is divisible by three, from four tokens on."""

    def __call__(self, input_ids, scores, **kwargs):
        assert len(scores) == input_ids.shape[1] - 3
        return (input_ids[:, -1] % 3 == 0) & (input_ids.shape[1] > 6)


HOOKS = {
    "processor": lambda: {"logits_processor": LogitsProcessorList([Shift(), NoRepeatNGramLogitsProcessor(2)])},
    "criteria": lambda: {"stopping_criteria": StoppingCriteriaList([EvenEnd()])},
    "prefix": lambda: {"prefix_allowed_tokens_fn": lambda item, ids: [END, int(ids[-1] + 9) % VOCAB, 20 + len(ids)]},
    "all": lambda: HOOKS["processor"]() | HOOKS["criteria"](),
}


@pytest.mark.parametrize("beams", [1, 2, 4])
@pytest.mark.parametrize("hooks", HOOKS)
@pytest.mark.filterwarnings("ignore")
def test_hooks(models, beams, hooks):
    for model in models:
        chosen = {"num_beams": beams, "pad_token_id": PAD, "eos_token_id": END, "max_new_tokens": 12}
        compare(model, [1, 12, 31], chosen, make_hooks=HOOKS[hooks])


def test_streamer(models):
    class Stream(BaseStreamer):
        def __init__(self):
            self.got = []

        def put(self, value):
            self.got.append(value.tolist())

        def end(self):
            self.got.append("end")

    for model in models:
        made = []

        def one(made=made):
            made.append(Stream())
            return {"streamer": made[-1]}

        compare(model, [1, 12, 31], {"num_beams": 1, "pad_token_id": PAD, "eos_token_id": END}, make_hooks=one)
        theirs, ours = (stream.got for stream in made)
        assert ours == theirs


class Table(BlipTextLMHeadModel):
    """A model whose logits depend on the last token only: a row of the table of tests/generation/test_generation.py."""

    def forward(self, input_ids, **kwargs):
        return CausalLMOutput(logits=torch.tensor(TABLE)[input_ids])


def reference():
    """What transformers finds with the table, for the tests that run without it."""
    model = Table(BlipTextConfig(vocab_size=len(TABLE), hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    rng, cases = random.Random(0), []
    while len(cases) < 40:
        prompt, chosen = options(rng, rng.choice([1, 2, 3, 4]), sample=False)
        prompt = [token % len(TABLE) for token in prompt]
        if "bad_words_ids" in chosen:
            words = [[token % len(TABLE) for token in word] for word in chosen["bad_words_ids"][:4]]
            chosen["bad_words_ids"] = [word for word in words if word]
        asked = {**chosen, "output_scores": True, "return_dict_in_generate": True}
        found = model.generate(torch.tensor([prompt]), use_cache=False, **asked)
        texts = found.sequences[:, len(prompt) :].tolist()
        scores = found.sequences_scores.tolist() if chosen["num_beams"] > 1 else None
        cases.append({"prompt": prompt, "options": chosen, "texts": texts, "scores": scores})
    return cases


@pytest.mark.filterwarnings("ignore")
def test_the_stored_reference_is_what_transformers_finds():
    """`python -m tests.oracle.test_transformers_generation` writes the file anew."""
    stored = json.loads(REFERENCE.read_text())
    found = reference()
    assert len(stored) == len(found)
    for old, new in zip(stored, found, strict=True):
        assert {**old, "scores": None} == {**new, "scores": None}
        assert old["scores"] == (new["scores"] and pytest.approx(new["scores"], rel=1e-6))


def test_files_are_understood_by_both(tmp_path):
    TheirConfig(num_beams=3, max_new_tokens=9, eos_token_id=102, pad_token_id=0).save_pretrained(tmp_path)
    ours = GenerationConfig.from_pretrained(tmp_path)
    assert (ours.num_beams, ours.max_new_tokens, ours.eos_token_id, ours.max_length) == (3, 9, 102, 20)
    ours.updated(length_penalty=0.5, bad_words_ids=[[4]], max_length=30).save_pretrained(tmp_path)
    theirs = TheirConfig.from_pretrained(tmp_path)
    assert (theirs.num_beams, theirs.length_penalty, theirs.bad_words_ids, theirs.max_length) == (3, 0.5, [[4]], 30)


@pytest.mark.parametrize("beams", [1, 2])
def test_states_of_each_step(pair, config, beams):
    ours, theirs = pair("BlipForConditionalGeneration")
    values = inputs(config, batch=2, length=5, padded=False)
    chosen = {"num_beams": beams, "max_new_tokens": 4, "eos_token_id": None, "return_dict_in_generate": True}
    chosen |= {"output_attentions": True, "output_hidden_states": True, "output_logits": True}
    theirs.config.text_config.sep_token_id = None
    expected = theirs.generate(**values, **{name: value for name, value in chosen.items() if name != "eos_token_id"})
    values["input_ids"], values["attention_mask"] = values["input_ids"][:, :-1], values["attention_mask"][:, :-1]
    found = ours.generate(**values, **chosen)
    assert torch.equal(found.sequences, expected.sequences)
    for name in ("attentions", "hidden_states", "logits"):
        assert_close(found[name], expected[name], name)


def test_their_configuration_is_understood():
    model = GenerationConfig(prompt_ids=[4, 5])
    given = TheirConfig(num_beams=3, min_p=0.1, sequence_bias=[[[4], 1.5]], forced_eos_token_id=7, max_length=20)
    ours = GenerationConfig.of(given, model)
    assert (ours.num_beams, ours.min_p, ours.sequence_bias, ours.forced_eos_token_id) == (3, 0.1, [[[4], 1.5]], 7)
    assert (ours.prompt_ids, ours.length_limits(11)) == ([4, 5], (0, 31))
    assert GenerationConfig.of(TheirConfig(max_length=15), model).length_limits(11) == (0, 15)
    with pytest.raises(ValueError, match=r"penalty_alpha=0\.6: generate of this package"):
        GenerationConfig.of(TheirConfig(penalty_alpha=0.6), model)


def test_defaults():
    ours, theirs = GenerationConfig(), TheirConfig()
    assert (ours.output_logits, theirs.output_logits) == (False, None)
    for name in (ours.to_dict() | {"max_length": 20}).keys() - {"prompt_ids", "output_logits"}:
        assert getattr(ours, name) == getattr(theirs, name), name


if __name__ == "__main__":
    REFERENCE.write_text("[\n" + ",\n".join(json.dumps(case) for case in reference()) + "\n]\n")
