"""How a text is generated: one checked dataclass, stored as Hugging Face `generation_config.json`."""

from __future__ import annotations

import copy
import difflib
import math
import sys
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from blip_core.files import read_json, write_json
from blip_core.hub import or_shipped, resolve_folder

FILE = "generation_config.json"
DEFAULT_LENGTH = 20

OFF = {
    "min_length": 0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0, "length_penalty": 1.0, "num_return_sequences": 1,
}  # fmt: skip
"""Options for which None is another way to write this value, which does nothing."""

ELSEWHERE = {
    "min_p": None, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "num_beam_groups": 1,
    "diversity_penalty": 0.0, "penalty_alpha": None, "renormalize_logits": False, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "suppress_tokens": None, "begin_suppress_tokens": None, "sequence_bias": None,
    "exponential_decay_length_penalty": None, "constraints": None, "force_words_ids": None, "guidance_scale": None,
    "stop_strings": None, "max_time": None,
}  # fmt: skip
"""Options of other packages that would change the text, with the value that does not; a file that sets one is warned
about, as it would be read but not followed."""


@dataclass(kw_only=True)
class GenerationConfig:
    """Which texts `generate` looks for. Names, defaults and meanings are those of transformers 4.57.6,
    but for `prompt_ids`, which it has not.

    Method: `num_beams=1` is greedy search, with `do_sample` sampling; `num_beams` of 2 or more is beam search, with
    `do_sample` beam sampling. `num_return_sequences` texts come back per item: at most `num_beams` of them with beams,
    one with greedy search.

    Length, in tokens: `max_length` and `min_length` count the prompt, `max_new_tokens` and `min_new_tokens` do not and
    win over them. `max_length` left at its default means 20 tokens after the prompt; a given one, be it 20, counts it.

    Beams: a finished text scores sum of log-probabilities / new tokens ** `length_penalty`. `early_stopping` ends the
    search as soon as `num_beams` texts are finished (True), when the best running beam would score no better if it
    ended now (False), or when it can score no better at any length ("never").

    Sampling: `temperature` > 0; `top_k` most probable tokens (0: all); `top_p` in [0, 1], the smallest set of tokens
    with that much probability. They apply with `do_sample` only.

    Always: `repetition_penalty` > 0 (1: none) for tokens that the text or prompt holds already;
    `no_repeat_ngram_size` n allows no n-gram twice (0: any); `bad_words_ids`, a list of token lists, never appear.
    `prompt_ids`, tokens without `[CLS]` and `[SEP]`, begin a text for which `generate` is given no `input_ids`: the
    prompt that a captioner was trained with ([]: trained without one; None: not known, so none).

    `return_dict_in_generate` asks for scores and token log-probabilities, `output_scores` for the whole distributions
    too. `eos_token_id` is one id, a list of ids, or None for a text that ends at its greatest length only.
    None turns an option off. Values that cannot work are a `ValueError` naming the field.
    """

    max_length: int = None  # type: ignore[assignment]  # becomes 20; None tells a length left out from one given
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    do_sample: bool = False
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: list[list[int]] | None = None
    prompt_ids: list[int] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    output_scores: bool = False
    return_dict_in_generate: bool = False
    extra: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, value in OFF.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        self._length_left_out = self.max_length is None
        if self._length_left_out:
            self.max_length = DEFAULT_LENGTH
        self.validate()

    def validate(self) -> None:
        """Raise `ValueError` naming the first field whose value cannot work, or the fields that clash."""
        for name in ("max_length", "num_beams", "num_return_sequences"):
            self._check(name, _whole(getattr(self, name), 1), "a whole number of at least 1")
        for name in ("min_length", "top_k", "no_repeat_ngram_size"):
            self._check(name, _whole(getattr(self, name), 0), "a whole number of at least 0")
        for name, least in (("max_new_tokens", 1), ("min_new_tokens", 0), ("bos_token_id", 0), ("pad_token_id", 0)):
            value = getattr(self, name)
            self._check(name, value is None or _whole(value, least), f"None or a whole number of at least {least}")
        for name in ("do_sample", "output_scores", "return_dict_in_generate"):
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        for name in ("temperature", "repetition_penalty"):
            value = getattr(self, name)
            hint = " (for the most probable token take do_sample=False)" if name == "temperature" else ""
            self._check(name, _finite(value) and value > 0, f"a number greater than 0{hint}")
        self._check("top_p", _finite(self.top_p) and 0 <= self.top_p <= 1, "a number from 0 to 1")
        self._check(
            "length_penalty", _finite(self.length_penalty) and abs(self.length_penalty) <= 100, "from -100 to 100"
        )
        known = isinstance(self.early_stopping, bool) or self.early_stopping == "never"
        self._check("early_stopping", known, 'True, False or "never"')
        self._check("eos_token_id", self.eos_token_id is None or _tokens(self.end_ids), "None, a token id or a list")
        words = self.bad_words_ids
        good = words is None or (isinstance(words, list | tuple) and words and all(_tokens(w) for w in words))
        self._check("bad_words_ids", good, "None or a list of lists of token ids")
        ids = self.prompt_ids
        good = ids is None or (isinstance(ids, list | tuple) and (not ids or _tokens(ids)))
        self._check("prompt_ids", good, "None or a list of token ids")
        self._validate_together()

    def _validate_together(self) -> None:
        texts, beams = self.num_return_sequences, self.num_beams
        if texts > 1 and beams == 1 and not self.do_sample:
            raise ValueError(
                f"GenerationConfig.num_return_sequences is {texts}, but greedy search finds one text; "
                "set num_beams or do_sample=True."
            )
        if texts > beams > 1:
            raise ValueError(f"GenerationConfig.num_return_sequences is {texts}, more than num_beams ({beams}).")
        if self.output_scores and not self.return_dict_in_generate:
            raise ValueError("GenerationConfig.output_scores needs return_dict_in_generate=True.")
        low, high = self.min_new_tokens, self.max_new_tokens
        if low is not None and high is not None and low > high:
            raise ValueError(f"GenerationConfig.min_new_tokens is {low}, more than max_new_tokens ({high}).")

    def _check(self, name: str, good: Any, allowed: str) -> None:
        if not good:
            raise ValueError(f"GenerationConfig.{name} must be {allowed}, got {getattr(self, name)!r}.")

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end a text, as a list."""
        ends = self.eos_token_id
        return [] if ends is None else ends if isinstance(ends, list) else [ends]

    @property
    def padding_id(self) -> int:
        """What follows a text that is shorter than others: `pad_token_id`, else the first end token, else 0."""
        return self.pad_token_id if self.pad_token_id is not None else (self.end_ids or [0])[0]

    def length_limits(self, prompt_length: int, max_positions: int | None = None) -> tuple[int, int]:
        """Return the least and the greatest number of tokens of a text, prompt included.

        `max_positions` is what the model can take: it caps the default length, and a greater length that was asked
        for is a `ValueError`, as are a prompt that leaves no room and limits that contradict each other.
        """
        if max_positions is not None and prompt_length >= max_positions:
            raise ValueError(
                f"The prompt has {prompt_length} tokens, but the model has {max_positions} positions; shorten it."
            )
        if self.max_new_tokens is not None:
            longest, said = prompt_length + self.max_new_tokens, f"max_new_tokens={self.max_new_tokens}"
        elif self._length_left_out and self.max_length == DEFAULT_LENGTH:
            longest, said = min(prompt_length + DEFAULT_LENGTH, max_positions or sys.maxsize), "the default length"
        else:
            longest, said = self.max_length, f"max_length={self.max_length}"
        if max_positions is not None and longest > max_positions:
            raise ValueError(
                f"A prompt of {prompt_length} tokens with {said} may grow to {longest} tokens, but the model has "
                f"{max_positions} positions; shorten the prompt or ask for fewer tokens."
            )
        if prompt_length >= longest:
            raise ValueError(
                f"The prompt has {prompt_length} tokens, which leaves no room for a text with {said}; "
                "shorten the prompt, or set max_new_tokens."
            )
        shortest = self.min_length if self.min_new_tokens is None else prompt_length + self.min_new_tokens
        if shortest > longest:
            name = "min_length" if self.min_new_tokens is None else "min_new_tokens"
            raise ValueError(
                f"{name}={getattr(self, name)} asks for {shortest} tokens (prompt included), but {said} ends a text at "
                f"{longest}; lower the one or raise the other."
            )
        return shortest, longest

    def updated(self, **overrides: Any) -> Self:
        """Return a copy with other values, as the keywords of `generate` give them.

        Raises `TypeError` for a keyword that is no option, with the closest names, and `ValueError` for a bad value.
        """
        names = [f.name for f in fields(self) if f.init]
        for name in overrides:
            if name not in names:
                close = difflib.get_close_matches(name, names) or names
                raise TypeError(f"{name!r} is no option of generate; there is {', '.join(close)}.")
        config = type(self)(**{**self._given(), **overrides})
        config.extra = copy.deepcopy(self.extra)
        return config

    def _given(self) -> dict[str, Any]:
        values = {f.name: copy.deepcopy(getattr(self, f.name)) for f in fields(self) if f.init}
        if self._length_left_out and self.max_length == DEFAULT_LENGTH:
            del values["max_length"]
        return values

    def unused_options(self) -> list[str]:
        """Names of options that are set but have no effect in the method chosen."""
        default = type(self)()
        sampling = [] if self.do_sample else ["temperature", "top_p", "top_k"]
        beams = [] if self.num_beams > 1 else ["early_stopping", "length_penalty"]
        return [name for name in sampling + beams if getattr(self, name) not in (getattr(default, name), OFF.get(name))]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from a dictionary as `generation_config.json` holds it; keys that are no field go to `extra`.

        Raises `ValueError` for a value that cannot work; warns of an option that would change the text but is not
        known here.
        """
        names = {f.name for f in fields(cls) if f.init}
        config = cls(**{k: copy.deepcopy(v) for k, v in values.items() if k in names})
        config.extra = {k: copy.deepcopy(v) for k, v in values.items() if k not in names}
        for name in sorted(ELSEWHERE.keys() & config.extra.keys()):
            if config.extra[name] not in (None, ELSEWHERE[name]):
                warnings.warn(f"The generation option {name}={config.extra[name]!r} has no effect here.", stacklevel=2)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary of every field and kept unknown key; a `max_length` left out stays out."""
        return {**copy.deepcopy(self.extra), **self._given()}

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path | None = None, *, revision: str | None = None) -> Self:
        """Read `generation_config.json` of a folder, of a Hub repository, or a JSON file given by its path.

        Without a name it is that of the model in the package.
        Raises `OSError` where there is no such file and `ValueError`, naming it, for one that cannot work.
        """
        name_or_path = or_shipped(name_or_path)
        path = Path(name_or_path)
        if not path.is_file():
            path = resolve_folder(name_or_path, revision=revision, patterns=[FILE]) / FILE
        values = read_json(path)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `generation_config.json` into `folder`, made if needed; an existing file is replaced atomically."""
        write_json(Path(folder) / FILE, self.to_dict())


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _tokens(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(_whole(token, 0) for token in value)
