"""Small programs in the manner of public ones give the same with `transformers` and with `blip_pt` as the import."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import transformers

import blip_pt
from tests.helpers.transformers_pairs import check_same
from tests.oracle.programs import (
    caption_programs,
    matching_programs,
    processing_programs,
    question_programs,
    training_programs,
)

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
MODULES = (caption_programs, question_programs, matching_programs, processing_programs, training_programs)
PROGRAMS = {
    f"{module.__name__.rpartition('.')[2].partition('_')[0]}.{name}": program
    for module in MODULES
    for name, program in inspect.getmembers(module, inspect.isfunction)
    if not name.startswith("_") and program.__module__ == module.__name__
}


def test_there_are_programs_of_every_kind():
    assert len(PROGRAMS) >= 36


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_the_same(name: str, at: Any):
    program: Callable[..., Any] = PROGRAMS[name]
    with warnings.catch_warnings():
        expected = program(transformers, at)
        found = program(blip_pt, at)
    check_same(found, expected, name)
