"""Where a run begins: an existing model or a new one with random weights, and its processor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.foundations import Foundation, check_tokens, fitted, open_text, open_vision
from blip_core.checkpoints.loading import config_path, read_config, read_generation_config, with_image_size
from blip_core.config import BlipConfig
from blip_core.hub import or_shipped
from blip_core.parameters.heads import HEADS, AnyConfig
from blip_core.parameters.initial_values import initial_values
from blip_core.parameters.models import Parameter, parameters
from blip_core.processing.image_processor import BlipImageProcessor
from blip_core.processing.processor import BlipProcessor
from blip_core.processing.tokenizer import BlipTokenizer
from blip_core.tasks import Task, get_task
from blip_core.training.freezing import check_freeze
from blip_core.training.settings import Settings

SIZES = ("base", "large")


@dataclass(frozen=True)
class Start:
    """A model to begin with: `config` of a new one with random weights, or None for `revision` of what `name` says.

    `found` is the configuration of either, `prompt` what the model says that its captions begin with, if it does.
    `adapter` is a folder with the factors of LoRA to begin with. `foundations` are an ImageNet ViT and a BERT whose
    tensors a new model begins with. `old` is where a run that goes on began.
    """

    task: Task
    name: str
    config: BlipConfig | None
    processor: BlipProcessor
    found: BlipConfig
    revision: str | None = None
    prompt: str | None = None
    adapter: Path | None = None
    foundations: Sequence[Foundation] = ()
    old: Start | None = None

    @property
    def head(self) -> str:
        """The name of the model class, without `TF`."""
        return self.task.head

    def sized(self, settings: Settings) -> BlipConfig:
        """Return the configuration with the size of the pictures that the settings ask for."""
        size = settings.image_size
        return self.found if size is None else with_image_size(self.found, size)  # type: ignore[return-value]

    def classes(self, settings: Settings) -> int:
        """Return how many classes the model tells apart."""
        return settings.num_labels or self.found.num_labels

    def load(self, model_class: Any, settings: Settings, **options: Any) -> Any:
        """Load the model by `from_pretrained`, with what the settings override in its configuration."""
        config = settings.model_settings() or None
        options |= {"image_size": settings.image_size, "revision": self.revision}
        return model_class.from_pretrained(self.name, config=config, **options)

    def values(self, rows: Sequence[Parameter], config: AnyConfig, seed: int) -> Iterator[tuple[Parameter, np.ndarray]]:
        """Yield what new parameters begin with: the tensors of foundations, else initial values from a seed."""
        for parameter, value in initial_values(rows, config, seed):
            for found in self.foundations:
                value = found.value(parameter, value)
            yield parameter, value


def find_start(
    task: str,
    model: str | Path | None,
    tokenizer: str | Path | None,
    settings: Settings,
    revision: str | None = None,
    vision: str | Path | None = None,
    text: str | Path | None = None,
) -> Start:
    """Find out what `model` means: a folder, a weight file or a Hub repository; or, for a new model of random weights,
    a configuration (a JSON file) or one of the paper's sizes, "base" and "large".

    `vision` and `text` are an ImageNet ViT and a BERT that a new model begins with; without `model` it has their sizes.
    Processor files are looked for in `tokenizer`, else beside the model or the BERT; those that are missing are BLIP's
    own. `revision` is a branch, tag or commit of the model's Hub repository.
    Raises `ValueError` for a vocabulary that does not fit the model, `OSError` where nothing is found.
    """
    founded = vision is not None or text is not None
    named = model is not None
    if model is None:
        model = SIZES[0] if founded else or_shipped(None, HEADS[get_task(task).head].shipped)
    path = Path(model).expanduser()
    config = None
    if str(model) in SIZES and (not path.exists() or not named):
        config = getattr(BlipConfig, str(model))(image_size=settings.image_size or 224)
        where = tokenizer
    elif path.suffix == ".json" and not path.name.endswith(".index.json"):
        config = BlipConfig.from_pretrained(path)
        where = tokenizer or path.parent
    else:
        where = tokenizer or model
    if founded and config is None:
        raise ValueError(
            f"A ViT and a BERT begin a new model, and {model} is one that exists; leave it out, or name a "
            "configuration (config.json, base or large)."
        )
    prompt_ids = None
    if config is None:
        checkpoint = open_checkpoint(model, revision=revision)
        read = read_config(get_task(task).head, checkpoint, None)
        assert isinstance(read, BlipConfig)
        found = read
        folders = [config_path(checkpoint).parent, *checkpoint.folders]
        prompt_ids = read_generation_config(folders, found).prompt_ids
    processor = BlipProcessor()
    foundations: list[Foundation] = []
    if text is not None and tokenizer is None:
        where = text
        processor = BlipProcessor(tokenizer=BlipTokenizer.from_pretrained(text))
    elif where:
        processor = BlipProcessor.from_pretrained(where, revision=None if tokenizer else revision)
    if config is not None:
        foundations = [*([] if vision is None else [open_vision(vision)]), *([] if text is None else [open_text(text)])]
        config = fitted(config, foundations, chosen=named)
        if text is not None:
            _take_tokens(config, processor, foundations[-1], str(where), chosen=named)
        found = config = _override(config, settings)
        for foundation in foundations:
            foundation.check(parameters(get_task(task).head, config))
    size = settings.image_size or found.vision_config.image_size
    old = processor.image_processor
    ground = settings.background or old.background  # in use the model sees pictures on the ground that it learned
    processor.image_processor = BlipImageProcessor.from_dict(
        old.to_dict(), size=size, do_resize=True, background=ground
    )
    _check_vocabulary(processor, found, str(where or "the package's own"))
    check_freeze(settings.freeze, found.vision_config.num_hidden_layers)
    if settings.replay and not (get_task(task).takes_prompt and config is None):
        raise ValueError(
            f"replay keeps what a captioner says; there is none to keep in {task} from here: leave it out."
        )
    if settings.generation and "generation" not in get_task(task).evaluation_options:
        raise ValueError(f"generation is how captions and answers are written; {task} writes none: leave it out.")
    if settings.lora:
        _check_lora(get_task(task), config is None, settings.image_size, found)
    prompt = None if prompt_ids is None else processor.tokenizer.decode(prompt_ids)
    return Start(get_task(task), str(model), config, processor, found, revision, prompt, foundations=tuple(foundations))


def _take_tokens(config: BlipConfig, processor: BlipProcessor, bert: Foundation, where: str, chosen: bool) -> None:
    """Give a configuration the tokens of a BERT's vocabulary, unless it was chosen."""
    tokenizer, text = processor.tokenizer, config.text_config
    check_tokens(bert, len(tokenizer) - len({tokenizer.bos_token_id, tokenizer.enc_token_id}), where)
    if not chosen:
        text.vocab_size = max(len(tokenizer), text.vocab_size)
        text.bos_token_id, config.enc_token_id = tokenizer.bos_token_id, tokenizer.enc_token_id
        text.sep_token_id, text.pad_token_id = tokenizer.sep_token_id, tokenizer.pad_token_id


