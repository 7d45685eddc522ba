"""The heads over exported graphs: the calls and methods that `blip_core` makes of a model of any engine.

Arguments and results are those of `blip_pt`, as NumPy arrays; pictures are `pixel_values` or `image_embeds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from blip_core import checks
from blip_core.checkpoints.exported import Export, read_export
from blip_core.checkpoints.loading import read_generation_config
from blip_core.checkpoints.processor_files import FILES
from blip_core.engines import ENGINES, Engine
from blip_core.files import read_json
from blip_core.generation.generation_hooks import NUMPY
from blip_core.generation.prompts import prepare_prompts
from blip_core.generation.scores import softmax
from blip_core.graphs.graph_session import GraphSession, TrieReader
from blip_core.hub import or_shipped, resolve_folder
from blip_core.inference import text_scoring
from blip_core.outputs import (
    BlipForClassificationOutput,
    BlipForImageTextRetrievalOutput,
    BlipForNLVROutput,
    BlipVisionOutput,
)
from blip_core.parameters.graph_parts import INTEGERS, PARTS, outputs_of
from blip_core.parameters.heads import HEADS
from blip_core.parameters.initial_values import TEMPERATURE

Array = np.ndarray
Graph = Callable[[dict[str, Array]], dict[str, Array]]
PATTERNS = (*FILES, "export.json", "model.safetensors", "*.onnx", "*.xml", "*.bin")


class GraphModel:
    """A model of an export; each graph is loaded when it is first used.

    `engine` is its row in the registry, `open_graph` how it opens a file on a device as a function of named arrays.
    """

    engine: ClassVar[Engine]
    open_graph: ClassVar[Callable[[Path, str], Graph]]

    def __init__(self, export: Export, device: str):
        self.export, self.device = export, device
        self.config: Any = HEADS[export.head].config.from_dict(read_json(export.folder / "config.json"))
        self.generation_config = read_generation_config([export.folder], self.config)
        self._graphs: dict[str, Graph] = {}

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        dtype: str | None = None,
        device: str | None = None,
        revision: str | None = None,
        config: Mapping[str, Any] | None = None,
        image_size: int | None = None,
    ) -> Self:
        """Open an export.

        Args:
            name_or_path: Its folder, or a Hub repository of one.
            dtype: "float32", which graphs compute in, "auto" or None.
            device: A device of the engine; its CPU unless given.
            revision: A branch, tag or commit of the Hub.
            config, image_size: Refused: an export has its settings and sizes fixed.

        Raises:
            OSError: If nothing is found.
            ValueError: If it is no export that this engine and this class can run, or of another version.
        """
        if dtype not in (None, "auto", "float32"):
            raise ValueError(
                f"{cls.engine.title} computes in float32, got dtype {dtype!r}; the type of the weights is chosen when "
                "a model is exported: blip convert --dtype."
            )
        if config is not None or image_size is not None:
            given = f"config={dict(config)}" if config is not None else f"image_size={image_size}"
            raise ValueError(f"An export has its settings and sizes fixed, got {given}; use the checkpoint itself.")
        folder = resolve_folder(or_shipped(name_or_path), revision=revision, patterns=PATTERNS)
        export = read_export(folder)
        if export is None or export.form not in cls.engine.forms:
            kind, forms = "no export" if export is None else f"an export to {export.form}", cls.engine.forms
            raise ValueError(
                f"{folder} is {kind}, and {cls.engine.title} runs exports to {' or '.join(forms)}: make one by "
                f"blip convert MODEL FOLDER --to {forms[0]}, and name its folder; or install what runs checkpoints: "
                + " or ".join(f'{e.title}, pip install "blip-duo[{e.extra}]"' for e in ENGINES.values() if e.trainer)
            )
        if export.head not in (cls.__name__, HEADS[cls.__name__].cut_from):
            raise ValueError(f"{folder} holds a {export.head}, not a {cls.__name__}; export a model of that head.")
        return cls(export, device or "cpu")

    def run(self, part: str, **inputs: Any) -> dict[str, Array]:
        """Run a part on named arrays, whatever their types of numbers; return its outputs by name."""
        if part not in self._graphs:
            try:
                self._graphs[part] = type(self).open_graph(self.export.file(part), self.device)
            except ValueError as error:
                if not self.export.weights.startswith("int8"):
                    raise
                known = f"which not every processor and version of {self.engine.title} knows"
                raise ValueError(
                    f"{str(error).removesuffix('.')}, or without --weights {self.export.weights}, {known}."
                ) from None
        kinds = {name: np.int32 if name in INTEGERS else np.float32 for name in inputs}
        found = self._graphs[part]({name: np.asarray(array, kinds[name], "C") for name, array in inputs.items()})
        outputs = outputs_of(PARTS[part], self.export.head)
        return {name: found[f"new_{name}" if f"new_{name}" in found else name] for name in outputs}

    def vision_model(self, pixel_values: Array) -> BlipVisionOutput:
        """Pictures -> their embeddings."""
        kind, free = pixel_values.dtype.name, self.export.free_size
        checks.check_pixel_values(pixel_values.shape, kind, self.config.vision_config, free)
        found = self.run("image_features", pixel_values=pixel_values)
        return BlipVisionOutput(last_hidden_state=found["image_embeds"], pooler_output=found["pooler_output"])

    def encode(self, pixel_values: Array | None = None, image_embeds: Array | None = None) -> Array:
        """The embeddings (B, T, W) of pictures, or those that are given."""
        source = checks.image_source(pixel_values, image_embeds)
        return source if pixel_values is None else self.vision_model(pixel_values).last_hidden_state

    def read(
        self, part: str, input_ids: Any = None, attention_mask: Any = None, pairs: bool = False, **pictures: Any
    ) -> dict[str, Array]:
        """Run a part on texts, and pictures if there are any: with `pairs` as many as texts, or one for all."""
        ids, config = np.asarray(checks.given_texts(input_ids)), self.config.text_config
        mask = np.ones(ids.shape) if attention_mask is None else np.asarray(attention_mask)
        checks.check_texts(ids.shape, ids.dtype.name, config)
        checks.check_ids(int(ids.min()), int(ids.max()), config)
        checks.check_mask(mask.shape, ids.shape)
        if pairs:
            checks.check_pairs(len(checks.image_source(*map(pictures.get, ("pixel_values", "image_embeds")))), len(ids))
        given = {"image_embeds": self.encode(**pictures)} if pictures else {}
        return self.run(part, **given, input_ids=ids, attention_mask=mask)

    def search(self, states: Array, states_mask: Any, ids: Any, mask: Any, **options: Any) -> Any:
        """Generate from encoder states (B, S, W); `ids` and their `mask` are prompts."""
        config = options.pop("generation_config", None) or self.generation_config
        how = options.pop("seed", None), options.pop("stream", None)
        prompts = prepare_prompts(ids, mask, len(states), self.config.text_config, config, options, *how)
        if prompts.config.output_attentions or prompts.config.output_hidden_states:
            raise ValueError(
                f"{self.engine.title} gives neither attentions nor hidden states; leave out output_attentions and "
                "output_hidden_states, or use another engine."
            )
        session = GraphSession(self.run, states, states_mask, len(prompts.input_ids), prompts.capacity)
        return prompts.generate(session, NUMPY, lambda ids, mask: None)

    def reader(self, states: Array, states_mask: Any) -> TrieReader:
        """What scores texts given encoder states."""
        return TrieReader(self.run, self.config.text_config, states, states_mask)


class BlipForConditionalGeneration(GraphModel):
    """Captioning."""

    def generate(
        self,
        pixel_values: Any = None,
        input_ids: Any = None,
        attention_mask: Any = None,
        image_embeds: Any = None,
        **options: Any,
    ) -> Any:
        """Write captions, see `blip_pt`."""
        return self.search(self.encode(pixel_values, image_embeds), None, input_ids, attention_mask, **options)

    def score_texts(
        self, pixel_values: Any = None, input_ids: Any = None, attention_mask: Any = None, image_embeds: Any = None
    ) -> Any:
        """Say how likely each of many texts is as the caption of each picture, see `blip_pt`."""
        texts = checks.texts_of(checks.given_texts(input_ids), attention_mask, self.config.text_config)
        embeds = self.encode(pixel_values, image_embeds)
        return text_scoring.score_texts(len(embeds), texts, self.config.text_config, self.reader(embeds, None))


class BlipForQuestionAnswering(GraphModel):
    """Visual question answering. `given` are pictures, `input_ids` and `attention_mask` of questions."""

    def generate(self, attention_mask: Any = None, **given: Any) -> Any:
        """Answer questions, see `blip_pt`."""
        options = {name: given.pop(name) for name in given.keys() - {"pixel_values", "image_embeds", "input_ids"}}
        states = self.read("question_states", attention_mask=attention_mask, pairs=True, **given)["encoder_states"]
        return self.search(states, attention_mask, None, None, **options)

    def score_texts(self, answer_ids: Any = None, answer_attention_mask: Any = None, **given: Any) -> Any:
        """Say how likely each of many answers is to each question, see `blip_pt`."""
        answers, config = self.answers(answer_ids, answer_attention_mask), self.config.text_config
        states = self.read("question_states", pairs=True, **given)["encoder_states"]
        reader = self.reader(states, given.get("attention_mask"))
        return text_scoring.score_texts(len(states), answers, config, reader)

    def rank_answers(
        self, answer_ids: Any = None, answer_attention_mask: Any = None, k: int = 128, **given: Any
    ) -> Any:
        """Choose from a list of answers, the same for all questions, see `blip_pt`."""
        answers, config = self.answers(answer_ids, answer_attention_mask), self.config.text_config
        checks.check_answers(answers, k, config)
        states = self.read("question_states", pairs=True, **given)["encoder_states"]
        reader = self.reader(states, given.get("attention_mask"))
        return text_scoring.rank_answers(reader.first(answers), answers, k, config, reader)

    def answers(self, ids: Any, mask: Any) -> checks.Texts:
        """The tokens of each answer to choose from."""
        return checks.texts_of(
            checks.given_texts(ids, "answers as answer_ids, the question"), mask, self.config.text_config
        )


class BlipForImageTextRetrieval(GraphModel):
    """Matching pictures with texts."""

    def __call__(self, use_itm_head: bool = True, **given: Any) -> BlipForImageTextRetrievalOutput:
        """Score pairs, or with `use_itm_head=False` all pictures with all texts; see `blip_pt`."""
        found = self.read("itm_scores" if use_itm_head else "itc_scores", pairs=use_itm_head, **given)
        return BlipForImageTextRetrievalOutput(itm_score=next(iter(found.values())))

    def vision_proj(self, class_tokens: Array) -> Array:
        """Class tokens (B, W) -> features (B, F), not normalised."""
        return self.run("image_projection", image_embeds=class_tokens[:, None])["projected"]

    def get_image_features(self, pixel_values: Any = None, image_embeds: Any = None) -> Array:
        """L2-normalised features (B, F) of pictures."""
        return normalized(self.vision_proj(self.encode(pixel_values, image_embeds)[:, 0]))

    def get_text_features(self, input_ids: Any, attention_mask: Any = None) -> Array:
        """L2-normalised features (B, F) of texts."""
        return self.read("text_features", input_ids, attention_mask)["text_features"]

    def get_label_features(self, input_ids: Any, attention_mask: Any = None, templates: int = 1) -> Array:
        """L2-normalised features (labels, F), each the mean over its templates."""
        checks.check_templates(len(input_ids), templates)
        features = self.get_text_features(input_ids, attention_mask)
        return normalized(features.reshape(-1, templates, features.shape[1]).mean(axis=1))

    def classify(self, label_features: Any = None, temperature: float | None = None, **pictures: Any) -> Array:
        """The probabilities (B, labels) of labels."""
        features = np.asarray(checks.given_labels(label_features))
        checks.check_label_features(features.shape, self.config.image_text_hidden_size, temperature)
        similarities = self.get_image_features(**pictures) @ features.T
        return softmax(similarities / (TEMPERATURE if temperature is None else temperature))


class BlipForNLVR(GraphModel):
    """NLVR2: is a sentence true of two pictures?"""

    def encode(self, pixel_values: Array | None = None, image_embeds: Array | None = None) -> Array:
        """The embeddings (B, 2, T, W) of pairs of pictures (B, 2, 3, height, width)."""
        pairs = checks.image_source(pixel_values, image_embeds)
        checks.check_picture_pairs(pairs.shape, len(pairs))
        states = super().encode(
            *(x if x is None else x.reshape(-1, *x.shape[2:]) for x in (pixel_values, image_embeds))
        )
        return states.reshape(len(pairs), 2, *states.shape[1:])

    def __call__(self, **given: Any) -> BlipForNLVROutput:
        """Judge sentences (B, L) about pairs of pictures, see `blip_pt`."""
        return BlipForNLVROutput(logits=self.read("nlvr_scores", pairs=True, **given)["logits"])


class BlipForClassification(GraphModel):
    """Texts with pictures in classes."""

    def __call__(self, **given: Any) -> BlipForClassificationOutput:
        """Sort texts (B, L) with pictures into classes, see `blip_pt`."""
        return BlipForClassificationOutput(logits=self.read("class_scores", pairs=True, **given)["logits"])


def normalized(features: Array) -> Array:
    """Features of length 1."""
    result: Array = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    return result


def models_of(module: str, engine: Engine, open_graph: Callable[..., Graph]) -> dict[str, type]:
    """The model classes of an engine by name, as if `module` had written them down; most have their parts alone."""
    heads = (
        BlipForConditionalGeneration, BlipForQuestionAnswering, BlipForImageTextRetrieval, BlipForNLVR,
        BlipForClassification,
    )  # fmt: skip
    kinds = {**dict.fromkeys(HEADS, GraphModel), **{head.__name__: head for head in heads}}
    own = {"__module__": module, "engine": engine, "open_graph": staticmethod(open_graph)}
    return {name: type(name, (kind,), dict(own)) for name, kind in kinds.items()}
