"""Generation search over a toy session: same results alone and in a batch, known answers, and refusals."""

import itertools
import json

import numpy as np
import pytest

from blip_core.generation import GenerationConfig, generate
from blip_core.generation import logits as steps
from blip_core.generation.logits import LogitsProcessor, Place
from blip_core.generation.scores import draw, keep_top_k, keep_top_p, kth_largest, largest, penalise_repetition
from tests.helpers.generation_table import REFERENCE, TableSession

VOCAB, END, PAD = 40, 3, 0


class Toy:
    """A session over a small random recurrence; each item has a picture, a vector of its own.

    Rows are computed one at a time, so that their logits do not depend on the batch at all. The promises that
    `generate` gives a session are checked on the way.
    """

    def __init__(self, pictures, sharpness=3.0, end_bias=0.0):
        rng = np.random.default_rng(0)
        self.inner, self.tokens, self.out = rng.normal(size=(3, VOCAB, 8))
        self.inner = self.inner[:8]
        self.sharpness, self.end_bias = sharpness, end_bias
        self.pictures = np.asarray(pictures, float)
        self.items = np.arange(len(pictures))
        self.steps = 0

    def prefill(self, input_ids, attention_mask):
        assert input_ids.dtype == attention_mask.dtype == np.int64
        self.states = np.zeros((len(input_ids), 8))
        for i, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            for token in ids[mask == 1]:
                self.states[i] = self.next(self.states[i], token, i)
        return self.logits()

    def step(self, tokens):
        assert tokens.dtype == np.int64
        assert tokens.shape == self.items.shape
        self.steps += 1
        self.states = np.array([self.next(*row) for row in zip(self.states, tokens, self.items, strict=True)])
        return self.logits()

    def select(self, rows):
        assert rows.dtype == np.int64
        assert not np.array_equal(rows, np.arange(len(self.items)))
        self.states, self.items = self.states[rows], self.items[rows]
        assert np.array_equal(self.items, np.sort(self.items))
        assert len(set(np.unique(self.items, return_counts=True)[1])) == 1

    def next(self, state, token, item):
        return np.tanh(self.inner @ state + self.tokens[token] + self.pictures[item])

    def logits(self):
        logits = np.array([self.sharpness * self.out @ state for state in self.states], np.float32)
        logits[:, END] += self.end_bias
        logits.flags.writeable = False  # a framework's memory is not ours to change
        return logits


