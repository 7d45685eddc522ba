"""Small programs for TensorFlow give the same with `transformers` and with `blip_tf` as the import."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import transformers

import blip_tf
from tests.helpers.transformers_pairs import PROGRAM_HEADS, check_same
from tests.oracle.programs import tensorflow_programs

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
PROGRAMS = dict(inspect.getmembers(tensorflow_programs, inspect.isfunction))
PROGRAMS = {
    name: program
    for name, program in PROGRAMS.items()
    if not name.startswith("_") and program.__module__ == tensorflow_programs.__name__
}


@pytest.fixture(scope="module")
def tf_at(at, tmp_path_factory):
    """The small checkpoints as `tf_model.h5`: 4.57.6 does not read safetensors of PyTorch by recent safetensors."""
    folder = tmp_path_factory.mktemp("tensorflow")
    for name, head in PROGRAM_HEADS.items():
        model = getattr(transformers, head).from_pretrained(at / name)
        model.save_pretrained(folder / "pt" / name, safe_serialization=False)
        getattr(transformers, "TF" + head).from_pretrained(folder / "pt" / name, from_pt=True).save_pretrained(
            folder / name
        )
        transformers.BlipProcessor.from_pretrained(at / name).save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_the_same(name: str, tf_at: Any):
    program = PROGRAMS[name]
    check_same(program(blip_tf, tf_at), program(transformers, tf_at), name)
