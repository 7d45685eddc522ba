"""One message for each kind of setting that cannot work; values that can come back as they are stored."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest

from blip_core.validators import (
    check_names,
    check_settings,
    choice,
    flag,
    number,
    setting,
    text,
    token_ids,
    whole_number,
)


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda: whole_number("beams", 0, least=1), "beams must be a whole number of at least 1, got 0."),
        (lambda: whole_number("beams", True), "beams must be a whole number of at least 0, got True."),
        (lambda: whole_number("beams", 2.0), "beams must be a whole number of at least 0, got 2.0."),
        (lambda: whole_number("filter", 9, most=5), "filter must be a whole number from 0 to 5, got 9."),
        (lambda: whole_number("k", -1, optional=True), "k must be None or a whole number of at least 0, got -1."),
        (lambda: number("x", float("nan")), "x must be a finite number, got nan."),
        (lambda: number("x", 10**400), "x must be a finite number, got 1000"),
        (lambda: number("x", "1"), "x must be a finite number, got '1'."),
        (lambda: number("p", 1.5, 0, 1), "p must be a number from 0 to 1, got 1.5."),
        (lambda: number("p", 0, above=0, most=1), "p must be a number above 0 and up to 1, got 0."),
        (lambda: number("p", 1, 0, below=1), "p must be a number of at least 0 and below 1, got 1."),
        (lambda: choice("side", 1, (True, "left")), "side must be one of True, left, got 1."),
        (lambda: choice("side", [], ("left",)), "side must be one of left, got []."),
        (lambda: flag("on", 1), "on must be True or False, got 1."),
        (lambda: text("name", None), "name must be a text, got None."),
        (lambda: token_ids("ids", []), "ids must be a list of token ids, got []."),
        (lambda: token_ids("ids", [1, -1]), "ids must be a list of token ids, got [1, -1]."),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(check, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check()


def test_what_can_work_comes_back_as_it_is_stored():
    assert type(whole_number("size", np.int64(3))) is int
    assert type(number("p", np.float32(0.5), 0, 1)) is float
    assert (number("p", 1), choice("x", None, (None, "a")), flag("x", None, optional=True)) == (1, None, None)
    assert (token_ids("ids", (), empty=True), token_ids("ids", None, optional=True)) == ([], None)


def test_a_dataclass_declares_its_validators_beside_its_fields():
    @dataclass(frozen=True)
    class Options:
        beams: int = setting(3, whole_number, least=1)
        top_p: float | None = setting(None, number, above=0, most=1, optional=True)

        def __post_init__(self) -> None:
            check_settings(self, "Options.")

    assert type(Options(beams=np.int64(2)).beams) is int
    with pytest.raises(ValueError, match=r"Options\.beams must be a whole number of at least 1, got 0\."):
        Options(beams=0)
    with pytest.raises(TypeError, match="'beam' is no option; there is beams"):
        check_names(["beam"], ["beams", "top_p"], "option")
