"""The files beside the weights in a checkpoint's folder: processor, tokenizer and generation settings."""

from __future__ import annotations

import shutil
from pathlib import Path

from blip_core.checkpoints.loading import read_generation_config
from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig
from blip_core.parameters.heads import HEADS, AnyConfig
from blip_core.processing.image_processor import BlipImageProcessor
from blip_core.processing.tokenizer import BlipTokenizer

TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
FILES = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", *TOKENIZER_FILES)
"""The files of a checkpoint's folder besides the weights."""


class ProcessorFiles:
    """The files that go with a model: those of its folder as they are, and others made from its configuration.

    `warnings` say what could not be made. Raises `ValueError` for a tokenizer of another vocabulary than the model's.
    """

    def __init__(self, folder: Path, head: str, config: AnyConfig, tokenizer: str | Path | None, *, resized: bool):
        self.folder = folder
        self.head = head
        self.config = config
        self.warnings: list[str] = []
        self.image_processor = self._image_processor(config, resized)
        self.tokenizer: BlipTokenizer | None = None
        self.tokenizer_files: list[Path] = []
        if isinstance(config, BlipVisionConfig):
            return
        size = (config.text_config if isinstance(config, BlipConfig) else config).vocab_size
        found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
        if tokenizer is not None:
            _check_vocabulary(Path(tokenizer).expanduser())
            self.tokenizer = BlipTokenizer.from_pretrained(tokenizer)
            if len(self.tokenizer) != size:
                raise ValueError(f"{tokenizer} has {len(self.tokenizer)} tokens, but the model has {size}.")
        elif any(path.name in TOKENIZER_FILES[:2] for path in found):
            self.tokenizer_files = found
        elif len(usual := BlipTokenizer()) == size:
            self.tokenizer = usual
        else:
            self.warnings.append(
                f"The model has a vocabulary of {size} tokens, and {folder} has no tokenizer.json or vocab.txt: "
                "no tokenizer was written; name its files with --tokenizer (tokenizer=)."
            )

    def _image_processor(self, config: AnyConfig, resized: bool) -> BlipImageProcessor | None:
        if isinstance(config, BlipTextConfig):
            return None
        size = (config.vision_config if isinstance(config, BlipConfig) else config).image_size
        path = self.folder / "preprocessor_config.json"
        processor = BlipImageProcessor.from_pretrained(path) if path.is_file() else BlipImageProcessor()
        if resized or not path.is_file():
            processor.size = {"height": size, "width": size}
        return processor

    def write(self, folder: Path) -> None:
        """Write the files into a folder."""
        if self.image_processor is not None:
            self.image_processor.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        for path in self.tokenizer_files:
            shutil.copyfile(path, folder / path.name)
        head = HEADS[self.head]
        if head.generates or (self.folder / "generation_config.json").is_file():
            generation = read_generation_config([self.folder], self.config)
            if head.generates and not head.prompted:  # captions begin with a prompt, answers do not
                generation = generation.updated(prompt_ids=None)
            generation.save_pretrained(folder)


def _check_vocabulary(path: Path) -> None:
    """Refuse a path without a vocabulary, as the tokenizer would use its own in its place."""
    is_file = path.is_file() and path.suffix in (".json", ".txt")
    if path.exists() and not is_file and not any((path / name).is_file() for name in TOKENIZER_FILES[:2]):
        raise ValueError(f"{path} is no tokenizer.json or vocab.txt, and holds none; name one, or its folder.")
