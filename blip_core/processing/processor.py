"""The image processor and the tokenizer in one: turns pictures and texts into a model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from blip_core.hub import or_shipped, resolve_folder
from blip_core.processing.image_processor import BlipImageProcessor
from blip_core.processing.inputs import BlipInputs
from blip_core.processing.texts import check_texts
from blip_core.processing.tokenizer import VOCABULARY_FILES, BlipTokenizer


class BlipProcessor:
    """Prepare pictures and texts for any BLIP model, and turn its tokens back into text.

    Args:
        image_processor: Prepares pictures; None for BLIP's with default settings.
        tokenizer: Tokenizes texts; None for BLIP's.

    Example:
        >>> processor = BlipProcessor()
        >>> inputs = processor(text=["a cat", "two cups"], return_tensors="np")
        >>> inputs.input_ids.shape
        (2, 4)
    """

    def __init__(self, image_processor: BlipImageProcessor | None = None, tokenizer: BlipTokenizer | None = None):
        for name, value, expected in (
            ("image_processor", image_processor, BlipImageProcessor),
            ("tokenizer", tokenizer, BlipTokenizer),
        ):
            if value is not None and not isinstance(value, expected):
                raise ValueError(f"{name} must be a {expected.__name__}, got {type(value).__name__}.")
        self.image_processor = BlipImageProcessor() if image_processor is None else image_processor
        self.tokenizer = BlipTokenizer() if tokenizer is None else tokenizer

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        prompt: str | None = None,
        return_labels: bool = False,
        add_special_tokens: bool = True,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        **image_options: Any,
    ) -> BlipInputs:
        """Prepare pictures, texts or both.

        Args:
            images: One picture or many, see `BlipImageProcessor.preprocess`.
            text: One text or many. One text goes with all of several pictures.
            prompt: Precedes each text; with pictures and no text it is the text of each.
            return_labels: Make the inputs of a captioner's training step, as the original does: each row of
                `input_ids` begins with `[DEC]`, and `labels` are the `input_ids` with -100, which the loss ignores, at
                the prompt and at padding.
            add_special_tokens: Put texts between `[CLS]` and `[SEP]`.
            padding, truncation, max_length, pad_to_multiple_of, padding_side: As in `BlipTokenizer`; with
                `return_tensors`, `padding` defaults to the longest text.
            return_tensors: "np", "pt" or "tf"; None for lists.
            **image_options: Further options of `BlipImageProcessor.preprocess`.

        Returns:
            `pixel_values`, `input_ids`, `attention_mask` and `labels`, whichever were asked for.

        Raises:
            OSError: The file of a picture cannot be read.
            ValueError: There is neither picture nor text, or an option cannot work.
        """
        if images is None and text is None and prompt is None:
            raise ValueError("Neither images nor text is given; pass at least one of them.")
        if prompt is not None and not isinstance(prompt, str):
            raise ValueError(f"prompt must be one text, for all, got {prompt!r:.80}; texts that differ go into text.")
        inputs = BlipInputs()
        if images is not None:
            inputs.update(self.image_processor.preprocess(images, return_tensors=return_tensors, **image_options))
        elif image_options:
            names = ", ".join(sorted(image_options))
            raise TypeError(f"{names}: no option for text; pass images with it, or leave it out.")
        if text is None and return_labels:
            raise ValueError("return_labels=True needs text: the captions to learn.")
        if text is None and prompt is not None:
            text, prompt = (prompt if images is None else [prompt] * len(inputs["pixel_values"])), None
        if text is None:
            return inputs
        pictures = len(inputs["pixel_values"]) if images is not None else 1
        if isinstance(text, str) and pictures > 1:
            text = [text] * pictures
        single = isinstance(text, str)
        texts = check_texts("text", [text] if single else text)
        if prompt is not None:
            texts = [f"{prompt} {text}" for text in texts]  # BERT merges runs of spaces
        if truncation is None:  # the tokenizer's default; padding comes after the labels
            truncation = max_length is not None and padding in (None, False)
        if padding is None:
            padding = return_tensors is not None
        rows = self.tokenizer(
            texts, add_special_tokens=add_special_tokens, truncation=truncation, max_length=max_length
        )
        if return_labels:
            limit = None if truncation in (False, "do_not_truncate") else max_length or self.tokenizer.model_max_length
            self._add_labels(rows, prompt or "", add_special_tokens, limit)
        rows = self.tokenizer.pad(rows, padding, max_length, pad_to_multiple_of, padding_side, return_tensors)
        inputs.update({name: row[0] for name, row in rows.items()} if single and return_tensors is None else rows)
        return inputs

    def _add_labels(self, rows: BlipInputs, prompt: str, add_special_tokens: bool, limit: int | None) -> None:
        if not add_special_tokens:
            raise ValueError("return_labels=True puts [DEC] in the place of [CLS]; leave add_special_tokens=True.")
        start = self.tokenizer(prompt)["input_ids"][:-1]  # [CLS] and the prompt, without [SEP]
        if limit is not None and limit < len(start) + 2:
            raise ValueError(
                f"max_length must leave room for a caption after the {len(start) - 1} tokens of the prompt, "
                f"[DEC] and [SEP], got {limit}; use at least {len(start) + 2}."
            )
        if any(row[: len(start)] != start for row in rows["input_ids"]):
            raise ValueError(
                "The prompt was cut, which truncation_side='left' does where texts are longer than max_length; "
                "use truncation_side='right' or a greater max_length."
            )
        rows["input_ids"] = [[self.tokenizer.bos_token_id, *row[1:]] for row in rows["input_ids"]]
        rows["labels"] = [[-100] * len(start) + row[len(start) :] for row in rows["input_ids"]]

    def decode(self, token_ids: Any, **options: Any) -> str:
        """Return the text of one row of token ids; arguments and errors as in `BlipTokenizer.decode`."""
        return self.tokenizer.decode(token_ids, **options)

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Return the text of each row of token ids; arguments and errors as in `BlipTokenizer.batch_decode`."""
        return self.tokenizer.batch_decode(sequences, **options)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path | None = None, *, revision: str | None = None) -> Self:
        """Read the processor files of a model; missing files stand for BLIP's defaults.

        Args:
            name_or_path: A folder, a file in it, or a Hub repository; None for the small model in the package.
            revision: A branch, tag or commit of the repository.

        Returns:
            The processor.

        Raises:
            OSError: There is no such folder or repository.
            ValueError: A file is damaged, or holds settings that cannot work.
        """
        name_or_path = or_shipped(name_or_path)
        files = {*BlipImageProcessor.file_names, *VOCABULARY_FILES, *BlipTokenizer.file_names}
        folder = resolve_folder(name_or_path, revision=revision, patterns=sorted(files))
        return cls(BlipImageProcessor.from_pretrained(folder), BlipTokenizer.from_pretrained(folder))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files of both in the Hugging Face layout, each atomically.

        Args:
            folder: Created if needed.

        Raises:
            OSError: A file cannot be written.
        """
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