def batch(count, seed=1):
    """Pictures, and prompts of unlike lengths padded on the right."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, count)
    ids = rng.integers(4, VOCAB, (count, lengths.max()))
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    return rng.normal(size=(count, 8)), ids * mask, mask


def config(**options):
    return GenerationConfig(**{"eos_token_id": END, "pad_token_id": PAD, **options})


def one(options, prompt=(5,), end_bias=0.0, **kwargs):
    ids = np.array([prompt])
    return generate(Toy(np.ones((1, 8)), end_bias=end_bias), ids, np.ones_like(ids), config(**options), **kwargs)


METHODS = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 3, "top_p": 0.9},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beams, never": {"num_beams": 4, "early_stopping": "never", "length_penalty": 2.0},
    "beams, first": {"num_beams": 4, "early_stopping": True, "length_penalty": -1.0},
    "beam sampling": {"num_beams": 3, "do_sample": True, "top_k": 0, "temperature": 1.5},
    "forced": {"num_beams": 4, "force_words_ids": [[11, 24]], "length_penalty": -1.0},
}
RULES = [
    {},
    {"repetition_penalty": 1.4, "min_new_tokens": 3, "max_new_tokens": 9},
    {"no_repeat_ngram_size": 2, "bad_words_ids": [[7], [8, 9]], "min_length": 8, "max_length": 12},
]


@pytest.mark.parametrize("rules", RULES, ids=["plain", "penalty", "bans"])
@pytest.mark.parametrize("method", METHODS)
def test_alone_as_in_a_batch(method, rules):
    pictures, ids, mask = batch(9)
    chosen = config(**METHODS[method], **rules, return_dict_in_generate=True, output_scores=True)
    session = Toy(pictures, end_bias=6.0)
    together = generate(session, ids, mask, chosen, seed=range(9))
    rows = chosen.num_return_sequences
    ends = set()
    for i in range(9):
        own = ids[i : i + 1, : mask[i].sum()]
        alone = generate(Toy(pictures[i : i + 1], end_bias=6.0), own, np.ones_like(own), chosen, seed=[i])
        block, length, new = slice(i * rows, (i + 1) * rows), alone.sequences.shape[1], alone.token_log_probs.shape[1]
        assert np.array_equal(together.sequences[block, :length], alone.sequences)
        assert (together.sequences[block, length:] == PAD).all()
        np.testing.assert_array_equal(together.token_log_probs[block, :new], alone.token_log_probs)
        assert np.isnan(together.token_log_probs[block, new:]).all()
        np.testing.assert_array_equal(together.sequences_scores[block], alone.sequences_scores)
        width = len(alone.scores[0])
        for ours, theirs in zip(together.scores, alone.scores, strict=False):
            np.testing.assert_array_equal(ours[i * width : (i + 1) * width], theirs)
        if alone.beam_indices is not None:
            moved = np.where(alone.beam_indices < 0, -1, alone.beam_indices + i * width)
            assert np.array_equal(together.beam_indices[block, :new], moved)
        ends.add(length)
    assert len(ends) > 1, "the items should end at different steps"


@pytest.mark.parametrize("method", METHODS)
def test_asking_for_scores_changes_no_token(method):
    pictures, ids, mask = batch(4)
    plain = generate(Toy(pictures), ids, mask, config(**METHODS[method]), seed=3)
    rich = generate(Toy(pictures), ids, mask, config(**METHODS[method], return_dict_in_generate=True), seed=3)
    assert np.array_equal(plain.sequences, rich.sequences)
    assert plain.token_log_probs is None
    assert plain.sequences_scores is None
    assert rich.scores is None


@pytest.mark.parametrize("method", METHODS)
def test_token_log_probs_are_the_models_own(method):
    """Running the found text through the model again gives each token's log-probability, whatever rules chose it."""
    chosen = config(**METHODS[method], repetition_penalty=1.3, min_length=4, return_dict_in_generate=True)
    pictures, ids, mask = batch(3)
    found = generate(Toy(pictures, end_bias=3.0), ids, mask, chosen, seed=1)
    for row, text in enumerate(found.sequences):
        item = row // chosen.num_return_sequences
        session, start = Toy(pictures[item : item + 1], end_bias=3.0), mask[item].sum()
        logits = session.prefill(text[None, :start], np.ones((1, start), np.int64))[0].astype(float)
        total = 0.0
        count = (~np.isnan(found.token_log_probs[row])).sum()
        for token, given in zip(text[start : start + count], found.token_log_probs[row], strict=False):
            expected = logits[token] - np.log(np.exp(logits).sum())
            assert given == pytest.approx(expected, rel=1e-5, abs=1e-6)
            total += expected
            logits = session.step(np.array([token]))[0].astype(float)
        assert text[start + count - 1] == END or count == 20
        if chosen.num_beams == 1:
            assert found.sequences_scores[row] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("case", json.loads(REFERENCE.read_text()), ids=lambda case: str(case["options"]))
def test_stored_reference(case):
    """Tokens are what transformers 4.57.6 gave (stored by tests/oracle/test_transformers_generation.py)."""
    ids = np.array([case["prompt"]])
    chosen = GenerationConfig(**case["options"], return_dict_in_generate=True)
    found = generate(TableSession(), ids, np.ones_like(ids), chosen)
    assert found.sequences.shape == (len(case["texts"]), ids.shape[1] + len(case["texts"][0]))
    for row, log_probs, expected in zip(found.sequences, found.token_log_probs, case["texts"], strict=True):
        count = (~np.isnan(log_probs)).sum()  # what follows is padding, for which transformers takes the end token
        assert row[ids.shape[1] :][:count].tolist() == expected[:count]
    if case["scores"]:
        np.testing.assert_allclose(found.sequences_scores, case["scores"], rtol=1e-5)


