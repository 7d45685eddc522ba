"""Where a run begins: an existing model or a new one with random weights, and its processor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.loading import config_path, read_config, with_image_size
from blip_core.checkpoints.processor_files import read_generation_config
from blip_core.config import BlipConfig
from blip_core.processing.image_processor import BlipImageProcessor
from blip_core.processing.processor import BlipProcessor
from blip_core.tasks import Task, get_task
from blip_core.training.freezing import check_freeze
from blip_core.training.settings import Settings

SIZES = ("base", "large")


@dataclass(frozen=True)
class Start:
    """A model to begin with: `config` of a new one with random weights, or None for `revision` of what `name` says.

    `found` is the configuration of either, `prompt` what the model says that its captions begin with, if it does.
    `adapter` is a folder with the factors of LoRA to begin with.
    """

    task: Task
    name: str
    config: BlipConfig | None
    processor: BlipProcessor
    found: BlipConfig
    revision: str | None = None
    prompt: str | None = None
    adapter: Path | None = None

    @property
    def head(self) -> str:
        """The name of the model class, without `TF`."""
        return self.task.head

    def sized(self, settings: Settings) -> BlipConfig:
        """Return the configuration with the size of the pictures that the settings ask for."""
        size = settings.image_size
        return self.found if size is None else with_image_size(self.found, size)  # type: ignore[return-value]

    def load(self, model_class: Any, settings: Settings, **options: Any) -> Any:
        """Load the model by `from_pretrained`, with what the settings override in its configuration."""
        config = settings.model_settings() or None
        options |= {"image_size": settings.image_size, "revision": self.revision}
        return model_class.from_pretrained(self.name, config=config, **options)


def find_start(
    task: str, model: str | Path, tokenizer: str | Path | None, settings: Settings, revision: str | None = None
) -> Start:
    """Find out what `model` means: a folder, a weight file or a Hub repository; or, for a new model of random weights,
    a configuration (a JSON file) or one of the paper's sizes, "base" and "large".

    Processor files are looked for in `tokenizer`, else beside the model; those that are missing are BLIP's own.
    `revision` is a branch, tag or commit of the model's Hub repository.
    Raises `ValueError` for a vocabulary that does not fit the model, `OSError` where nothing is found.
    """
    path = Path(model).expanduser()
    config = None
    if str(model) in SIZES and not path.exists():
        config = getattr(BlipConfig, str(model))(image_size=settings.image_size or 224)
        where = tokenizer
    elif path.suffix == ".json" and not path.name.endswith(".index.json"):
        config = BlipConfig.from_pretrained(path)
        where = tokenizer or path.parent
    else:
        where = tokenizer or model
    prompt_ids = None
    if config is None:
        checkpoint = open_checkpoint(model, revision=revision)
        found = read_config(get_task(task).head, checkpoint, None)
        assert isinstance(found, BlipConfig)
        folders = [config_path(checkpoint).parent, *checkpoint.folders]
        prompt_ids = read_generation_config(folders, found).prompt_ids
    else:
        found = config = _override(config, settings)
    processor = BlipProcessor()
    if where:
        processor = BlipProcessor.from_pretrained(where, revision=None if tokenizer else revision)
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
    if settings.lora:
        _check_lora(get_task(task), config is None, settings.image_size, found)
    prompt = None if prompt_ids is None else processor.tokenizer.decode(prompt_ids)
    return Start(get_task(task), str(model), config, processor, found, revision, prompt)


def _check_lora(task: Task, exists: bool, image_size: int | None, config: BlipConfig) -> None:
    """Raise `ValueError` where an adapter cannot be trained, or could not be loaded by its base alone."""
    if task.contrastive:
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
