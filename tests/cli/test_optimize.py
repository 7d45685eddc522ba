"""`--optimize`: what says so of an engine without it."""

from types import SimpleNamespace

import pytest

from blip_core.cli.load_model import optimize


def test_a_model_is_optimized():
    done = []
    optimize(SimpleNamespace(model=SimpleNamespace(optimize=lambda: done.append(True))))
    assert done


def test_an_engine_without_it():
    loaded = SimpleNamespace(model=object(), engine=SimpleNamespace(title="TensorFlow"))
    with pytest.raises(ValueError, match="--optimize is for --engine pt; TensorFlow"):
        optimize(loaded)