def test_greedy_takes_the_best_token_and_stops_at_the_end_token():
    session = Toy(np.ones((1, 8)), end_bias=2.0)
    logits = session.prefill(np.array([[5]]), np.array([[1]]))
    expected = [5]
    while len(expected) < 21 and expected[-1] != END:
        expected.append(int(logits[0].argmax()))
        logits = session.step(np.array(expected[-1:]))
    assert one({}, end_bias=2.0).sequences.tolist() == [expected]


def test_wide_beams_find_the_best_text_of_all():
    """With as many beams as there are texts, beam search is exhaustive search."""
    length, allowed = 3, [3, 10, 11, 12, 13]
    words = [[token] for token in range(VOCAB) if token not in allowed]
    options = {"bad_words_ids": words, "max_new_tokens": length, "length_penalty": 0.7, "early_stopping": "never"}
    options |= {"num_beams": 60, "num_return_sequences": 20, "return_dict_in_generate": True}
    found = one(options, end_bias=1.0)
    scored = []
    for text in itertools.chain(*(itertools.product(allowed, repeat=n) for n in range(1, length + 1))):
        if END in text[:-1] or (text[-1] != END and len(text) < length):
            continue
        session = Toy(np.ones((1, 8)), end_bias=1.0)
        logits, total = session.prefill(np.array([[5]]), np.array([[1]]))[0], 0.0
        for token in text:
            total += float(logits[token] - np.log(np.exp(logits.astype(float)).sum()))
            logits = session.step(np.array([token]))[0]
        scored.append((total / len(text) ** 0.7, [5, *text, *[PAD] * (length - len(text))]))
    scored.sort(reverse=True)
    assert found.sequences.tolist() == [text for _, text in scored[:20]]
    np.testing.assert_allclose(found.sequences_scores, [score for score, _ in scored[:20]], rtol=1e-5)


def test_wide_beams_find_the_best_text_with_forced_words():
    allowed, length, forced = [3, 10, 11, 12], 4, [[11, 12], [10]]
    options = {"bad_words_ids": [[token] for token in range(VOCAB) if token not in allowed], "max_new_tokens": length}
    options |= {"num_beams": 120, "early_stopping": "never", "return_dict_in_generate": True}
    everything = one(options | {"num_return_sequences": 80}, end_bias=1.0)
    pairs = list(zip(everything.sequences.tolist(), everything.sequences_scores, strict=True))
    best = [pair for pair in pairs if has(pair[0][1:], forced)]
    assert 0 < len(best) < len(pairs)
    found = one(options | {"num_return_sequences": len(best), "force_words_ids": forced}, end_bias=1.0)
    assert found.sequences.tolist() == [text for text, _ in best]
    np.testing.assert_allclose(found.sequences_scores, [score for _, score in best], rtol=1e-5)


def has(tokens, words):
    return all(any(tokens[i : i + len(word)] == word for i in range(len(tokens))) for word in words)


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize(
    "words", [[[7]], [[9, 9, 12]], [[8, 6], [6, 8]], [[20], [21], [22], [23], [24]], [[14, 15, 16, 17], [16, 17, 18]]]
)
def test_forced_words_are_in_every_text(words, beams):
    """However little room there is, and however much the model would rather end."""
    needed = sum(map(len, words))
    for room, bias in ((needed, 0.0), (needed + 1, 40.0), (needed + 9, 5.0)):
        texts = 2 if room > needed else 1  # there may be one order only
        options = {"num_beams": beams, "num_return_sequences": texts, "max_new_tokens": room, "force_words_ids": words}
        found = one(options, prompt=(5, 7, 9), end_bias=bias).sequences[:, 3:].tolist()
        assert all(has(text, words) for text in found), (room, found)
        assert not any(END in text[: text.index(END)] for text in found if END in text)
    plain = one({"num_beams": beams, "max_new_tokens": 9}).sequences[0].tolist()
    assert (
        one({"num_beams": beams, "max_new_tokens": 9, "force_words_ids": [plain[1:3]]}).sequences[0].tolist() == plain
    )