def _check_lora(task: Task, exists: bool, image_size: int | None, config: BlipConfig) -> None:
    """Raise `ValueError` where an adapter cannot be trained, or could not be loaded by its base alone."""
    if task.contrastive or task.distils:
        raise ValueError(
            f"lora does not go with {task.name}, whose momentum encoders follow whole weights; leave it out, or freeze."
        )
    if not exists:
        raise ValueError("lora changes a model that exists; name one with --model, or train the new one without lora.")
    if image_size not in (None, config.vision_config.image_size):
        raise ValueError(
            f"lora keeps the pictures' size of its base, {config.vision_config.image_size}; leave image_size out, or "
            "train without lora."
        )


def _override(config: BlipConfig, settings: Settings) -> BlipConfig:
    values = config.to_dict()
    for name, value in settings.model_settings().items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    config = BlipConfig.from_dict(values)
    return with_image_size(config, settings.image_size) if settings.image_size else config  # type: ignore[return-value]


def _check_vocabulary(processor: BlipProcessor, config: BlipConfig, where: str) -> None:
    """Raise `ValueError` for a tokenizer whose special tokens have other ids than the model expects."""
    tokenizer, text = processor.tokenizer, config.text_config
    if len(tokenizer) > text.vocab_size:
        raise ValueError(
            f"The vocabulary of {where} has {len(tokenizer)} tokens, the model has room for {text.vocab_size}; "
            "name the model's own tokenizer folder, or set vocab_size in a new model's configuration."
        )
    ids = {
        "bos_token_id": (text.bos_token_id, tokenizer.bos_token_id, "[DEC]"),
        "sep_token_id": (text.sep_token_id, tokenizer.sep_token_id, tokenizer.sep_token),
        "pad_token_id": (text.pad_token_id, tokenizer.pad_token_id, tokenizer.pad_token),
        "enc_token_id": (config.enc_token_id, tokenizer.enc_token_id, "[ENC]"),
    }
    for name, (expected, found, token) in ids.items():
        if expected is not None and expected != found:
            raise ValueError(
                f"The model's {name} is {expected}, but {token} is token {found} of the vocabulary of {where}; "
                "name the model's own tokenizer folder, or correct a new model's configuration."
            )
