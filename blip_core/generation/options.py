"""The options of generation: one row each, with its validator and its meaning; stored as `generation_config.json`.

To add an option, add a row to `GenerationConfig`, and if it changes the scores of tokens a step to `STEPS` of
`blip_core.generation.logits`. The keywords of `generate`, the docstring of `GenerationConfig` and the file follow.
"""

from __future__ import annotations

import copy
import inspect
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from blip_core.config_mixin import ConfigMixin
from blip_core.generation.option_values import (
    ALWAYS,
    BEAMS,
    DETAILS,
    ELSEWHERE,
    LENGTH,
    SAMPLING,
    Option,
    biases,
    decay,
    early_stopping,
    ends,
    foreign,
    option,
    temperature,
    words,
)
from blip_core.validators import (
    check_names,
    check_settings,
    flag,
    number,
    token_ids,
    whole_number,
)

DEFAULT_LENGTH = 20

OF_TRAINERS = ("labels", "synced_gpus")
"""What trainers give `generate` with the rest of a batch, and it has no use for."""


@dataclass(kw_only=True)
class GenerationConfig(ConfigMixin):
    """Say which texts `generate` looks for.

    Names, defaults and meanings are those of transformers 4.57.6, except `prompt_ids`, which it lacks.
    `num_beams=1` is greedy search, with `do_sample` sampling; more is beam search, with `do_sample` beam sampling.
    None turns an option off.

    Args:
        {args}

    Raises:
        ValueError: A value cannot work, or options clash; the message names them.

    Example:
        >>> GenerationConfig(num_beams=3, max_new_tokens=20).length_limits(prompt_length=4)
        (0, 24)
    """

    file_names: ClassVar = ("generation_config.json",)
    unset: ClassVar = {"_from_model_config": False}  # which trainers read
    # fmt: off
    max_length: int = option(
        "longest text, prompt included. Left out it is 20 tokens after the prompt.", LENGTH,
        None, whole_number, least=1, off=DEFAULT_LENGTH)
    max_new_tokens: int | None = option(
        "longest text without its prompt; wins over `max_length`.", LENGTH, None, whole_number, least=1, optional=True)
    min_length: int = option("shortest text, prompt included.", LENGTH, 0, whole_number, off=0)
    min_new_tokens: int | None = option(
        "shortest text without its prompt; wins over `min_length`.", LENGTH, None, whole_number, optional=True)
    do_sample: bool = option("sample each token by its probability.", ALWAYS, False, flag)
    num_beams: int = option("beams that are searched; 1 is greedy search.", ALWAYS, 1, whole_number, least=1)
    num_return_sequences: int = option(
        "texts for each picture: samples, or the best beams, at most `num_beams`.", ALWAYS,
        1, whole_number, least=1, off=1)
    temperature: float = option(
        "divides the logits: below 1 sharpens the distribution, above 1 flattens it.", SAMPLING,
        1.0, temperature, off=1.0)
    top_p: float = option(
        "keep the smallest set of tokens with this probability together.", SAMPLING,
        1.0, number, least=0, most=1, off=1.0)
    top_k: int = option("keep this many most probable tokens; 0 keeps all.", SAMPLING, 50, whole_number, off=0)
    min_p: float | None = option(
        "keep tokens with at least this share of the probability of the best one.", SAMPLING,
        None, number, least=0, most=1, optional=True)
    typical_p: float = option(
        "keep the tokens whose surprise is nearest to the expected one, with this probability together.", SAMPLING,
        1.0, number, above=0, most=1, off=1.0)
    epsilon_cutoff: float = option(
        "keep tokens with at least this probability.", SAMPLING, 0.0, number, least=0, below=1, off=0.0)
    eta_cutoff: float = option(
        "the same, but less where the distribution is flat.", SAMPLING, 0.0, number, least=0, below=1, off=0.0)
    early_stopping: bool | str = option(
        "when `num_beams` texts are finished, stop at once (True), when the best running beam would score no better if "
        'it ended now (False), or when it can score no better at any length ("never").', BEAMS,
        False, early_stopping)
    length_penalty: float = option(
        "a finished text scores sum of log-probabilities / new tokens ** `length_penalty`: above 0 prefers long texts.",
        BEAMS, 1.0, number, least=-100, most=100, off=1.0)
    repetition_penalty: float = option(
        "above 1 makes tokens less likely that the prompt or text already contains.", ALWAYS,
        1.0, number, above=0, off=1.0)
    no_repeat_ngram_size: int = option(
        "no sequence of this many tokens occurs twice.", ALWAYS, 0, whole_number, off=0)
    bad_words_ids: list[list[int]] | None = option("lists of tokens that never appear.", ALWAYS, None, words)
    force_words_ids: list[list[int]] | None = option(
        "lists of tokens each of which appears among the new tokens; needs `num_beams` of 2 or more, no `do_sample`.",
        BEAMS, None, words)
    sequence_bias: list[list[Any]] | None = option(
        "pairs of a list of tokens and a number, which is added to the score of its last token where the others stand "
        "before it; or a dictionary of tuples.", ALWAYS,
        None, biases)
    suppress_tokens: list[int] | None = option(
        "tokens that never appear.", ALWAYS, None, token_ids, optional=True, empty=True)
    begin_suppress_tokens: list[int] | None = option(
        "tokens that do not come first after the prompt.", ALWAYS, None, token_ids, optional=True, empty=True)
    forced_bos_token_id: int | None = option(
        "the token that follows a prompt of one token.", ALWAYS, None, whole_number, optional=True)
    forced_eos_token_id: int | list[int] | None = option(
        "the last token of a text that reaches the greatest length.", ALWAYS, None, ends)
    exponential_decay_length_penalty: list[Any] | None = option(
        "(first token, factor): from so many new tokens on, end tokens become likelier by this factor a token.", ALWAYS,
        None, decay)
    encoder_repetition_penalty: float = option(
        "above 1 makes the tokens of the prompt likelier, below 1 less likely.", ALWAYS,
        1.0, number, above=0, off=1.0)
    renormalize_logits: bool = option(
        "make log-probabilities of the scores after all penalties and filters.", ALWAYS, False, flag, off=False)
    max_time: float | None = option(
        "seconds after which all texts end with the token that they are at.", ALWAYS,
        None, number, above=0, optional=True)
    prompt_ids: list[int] | None = option(
        "tokens without `[CLS]` and `[SEP]` that begin a text where `generate` gets no `input_ids`: the prompt "
        "that a captioner was trained with. []: trained without one; None: not known.", ALWAYS,
        None, token_ids, optional=True, empty=True)
    bos_token_id: int | None = option("kept for Hugging Face files.", ALWAYS, None, whole_number, optional=True)
    eos_token_id: int | list[int] | None = option(
        "ends a text: an id, a list of ids, or None for texts of the greatest length.", ALWAYS,
        None, ends)
    pad_token_id: int | None = option(
        "follows a text that is shorter than others; None takes the end token.", ALWAYS,
        None, whole_number, optional=True)
    return_dict_in_generate: bool = option(
        "return a `GenerationOutput` with scores and log-probabilities.", ALWAYS, False, flag)
    output_scores: bool = option(
        "return the scores of the vocabulary by which tokens were chosen.", DETAILS, False, flag, off=False)
    output_logits: bool = option("return the model's logits as well.", DETAILS, False, flag, off=False)
    output_attentions: bool = option("return the attentions of each step.", DETAILS, False, flag, off=False)
    output_hidden_states: bool = option("return the hidden states of each step.", DETAILS, False, flag, off=False)
    # fmt: on

    def __post_init__(self) -> None:
        self._length_left_out = self.max_length is None
        for row in fields(self):
            if getattr(self, row.name) is None and row.metadata.get("off") is not None:
                setattr(self, row.name, row.metadata["off"])
        check_settings(self, "GenerationConfig.")
        texts, beams = self.num_return_sequences, self.num_beams
        if texts > 1 and beams == 1 and not self.do_sample:
            raise ValueError(
                f"GenerationConfig.num_return_sequences is {texts}, but greedy search finds one text; "
                "set num_beams or do_sample=True."
            )
        if texts > beams > 1:
            raise ValueError(f"GenerationConfig.num_return_sequences is {texts}, more than num_beams ({beams}).")
        if forced := self.force_words_ids:
            if beams == 1 or self.do_sample:
                raise ValueError(
                    "GenerationConfig.force_words_ids needs beam search: set num_beams to 2 or more, do_sample=False."
                )
            if last := sorted(set(self.end_ids) & {token for word in forced for token in word}):
                raise ValueError(f"GenerationConfig.force_words_ids holds {last[0]}, which ends a text; leave it out.")
        low, high = self.min_new_tokens, self.max_new_tokens
        if low is not None and high is not None and low > high:
            raise ValueError(f"GenerationConfig.min_new_tokens is {low}, more than max_new_tokens ({high}).")

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end a text, as a list."""
        ends = self.eos_token_id
        return [] if ends is None else ends if isinstance(ends, list) else [ends]

    @property
    def padding_id(self) -> int:
        """The token after the end of a text: `pad_token_id`, else the first end token, else 0."""
        return self.pad_token_id if self.pad_token_id is not None else (self.end_ids or [0])[0]

    def length_limits(self, prompt_length: int, max_positions: int | None = None) -> tuple[int, int]:
        """Return the limits of a text's length.

        Args:
            prompt_length: Tokens of the prompt.
            max_positions: Tokens that the model can take, which caps the default length; None for no cap.

        Returns:
            The least and the greatest number of tokens, prompt included.

        Raises:
            ValueError: For a prompt that leaves no room, a length that the model cannot take, and limits that
                contradict each other.
        """
        if max_positions is not None and prompt_length >= max_positions:
            raise ValueError(
                f"The prompt has {prompt_length} tokens, but the model has {max_positions} positions; shorten it."
            )
        if self.max_new_tokens is not None:
            longest, limit = prompt_length + self.max_new_tokens, f"max_new_tokens={self.max_new_tokens}"
        elif self._length_left_out and self.max_length == DEFAULT_LENGTH:
            longest, limit = min(prompt_length + DEFAULT_LENGTH, max_positions or sys.maxsize), "the default length"
        else:
            longest, limit = self.max_length, f"max_length={self.max_length}"
        if max_positions is not None and longest > max_positions:
            raise ValueError(
                f"A prompt of {prompt_length} tokens with {limit} may grow to {longest} tokens, but the model has "
                f"{max_positions} positions; shorten the prompt or ask for fewer tokens."
            )
        if prompt_length >= longest:
            raise ValueError(
                f"The prompt has {prompt_length} tokens, which leaves no room for a text with {limit}; "
                "shorten the prompt, or set max_new_tokens."
            )
        shortest = self.min_length if self.min_new_tokens is None else prompt_length + self.min_new_tokens
        if shortest > longest:
            name = "min_length" if self.min_new_tokens is None else "min_new_tokens"
            raise ValueError(
                f"{name}={getattr(self, name)} asks for {shortest} tokens (prompt included), but {limit} ends a text "
                f"at {longest}; lower the one or raise the other."
            )
        if (forced := sum(map(len, self.force_words_ids or []))) > longest - prompt_length:
            raise ValueError(
                f"force_words_ids holds {forced} tokens, but {limit} leaves room for {longest - prompt_length}; force "
                "fewer words, or allow more tokens."
            )
        return shortest, longest

    @classmethod
    def options(cls) -> list[Option]:
        """Return the rows of all options, in order."""
        return [
            Option(row.name, row.default, row.metadata["meaning"], row.metadata["when"], row.metadata["validator"])
            for row in fields(cls)
            if "meaning" in row.metadata
        ]

    def updated(self, **overrides: Any) -> Self:
        """Return a copy with some options replaced.

        Args:
            **overrides: Options, as keywords of `generate`.

        Returns:
            The new configuration.

        Raises:
            TypeError: A keyword is no option; the message names the nearest ones.
            ValueError: A value cannot work, or an option of other packages is not offered here.
        """
        if refused := foreign({name: value for name, value in overrides.items() if name not in OF_TRAINERS}):
            raise ValueError(f"{_listed(refused)}: generate of this package does not offer it; leave it out.")
        overrides = {name: value for name, value in overrides.items() if name not in (*OF_TRAINERS, *ELSEWHERE)}
        check_names(overrides, [option.name for option in self.options()], "option of generate")
        config = type(self)(**{**self.settings(), **overrides})
        config.extra = copy.deepcopy(self.extra)
        return config

    def settings(self) -> dict[str, Any]:
        """Return a copy of the options by name, without a `max_length` that was left out."""
        values = super().settings()
        if self._length_left_out and self.max_length == DEFAULT_LENGTH:
            del values["max_length"]
        return values

    def unused_options(self) -> list[str]:
        """Return the names of options that are set but have no effect with the chosen method."""
        unused = {
            SAMPLING: not self.do_sample, BEAMS: self.num_beams == 1, DETAILS: not self.return_dict_in_generate,
        }  # fmt: skip
        return [
            row.name
            for row in fields(self)
            if unused.get(row.metadata.get("when", ALWAYS))
            and getattr(self, row.name) not in (row.default, row.metadata["off"])
        ]

    @classmethod
    def of_model(cls, config: Any, values: dict[str, Any] | None = None) -> Self:
        """Build the options of a model.

        Args:
            config: Its configuration. Options in its `text_config`, where older `config.json` have them, are the
                defaults.
            values: What `generation_config.json` holds.

        Returns:
            The configuration.

        Raises:
            ValueError: A value cannot work.
        """
        names = {row.name for row in cls.options()}
        older = {name: v for name, v in getattr(config, "text_config", config).extra.items() if name in names}
        values = dict(values or {})
        kept = {
            name: value
            for name, value in older.items()
            if value is not None and (name, value) != ("max_length", DEFAULT_LENGTH)
        }
        if values.get("_from_model_config") and values.get("max_length") == DEFAULT_LENGTH:
            del values["max_length"]
        return cls.from_dict({**kept, **values})

    @classmethod
    def from_dict(cls, values: dict[str, Any], **overrides: Any) -> Self:
        """Build from a dictionary as `generation_config.json` holds it.

        A `max_length` of 20 in a file that transformers derived from a model's configuration ("_from_model_config")
        is its default, which counts new tokens. A warning names options that are not implemented here.

        Args:
            values: Options by name; other keys are kept in `extra`.
            **overrides: Options that win over `values`.

        Returns:
            The configuration.

        Raises:
            ValueError: A value cannot work.
        """
        if isinstance(values, dict) and values.get("_from_model_config") and values.get("max_length") == DEFAULT_LENGTH:
            values = {**values, "max_length": None}
        config = super().from_dict(values, **overrides)
        if unknown := foreign(config.extra):
            warnings.warn(f"{_listed(unknown)} has no effect here.", stacklevel=2)
        return config

    @classmethod
    def of(cls, given: Any, model: Self) -> Self:
        """Understand what a caller gives as `generation_config`.

        Args:
            given: A configuration, one of transformers, a dictionary, or None for that of the model. As in
                transformers, a `max_length` of 20 is the default, which counts new tokens.
            model: The model's own configuration.

        Returns:
            The configuration; without a `prompt_ids` of its own it has that of the model.

        Raises:
            ValueError: It is none of these, a value cannot work, or asks for what is not offered here.
        """
        if given is None or isinstance(given, cls):
            return model if given is None else given
        values = given if isinstance(given, Mapping) else getattr(given, "to_dict", dict)()
        if not (isinstance(values, Mapping) and (values or given == {})):
            raise ValueError(f"generation_config must be a GenerationConfig, got {type(given).__name__}.")
        values = {name: value for name, value in values.items() if value is not None}
        if refused := foreign(values):
            raise ValueError(f"{_listed(refused)}: generate of this package does not offer it; leave it out.")
        if values.get("max_length") == DEFAULT_LENGTH:
            del values["max_length"]
        config = cls.from_dict(values)
        config.prompt_ids = model.prompt_ids if config.prompt_ids is None else config.prompt_ids
        return config


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r:.40}" for name, value in sorted(options.items()))


_ROWS = "\n    ".join(
    f"{row.name}: ({row.when}; default {row.default!r}) {row.meaning[0].upper()}{row.meaning[1:]}"
    for row in GenerationConfig.options()
)
GenerationConfig.__doc__ = inspect.cleandoc(GenerationConfig.__doc__ or "").replace("{args}", _ROWS)