def test_finished_items_cost_no_more_steps():
    pictures, ids, mask = batch(6)
    session = Toy(pictures, end_bias=60.0)
    found = generate(session, ids, mask, config(num_beams=2, early_stopping=True))
    assert session.steps <= 2
    assert found.sequences.shape[1] <= ids.shape[1] + 3


def test_length_limits():
    assert one({"max_new_tokens": 4, "eos_token_id": None}, prompt=(5, 6, 7)).sequences.shape == (1, 7)
    assert one({"max_length": 5, "eos_token_id": None}, prompt=(5, 6, 7)).sequences.shape == (1, 5)
    assert one({"max_length": 20, "eos_token_id": None}, prompt=(5, 6, 7)).sequences.shape == (1, 20)
    assert one({"eos_token_id": None}, prompt=(5, 6, 7)).sequences.shape == (1, 23)  # the default: 20 new tokens
    assert one({"eos_token_id": None}, prompt=(5, 6, 7), max_positions=16).sequences.shape == (1, 16)
    assert one({"max_new_tokens": 3, "max_length": 5, "eos_token_id": None}).sequences.shape == (1, 4)
    assert one({"min_new_tokens": 6}, end_bias=50.0).sequences.shape == (1, 8)
    assert one({"min_length": 6}, end_bias=50.0).sequences.shape == (1, 7)
    assert one({"min_new_tokens": 1, "min_length": 9}, end_bias=50.0).sequences.shape == (1, 3)


def test_no_ngram_and_no_bad_word_appears():
    for beams in (1, 3):
        plain = one({"num_beams": beams, "eos_token_id": None, "max_new_tokens": 30}).sequences[0].tolist()
        pairs = list(itertools.pairwise(plain))
        assert len(set(pairs)) < len(pairs), "without the rule, pairs should repeat"
        options = {"num_beams": beams, "eos_token_id": None, "max_new_tokens": 30, "no_repeat_ngram_size": 2}
        text = one(options | {"bad_words_ids": [[plain[1]], plain[2:4]]}).sequences[0].tolist()
        pairs = list(itertools.pairwise(text))
        assert len(set(pairs)) == len(pairs)
        assert plain[1] not in text[1:]
        assert tuple(plain[2:4]) not in pairs


def test_rules_on_numbers():
    scores = np.array([2.0, -2.0, 1.0, 0.0], np.float32)
    penalise_repetition(scores, [0, 1, 1], 2.0)
    assert scores.tolist() == [1.0, -4.0, 1.0, 0.0]
    scores = np.array([1.0, 3.0, 2.0, 2.0, 0.0], np.float32)
    keep_top_k(scores, 2)
    assert np.isfinite(scores).tolist() == [False, True, True, True, False]
    for p, least, kept in [(0.5, 1, 1), (0.51, 1, 2), (0.8, 1, 2), (0.9, 1, 3), (0.0, 1, 1), (0.0, 2, 2), (0.3, 4, 4)]:
        scores = np.log(np.array([0.05, 0.3, 0.5, 0.15], np.float32))
        keep_top_p(scores, p, least)
        assert np.isfinite(scores).sum() == kept, (p, least)
        assert np.isfinite(scores[2])


def test_beam_sampling_keeps_enough_tokens_to_go_on():
    """As many as there are end tokens and one more, whatever top-k and top-p say."""
    for ends, kept in [([3], 2), ([3, 4], 3), (None, 2)]:
        for rule in ({"top_k": 1}, {"top_k": 0, "top_p": 0.0}):
            scores = np.arange(VOCAB, dtype=np.float32)
            chosen = config(num_beams=2, do_sample=True, eos_token_id=ends, **rule)
            for step in LogitsProcessor(chosen, VOCAB).filters:
                step(scores, Place([5]))
            assert np.isfinite(scores).sum() == kept


