"""Validators of settings: each takes a name and a value, and returns the value or raises one `ValueError`.

All messages read alike: "<name> must be <what was expected>, got <what came>." A dataclass declares its validators
beside its fields, with `setting`, and runs them with `check_settings`.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, field, fields
from functools import partial
from numbers import Integral, Real
from typing import Any

Validator = Callable[[str, Any], Any]
"""Called with a name and a value; returns the value to store, or raises `ValueError`."""


def require(good: Any, name: str, value: Any, expected: str) -> None:
    """Raise the `ValueError` that every validator raises, unless `good` is true."""
    if not good:
        raise ValueError(f"{name} must be {expected}, got {value!r:.80}.")


def whole_number(name: str, value: Any, least: int = 0, most: int | None = None, optional: bool = False) -> Any:
    """Return `value` as an int; NumPy's integers are taken too, True and False are not."""
    if optional and value is None:
        return None
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    good = is_whole(value) and value >= least and (most is None or value <= most)
    require(good, name, value, f"{'None or ' * optional}a whole number {limits}")
    return int(value)


def number(
    name: str,
    value: Any,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    optional: bool = False,
) -> Any:
    """Return a finite number: at least `least`, at most `most`, more than `above`, less than `below`."""
    if optional and value is None:
        return None
    low = "" if least is None else f"of at least {least:g}"
    low = low if above is None else f"above {above:g}"
    high = "" if most is None else f"up to {most:g}"
    high = high if below is None else f"below {below:g}"
    limits = (
        f"from {least:g} to {most:g}"
        if least is not None and most is not None
        else " and ".join(filter(None, (low, high)))
    )
    good = (
        is_number(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    require(good, name, value, f"{'None or ' * optional}a {f'number {limits}' if limits else 'finite number'}")
    return value if isinstance(value, int | float) else float(value)


def choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Return one of `choices`, which are texts, booleans or None; 0 and 1 do not stand for False and True."""
    choices = list(choices)
    found = isinstance(value, bool | str | None) and value in choices
    require(found, name, value, f"one of {', '.join(map(str, choices))}")
    return value


def flag(name: str, value: Any, optional: bool = False) -> Any:
    """Return True or False."""
    require(isinstance(value, bool) or (optional and value is None), name, value, f"{'None, ' * optional}True or False")
    return value


def text(name: str, value: Any, optional: bool = False) -> Any:
    """Return a string."""
    require(isinstance(value, str) or (optional and value is None), name, value, f"{'None or ' * optional}a text")
    return value


def token_ids(name: str, value: Any, optional: bool = False, empty: bool = False) -> Any:
    """Return a list of token ids."""
    if optional and value is None:
        return None
    require(is_token_ids(value, empty), name, value, f"{'None or ' * optional}a list of token ids")
    return list(value)


def is_whole(value: Any) -> bool:
    """Tell whether `value` is an integer, NumPy's included, and not True or False."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Tell whether `value` is a finite real number, and not True or False."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int greater than any float
        return False


def is_token_ids(value: Any, empty: bool = False) -> bool:
    """Tell whether `value` is a list of whole numbers of at least 0, by default not an empty one."""
    if not isinstance(value, list | tuple) or not (value or empty):
        return False
    return all(is_whole(token) and token >= 0 for token in value)


def setting(
    default: Any,
    validator: Callable[..., Any] | None,
    meaning: str = "",
    /,
    *,
    facts: dict[str, Any] | None = None,
    **limits: Any,
) -> Any:
    """Return a dataclass field with its validator and its meaning.

    `limits` are keywords of the validator, `facts` is further metadata.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Options:
        ...     beams: int = setting(3, whole_number, least=1)
        ...     def __post_init__(self) -> None:
        ...         check_settings(self)
        >>> Options(beams=5)
        Options(beams=5)
    """
    validator = partial(validator, **limits) if validator and limits else validator
    return field(default=default, metadata={"validator": validator, "meaning": meaning, **(facts or {})})


def describe(cls: type, title: str) -> None:
    """Append the meanings of a class's fields, inherited ones first, to its docstring; call it in `__init_subclass__`.

    A section that follows, such as "Raises:", goes after a line that holds "{fields}".
    """
    rows = {**getattr(cls, "__dataclass_fields__", {}), **vars(cls)}
    meanings = {name: row.metadata.get("meaning") for name, row in rows.items() if isinstance(row, Field)}
    lines = "".join(f"\n    {name}: {meaning}" for name, meaning in meanings.items() if meaning)
    if lines:
        text = inspect.cleandoc(cls.__doc__ or "")
        text = text if "{fields}" in text else text + "\n\n{fields}\n"
        cls.__doc__ = text.replace("{fields}", f"{title}:{lines}")


def check_settings(owner: Any, prefix: str = "") -> None:
    """Run the validators of a dataclass's fields in order and store what they return; names get the `prefix`."""
    for row in fields(owner):
        if validator := row.metadata.get("validator"):
            object.__setattr__(owner, row.name, validator(prefix + row.name, getattr(owner, row.name)))


def check_names(given: Iterable[str], known: Sequence[str], what: str) -> None:
    """Raise `TypeError` for the first keyword that is not among the `known` ones, naming the nearest of these."""
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known) or known
            raise TypeError(f"{name!r} is no {what}; there is {', '.join(close)}.")
