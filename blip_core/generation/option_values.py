"""Validators of the options of generation, and what other packages offer that has no row here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from blip_core.validators import (
    Validator,
    is_number,
    is_token_ids,
    is_whole,
    number,
    require,
    setting,
)

ALWAYS, LENGTH, BEAMS, SAMPLING = "always", "length, in tokens", "with beams", "with do_sample"
"""When an option has an effect."""
DETAILS = "with return_dict_in_generate"

ELSEWHERE: dict[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,), "diversity_penalty": (0.0,), "penalty_alpha": (), "constraints": (),
    "guidance_scale": (1, 1.0), "stop_strings": (), "use_cache": (True, False), "synced_gpus": (False,),
    "use_model_defaults": (), "remove_invalid_values": (False,), "encoder_no_repeat_ngram_size": (0,),
    "low_memory": (False,), "dola_layers": (), "prompt_lookup_num_tokens": (), "assistant_model": (),
    "assistant_tokenizer": (), "tokenizer": (), "negative_prompt_ids": (), "negative_prompt_attention_mask": (),
    "watermarking_config": (), "cache_implementation": (), "cache_config": (), "return_legacy_cache": (True, False),
    "custom_generate": (), "token_healing": (False,), "disable_compile": (True, False), "compile_config": (),
    "decoder_start_token_id": (),
}  # fmt: skip
"""Options of other packages that are not offered here, with the values, beside None, at which they have no effect."""


class Option(NamedTuple):
    """One option of generation, for command lines and documentation that list them."""

    name: str
    default: Any
    meaning: str
    when: str
    validator: Validator


def option(meaning: str, when: str, default: Any, validator: Any, *, off: Any = None, **limits: Any) -> Any:
    """Return a row: a field with its validator; `off` is the value without effect, for which None stands."""
    return setting(default, validator, facts={"meaning": meaning, "when": when, "off": off}, **limits)


def foreign(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options of other packages that would have an effect there, and are not offered here."""
    neutral = {name: (None, *values) for name, values in ELSEWHERE.items()}
    return {name: value for name, value in options.items() if name in neutral and value not in neutral[name]}


def temperature(name: str, value: Any) -> Any:
    """Return a number above 0; a message for 0 says what to take."""
    try:
        return number(name, value, above=0)
    except ValueError as error:
        raise ValueError(f"{error} For the most probable token take do_sample=False.") from None


def early_stopping(name: str, value: Any) -> Any:
    """Return True, False or "never"."""
    require(isinstance(value, bool) or value == "never", name, value, 'True, False or "never"')
    return value


def ends(name: str, value: Any) -> Any:
    """Return None, a token id or a list of them."""
    good = value is None or (is_whole(value) and value >= 0) or is_token_ids(value)
    require(good, name, value, "None, a token id or a list of them")
    return value


def words(name: str, value: Any) -> Any:
    """Return None or a list of lists of token ids."""
    good = value is None or (isinstance(value, list | tuple) and value and all(map(is_token_ids, value)))
    require(good, name, value, "None or a list of lists of token ids")
    return value


def biases(name: str, value: Any) -> Any:
    """Return None, or pairs [token ids, bias], which may be given as a dictionary of tuples."""
    pairs = list(map(list, value.items())) if isinstance(value, Mapping) else value
    good = pairs is None or (
        isinstance(pairs, list | tuple)
        and pairs
        and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)
        and all(is_token_ids(ids) and is_number(bias) for ids, bias in pairs)
    )
    require(good, name, value, "None, or pairs of a list of token ids and a number")
    return None if pairs is None else [[list(ids), float(bias)] for ids, bias in pairs]


def decay(name: str, value: Any) -> Any:
    """Return None, or (first token, factor)."""
    good = value is None or (
        isinstance(value, list | tuple)
        and len(value) == 2
        and is_whole(value[0])
        and value[0] >= 0
        and is_number(value[1])
        and value[1] > 0
    )
    require(good, name, value, "None, or a pair of a whole number of at least 0 and a factor above 0")
    return None if value is None else [int(value[0]), float(value[1])]