def test_top_p_matches_its_definition_at_full_vocabulary():
    rng = np.random.default_rng(0)
    for scale, p in itertools.product([0.0, 0.5, 3.0], [0.1, 0.9, 0.99]):
        scores = (scale * rng.normal(size=30524)).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        weights = np.exp(scores[order].astype(float))
        kept = order[: int((np.cumsum(weights) / weights.sum() < p).sum()) + 1]
        keep_top_p(scores, p, 1)
        assert abs(np.isfinite(scores).sum() - len(kept)) <= 1
        assert np.isfinite(scores[kept[:-1]]).all()


def test_largest_is_a_sort():
    rng = np.random.default_rng(0)
    for size, k in [(1, 1), (5, 3), (127, 9), (128, 1), (30524, 50), (91572, 6)]:
        values = rng.integers(0, 60, size).astype(np.float32)  # full of ties
        assert kth_largest(values, k) == np.sort(values)[-k]
        assert largest(values, k).tolist() == np.argsort(-values, kind="stable")[:k].tolist()
    values[5:] = -np.inf
    assert len(largest(values, 8)) == 5


def test_draws_have_the_right_frequencies():
    rng = np.random.default_rng(0)
    probabilities = np.array([0.5, 0.0, 0.2, 0.25, 0.05])
    with np.errstate(divide="ignore"):
        scores = np.log(probabilities).astype(np.float32)
    count = 20000
    pairs = np.array([draw(scores, rng.random(2)) for _ in range(count)])
    assert (pairs[:, 0] != pairs[:, 1]).all()
    for i, p in enumerate(probabilities):
        second = sum(q * p / (1 - q) for j, q in enumerate(probabilities) if j != i)
        for column, expected in ((0, p), (1, second)):
            error = abs((pairs[:, column] == i).mean() - expected)
            assert error <= 5 * np.sqrt(expected * (1 - expected) / count)
    assert draw(scores, [0.0, 0.0, 0.0]).tolist() == [0, 2, 3]
    assert sorted(draw(scores, [0.0, 0.999999, 0.5, 0.5, 0.5, 0.5])) == [0, 2, 3, 4]


def test_sampling_follows_the_model():
    """The first tokens of many samples have the frequencies of softmax(logits / temperature) within top-k."""
    count = 4000
    options = {"do_sample": True, "num_return_sequences": count, "max_new_tokens": 1, "temperature": 1.5, "top_k": 6}
    tokens = one(options, seed=0).sequences[:, 1]
    logits = Toy(np.ones((1, 8))).prefill(np.array([[5]]), np.array([[1]]))[0].astype(float) / 1.5
    allowed = np.argsort(-logits)[:6]
    weights = np.exp(logits[allowed]) / np.exp(logits[allowed]).sum()
    assert set(tokens) <= set(allowed)
    for token, p in zip(allowed, weights, strict=True):
        assert abs((tokens == token).mean() - p) <= 5 * np.sqrt(p * (1 - p) / count)


def test_seeds():
    pictures, ids, mask = batch(1)
    pictures, ids, mask = (np.repeat(a, 4, axis=0) for a in (pictures, ids, mask))
    sampling = {"do_sample": True, "temperature": 2.0}

    def sample(seed, **options):
        return generate(Toy(pictures), ids, mask, config(**sampling, **options), seed=seed).sequences

    assert len(np.unique(sample(7), axis=0)) == 1  # one seed: the same picture gets the same text
    assert len(np.unique(sample([1, 2, 3, 4]), axis=0)) == 4
    assert len(np.unique(sample(None), axis=0)) == 4
    assert np.array_equal(sample(7), sample([7] * 4))
    assert np.array_equal(sample(np.int64(7)), sample(7))
    assert not np.array_equal(sample(7), sample(8))
    few, many = sample(7, num_return_sequences=2), sample(7, num_return_sequences=5)
    width = min(few.shape[1], many.shape[1])
    assert np.array_equal(few[:2, :width], many[:2, :width])
    assert len(np.unique(many[:5], axis=0)) == 5


