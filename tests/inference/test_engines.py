"""The registry of engines: what is installed, which engine a model is of, and devices that are not there."""

from dataclasses import replace

import numpy as np
import pytest

from blip_core import engines
from blip_core.engines import ENGINES, Engine, engine_of, get_engine, register
from tests.helpers.frameworks import INSTALLED
from tests.helpers.random_models import CONFIGS_OF
from tests.helpers.tensorflow_models import models


@pytest.fixture(scope="module")
def matchers(tmp_path_factory):
    """The same matching model in both engines, by the engine's name."""
    folder = tmp_path_factory.mktemp("matcher")
    return dict(zip(("pt", "tf"), models("BlipForImageTextRetrieval", CONFIGS_OF["wide"], folder), strict=True))


@pytest.mark.needs("pt", "tf")
def test_the_first_installed_engine_is_taken(monkeypatch):
    assert get_engine() is ENGINES["pt"]
    monkeypatch.setitem(ENGINES, "pt", replace(ENGINES["pt"], package="no_such_package"))
    assert get_engine() is ENGINES["tf"]
    for name in ("tf", "onnx", "openvino"):
        monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], package="no_such_package"))
    with pytest.raises(ValueError, match=r'pip install "blip-duo\[pt\]" or pip install "blip-duo\[tf\]"'):
        get_engine()
    with pytest.raises(ValueError, match="engine 'tf' needs no_such_package, which is not installed"):
        get_engine("tf")


def test_an_unknown_engine_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="engine must be one of pt, tf, onnx, openvino, got 'jax'"):
        get_engine("jax")


def test_an_engine_can_be_registered_and_replaced(monkeypatch):
    monkeypatch.setattr(engines, "ENGINES", dict(ENGINES))
    for title in ("One", "Other"):
        register(Engine("np", title, "numpy", "nothing", extra="np"))
        assert get_engine("np").title == title


def test_a_model_tells_its_engine_and_its_head(matchers):
    for name, model in matchers.items():
        derived = type("Mine", (type(model),), {})
        assert engine_of(model) is ENGINES[name]
        assert engine_of(derived.__new__(derived)) is ENGINES[name]
        assert ENGINES[name].has_head(derived.__new__(derived), "BlipForImageTextRetrieval")
        assert not ENGINES[name].has_head(model, "BlipForConditionalGeneration")
        assert ENGINES[name].precision(model) == "float32"
    with pytest.raises(ValueError, match="needed, got ndarray"):
        engine_of(np.zeros(1))


def test_weights_are_the_same_in_both_engines_and_without_the_training_state(matchers):
    pt, tf = (dict(engine_of(model).weights(model)) for model in matchers.values())
    assert pt.keys() == tf.keys()
    assert all(np.array_equal(pt[name], tf[name]) and pt[name].dtype == np.float32 for name in pt)
    assert not any("queue" in name or "_m." in name or name == "temp" for name in pt)
    some = ENGINES["pt"].weights(matchers["pt"], ("vision_proj.",))
    assert [name for name, _ in some] == ["vision_proj.weight", "vision_proj.bias"]


@pytest.mark.parametrize("name", INSTALLED)
def test_arrays_there_and_back(matchers, name):
    engine, model = get_engine(name), matchers[name]
    for array in (np.arange(6).reshape(2, 3), np.ones((2, 2), np.float32)[:, ::-1]):
        back = engine.to_numpy(engine.to_tensor(array, model))
        assert back.dtype == array.dtype
        assert np.array_equal(back, array)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_device_that_is_not_there_is_refused(name):
    engine = get_engine(name)
    engine.check_device("cpu")
    engine.check_device(engine.default_device())
    for device in ("cuda:97", "nonsense", "GPU:97", "cpu:x"):
        with pytest.raises(ValueError, match=f"device '{device}' does not work in {engine.title} here"):
            engine.check_device(device)
        if name == "tf":  # which would take the CPU without a word
            with pytest.raises(ValueError, match="does not work"):
                engine.model_class("BlipForConditionalGeneration").from_pretrained(device=device)
