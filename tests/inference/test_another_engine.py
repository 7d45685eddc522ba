"""An engine of one's own, in NumPy: registered here, it captions, matches and is evaluated as any other."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipConfig, BlipProcessor, Captioner, GenerationConfig, Matcher, engines
from blip_core.datasets import Dataset, Example, Picture
from blip_core.engines import ENGINES, Engine, engine_of, register
from blip_core.evaluation import evaluate_captions, evaluate_retrieval
from blip_core.generation import generate

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}


class Model:
    """What both models share: an "encoder" whose two tokens are a picture's mean colour."""

    def __init__(self, processor=None):
        self.processor = processor or BlipProcessor.from_pretrained()
        self.config = BlipConfig.base(image_text_hidden_size=3)
        self.generation_config = GenerationConfig()

    @classmethod
    def from_pretrained(cls, name, **_):
        return cls()

    def words(self, ids):
        return [word for word in self.processor.decode(ids, skip_special_tokens=True).split() if word in COLOURS]

    def vision_model(self, pixels):
        statistics = self.processor.image_processor
        mean = pixels.mean(axis=(2, 3)) * statistics.image_std + statistics.image_mean
        return SimpleNamespace(last_hidden_state=np.stack([mean, mean], axis=1).astype(np.float32))


class BlipForConditionalGeneration(Model):
    def generate(self, pixel_values, **options):
        ids = [self.processor.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in COLOURS]
        end = self.processor.tokenizer.sep_token_id
        colours = self.vision_model(pixel_values).last_hidden_state[:, 0]
        logits = np.full((len(colours), 30524), -9.0, np.float32)
        logits[:, ids] = 9 * colours

        def step(tokens):
            return np.eye(30524, dtype=np.float32)[[end] * len(tokens)] * 20

        session = SimpleNamespace(prefill=lambda *_: logits, step=step, select=lambda rows: None)
        start = np.full((len(colours), 1), self.processor.tokenizer.bos_token_id)
        config = self.generation_config.updated(**{**options, "eos_token_id": end, "pad_token_id": 0})
        return generate(session, start, np.ones_like(start), config)


class BlipForImageTextRetrieval(Model):
    def vision_proj(self, states):
        return states

    def get_image_features(self, image_embeds):
        return image_embeds[:, 0] / np.linalg.norm(image_embeds[:, 0], axis=1, keepdims=True)

    def get_text_features(self, input_ids, attention_mask):
        return np.array([COLOURS[self.words(ids)[0]] for ids in input_ids], np.float32)

    def __call__(self, image_embeds, input_ids, attention_mask):
        scores = (self.get_image_features(image_embeds) * self.get_text_features(input_ids, attention_mask)).sum(axis=1)
        return SimpleNamespace(itm_score=np.stack([1 - scores, 5 * scores], axis=1))


backend = SimpleNamespace(
    to_tensor=lambda array, model: array,
    to_numpy=np.asarray,
    no_gradients=lambda model: nullcontext(),
    default_device=lambda: "cpu",
    check_device=lambda name: None,
    precision=lambda model: "float32",
    weights=lambda model, beginnings: iter([]),
)


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """Register the engine, and forget it afterwards."""
    monkeypatch.setattr(engines, "ENGINES", dict(ENGINES))
    monkeypatch.setitem(sys.modules, f"{__name__}.backend", backend)
    register(Engine("np", "NumPy", "numpy", __name__, extra="np"))


@pytest.fixture
def pictures(tmp_path):
    for colour in COLOURS:
        Image.new("RGB", (30, 20), tuple(255 * value for value in COLOURS[colour])).save(tmp_path / f"{colour}.png")
    return [str(tmp_path / f"{colour}.png") for colour in COLOURS]


def test_it_captions(pictures):
    captioner = Captioner.from_pretrained(engine="np")
    assert captioner.engine.title == "NumPy"
    assert [caption.text for caption in captioner(pictures, num_beams=2)] == list(COLOURS)
    assert captioner(pictures[0]).confidence > 0.9


def test_it_matches(pictures):
    matcher = Matcher.from_pretrained(engine="np")
    texts = [f"a {colour} wall" for colour in COLOURS]
    for number, match in enumerate(matcher(pictures, texts, batch_size=2)):
        assert match.itm.argmax() == match.itc.argmax() == number
        assert match.itc[number] == pytest.approx(1, abs=1e-3)
    assert len(matcher.identity) == len(matcher.features_identity) == 32


def test_it_is_evaluated(pictures):
    examples = [
        Example(colour, (Picture(path),), (f"{colour}",)) for colour, path in zip(COLOURS, pictures, strict=True)
    ]
    processor = BlipProcessor.from_pretrained()
    model = BlipForConditionalGeneration(processor)
    assert engine_of(model).name == "np"
    result = evaluate_captions(model, processor, Dataset("caption", examples))
    assert [entry["caption"] for entry in result.entries] == list(COLOURS)
    result = evaluate_retrieval(BlipForImageTextRetrieval(processor), processor, Dataset("retrieval", examples))
    assert result.metrics["mean_recall"] == 1