def test_scores_of_rows_that_had_ended_are_nan():
    options = {"do_sample": True, "num_return_sequences": 8, "output_scores": True, "return_dict_in_generate": True}
    found = one(options | {"temperature": 2.0}, end_bias=4.0, seed=0)
    ended = np.isnan(found.token_log_probs)
    assert ended.any()
    assert len(found.scores) == ended.shape[1]
    for step, scores in enumerate(found.scores):
        assert np.array_equal(np.isnan(scores).all(axis=1), ended[:, step])
        assert np.array_equal(np.isnan(scores).any(axis=1), ended[:, step])


@pytest.mark.parametrize("options", [{}, {"do_sample": True}])
def test_stream(options):
    pictures, ids, mask = batch(5)
    told = [[] for _ in ids]
    found = generate(
        Toy(pictures, end_bias=4.0), ids, mask, config(**options), seed=2, stream=lambda i, token: told[i].append(token)
    )
    for text, row, start in zip(told, found.sequences, mask.sum(axis=1), strict=True):
        assert row[start : start + len(text)].tolist() == text
        assert (row[start + len(text) :] == PAD).all()
        assert all(isinstance(token, int) for token in text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams must be .* got 0"),
        ({"num_beams": True}, "num_beams"),
        ({"max_length": 2.5}, "max_length"),
        ({"max_new_tokens": 0}, "max_new_tokens must be None or a whole number of at least 1, got 0"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
        ({"min_length": -1}, "min_length"),
        ({"temperature": 0.0, "do_sample": True}, "temperature must be a number above 0.*do_sample=False"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 1.5}, "top_p must be a number from 0 to 1, got 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"length_penalty": float("inf")}, "length_penalty"),
        ({"no_repeat_ngram_size": "2"}, "no_repeat_ngram_size"),
        ({"early_stopping": "always"}, "early_stopping must be True, False or"),
        ({"early_stopping": 1}, "early_stopping"),
        ({"prompt_ids": ["a"]}, "prompt_ids"),
        ({"prompt_ids": 5}, "prompt_ids"),
        ({"bad_words_ids": [5]}, "bad_words_ids"),
        ({"bad_words_ids": []}, "bad_words_ids"),
        ({"bad_words_ids": [[]]}, "bad_words_ids"),
        ({"force_words_ids": [[]], "num_beams": 2}, "force_words_ids"),
        ({"force_words_ids": [[5]]}, "needs beam search: set num_beams to 2 or more"),
        ({"force_words_ids": [[5]], "num_beams": 2, "do_sample": True}, "needs beam search"),
        ({"force_words_ids": [[5, 2]], "num_beams": 2, "eos_token_id": 2}, "holds 2, which ends a text"),
        ({"eos_token_id": []}, "eos_token_id"),
        ({"eos_token_id": -2}, "eos_token_id"),
        ({"pad_token_id": "0"}, "pad_token_id"),
        ({"do_sample": "yes"}, "do_sample"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2, but greedy"),
        ({"num_return_sequences": 3, "num_beams": 2}, "more than num_beams"),
        ({"num_return_sequences": 3, "num_beams": 2, "do_sample": True}, "more than num_beams"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens is 5, more than max_new_tokens"),
    ],
)
def test_config_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)
    with pytest.raises(ValueError, match=message):
        config().updated(**options)


def test_config_copies_and_names():
    first = config(num_beams=3, bad_words_ids=[[9]])
    second = first.updated(num_beams=5)
    second.bad_words_ids.append([4])
    assert (first.num_beams, second.num_beams, first.bad_words_ids) == (3, 5, [[9]])
    with pytest.raises(TypeError, match="'num_beam' is no option of generate; there is num_beams"):
        first.updated(num_beam=4)
    with pytest.raises(TypeError, match=r"'qqq' is no option .*temperature"):
        first.updated(qqq=4)
    off = config(top_k=None, temperature=None, top_p=None, repetition_penalty=None, no_repeat_ngram_size=None)
    assert (off.top_k, off.temperature, off.top_p, off.repetition_penalty, off.no_repeat_ngram_size) == (0, 1, 1, 1, 0)
    assert config().updated(num_beams=2).length_limits(3) == (0, 23)  # the default length stays the default
    assert config().updated(max_length=20).updated(num_beams=2).length_limits(3) == (0, 20)


def test_config_files(tmp_path):
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"num_beams": 3, "eos_token_id": [2, 102], "_from_model_config": True, "x": {"y": 1}}))
    loaded = GenerationConfig.from_pretrained(tmp_path)
    assert (loaded.num_beams, loaded.end_ids, loaded.padding_id, loaded.max_length) == (3, [2, 102], 2, 20)
    assert loaded.prompt_ids is None
    loaded.updated(max_new_tokens=7, prompt_ids=[]).save_pretrained(tmp_path / "new")
    stored = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert stored["x"] == {"y": 1}
    assert stored["_from_model_config"] is True
    assert stored["max_new_tokens"] == 7
    assert GenerationConfig.from_pretrained(tmp_path / "new") == loaded.updated(max_new_tokens=7, prompt_ids=[])
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "generation_config.json"]
    path.write_text('{"num_beams": -1}')
    with pytest.raises(ValueError, match=r"generation_config.json: .*num_beams"):
        GenerationConfig.from_pretrained(tmp_path)
    path.write_text('{"penalty_alpha": 0.1, "num_beam_groups": 1}')
    with pytest.warns(UserWarning, match="penalty_alpha=0.1 has no effect") as told:
        GenerationConfig.from_pretrained(tmp_path)
    assert len(told) == 1
    path.write_text('{"num_beams": 3')
    with pytest.raises(ValueError, match="not valid JSON"):
        GenerationConfig.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(OSError, match=r"generation_config\.json"):
        GenerationConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("options", "kwargs", "message"),
    [
        ({"max_length": 3}, {}, "prompt has 3 tokens, which leaves no room for a text with max_length=3"),
        ({"max_length": 4, "min_length": 5}, {}, "min_length=5 asks for 5 tokens"),
        ({"max_length": 6, "min_new_tokens": 5}, {}, "min_new_tokens=5 asks for 8 tokens"),
        ({"max_new_tokens": 9}, {"max_positions": 10}, "may grow to 12 tokens, but the model has 10 positions"),
        ({}, {"max_positions": 3}, "has 3 positions"),
        ({"num_beams": 2}, {"stream": print}, "stream needs num_beams=1"),
        ({"do_sample": True, "num_return_sequences": 2}, {"stream": print}, "stream needs"),
        ({"do_sample": True}, {"seed": [1, 2]}, "got 2 for 1 items"),
        ({"do_sample": True}, {"seed": -1}, "seed must be whole numbers of at least 0"),
        ({"do_sample": True}, {"seed": 0.5}, "seed must be whole numbers of at least 0"),
        ({"bad_words_ids": [[VOCAB]]}, {}, f"bad_words_ids holds {VOCAB}"),
        ({"force_words_ids": [[VOCAB]], "num_beams": 2}, {}, f"force_words_ids holds {VOCAB}"),
        ({"force_words_ids": [[6, 7], [8]], "num_beams": 2, "max_new_tokens": 2}, {}, "3 tokens, but max_new_tokens=2"),
        ({"force_words_ids": [[6]], "bad_words_ids": [[6]], "num_beams": 2}, {}, "force_words_ids"),
        ({"eos_token_id": 102}, {}, "eos_token_id holds 102"),
        ({"bad_words_ids": [[i] for i in range(VOCAB)], "min_length": 9}, {}, r"No token may follow \[5, 6, 7\]"),
        ({"bad_words_ids": [[i] for i in range(VOCAB)], "min_length": 9, "num_beams": 2}, {}, "No token may follow"),
        ({"bad_words_ids": [[i] for i in range(VOCAB)], "min_length": 9, "do_sample": True}, {}, "No token may"),
        (
            {"bad_words_ids": [[i] for i in range(VOCAB)], "num_beams": 2, "num_return_sequences": 2},
            {},
            "Only 1 of 2 texts exist",
        ),
    ],
)
def test_refusals(options, kwargs, message):
    with pytest.raises(ValueError, match=message):
        one(options, prompt=(5, 6, 7), **kwargs)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([5, 6], [1, 1], "shape"),
        ([[5.0]], [[1]], "whole numbers"),
        ([[]], [[]], "whole numbers"),
        ([[5, 6]], [[1]], "attention_mask"),
        ([[5, 6]], [[0, 1]], "padded on the right"),
        ([[5, 6]], [[0, 0]], "at least one"),
        ([[5, 6]], [[2, 1]], "must hold ones"),
    ],
)
def test_prompts_that_do_not_fit(ids, mask, message):
    with pytest.raises(ValueError, match=message):
        generate(Toy(np.ones((1, 8))), np.array(ids), np.array(mask), config())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_logits(method, value):
    class Broken(Toy):
        def step(self, tokens):
            logits = super().step(tokens).copy()
            logits[-1, 3 if value != -np.inf else slice(None)] = value
            return logits

    ids = np.array([[5], [6]])
    with pytest.raises(ValueError, match="NaN or infinite"):
        generate(Broken(np.ones((2, 8))), ids, np.ones_like(ids), config(**METHODS[method]), seed=0)


