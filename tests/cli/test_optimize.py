"""`--optimize`: which commands do so unless told otherwise, and what says so of an engine without it."""

from types import SimpleNamespace

import pytest

from blip_core.cli.caption_folder import MANY, Writer
from blip_core.cli.load_model import optimize


class Model:
    done = 0

    def optimize(self):
        self.done += 1


@pytest.mark.parametrize(
    ("given", "long", "done"), [(None, True, 1), (None, False, 0), (True, False, 1), (False, True, 0)]
)
def test_long_work_is_optimized_unless_told_otherwise(given, long, done):
    loaded = SimpleNamespace(model=Model())
    optimize(loaded, SimpleNamespace(optimize=given), long)
    assert loaded.model.done == done


def test_an_engine_without_it():
    loaded = SimpleNamespace(model=object(), engine=SimpleNamespace(title="TensorFlow"))
    optimize(loaded, SimpleNamespace(optimize=None), long=True)
    with pytest.raises(ValueError, match="--optimize is for --engine pt; TensorFlow"):
        optimize(loaded, SimpleNamespace(optimize=True), long=False)


@pytest.mark.parametrize(("pictures", "done"), [(MANY, 1), (MANY - 1, 0)])
def test_captions_of_many_pictures(monkeypatch, pictures, done):
    monkeypatch.setattr(Writer, "__init__", lambda self: None)
    writer, model = Writer(), Model()
    names = ("prompt", "batch_size", "seed", "frames", "optimize", "scores", "prefix", "suffix")
    writer.args, writer.options = SimpleNamespace(**dict.fromkeys(names)), {}
    writer.args.batch_size = 8

    class Captioner(SimpleNamespace):
        def __call__(self, *given, **options):
            return iter(())

    writer.captioner = Captioner(model=model)
    assert list(writer(["picture.png"] * pictures)) == []
    assert model.done == done