def test_options_without_effect_are_told():
    with pytest.warns(UserWarning, match="temperature, length_penalty: no effect with greedy search"):
        one({"temperature": 0.5, "length_penalty": 2.0})
    with pytest.warns(UserWarning, match="top_p: no effect with beam search"):
        one({"top_p": 0.5, "num_beams": 2})


def test_a_default_length_that_transformers_derived_counts_new_tokens(tmp_path):
    """transformers reads it so, and writes it for every fine-tune of a published captioner."""
    values = {"_from_model_config": True, "max_length": 20, "eos_token_id": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    loaded = GenerationConfig.from_pretrained(tmp_path)
    assert (loaded.length_limits(1), loaded.length_limits(10)) == ((0, 21), (0, 30))
    assert loaded.updated(max_length=20).length_limits(10) == (0, 20)
    assert loaded.updated(num_beams=3).length_limits(10) == (0, 30)
    assert GenerationConfig.from_dict({**values, "max_length": 21}).length_limits(10) == (0, 21)
    assert GenerationConfig.from_dict({"max_length": 20}).length_limits(10) == (0, 20)


def test_each_option_is_one_row():
    rows = {row.name: row for row in GenerationConfig.options()}
    assert all(
        row.meaning.endswith(".") and f"\n    {name}: (" in GenerationConfig.__doc__ for name, row in rows.items()
    )
    assert {*steps.RULES, *steps.ENDINGS, *steps.FILTERS} <= set(rows)
    assert GenerationConfig().settings().keys() | {"max_length"} == rows.keys()
    assert rows["top_p"].validator("--top-p", 0.5) == 0.5
    with pytest.raises(ValueError, match=r"--top-p must be a number from 0 to 1, got 2"):
        rows["top_p"].validator("--top-p", 2)


def test_what_trainers_give_with_a_batch_is_no_option():
    """As Seq2SeqTrainer does where it evaluates by generation."""
    config = GenerationConfig(num_beams=2)
    assert config.updated(labels=np.zeros((2, 3)), synced_gpus=False) == config
    assert config._from_model_config is False
