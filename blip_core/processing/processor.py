"""The image processor and the tokenizer in one: turns pictures and texts into a model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Self

from blip_core.config_mixin import AsJson
from blip_core.hub import or_shipped, resolve_settings
from blip_core.hub.keywords import ALL, HUB, SETTINGS, check_rest, read_keywords
from blip_core.processing.image_processor import BlipImageProcessor
from blip_core.processing.inputs import BlipInputs
from blip_core.processing.padding import SIDES, pad_inputs
from blip_core.processing.text_encoder import TextEncoder, is_list_of_words
from blip_core.processing.texts import Text, check_texts
from blip_core.processing.tokenizer import LONGEST, VOCABULARY_FILES, BlipTokenizer
from blip_core.processing.vocabulary import NORMALIZER
from blip_core.validators import choice

KINDS = {"image_processor": "BlipImageProcessor", "tokenizer": "BlipTokenizer"}
TEXT_OPTIONS = frozenset(signature(TextEncoder.__call__).parameters) - {"self", "text", "text_pair", "return_tensors"}
"""The options of a call that are for texts; all others are for pictures."""


class BlipProcessor(AsJson):
    """Prepare pictures and texts for any BLIP model, and turn its tokens back into text.

    Args:
        image_processor: Prepares pictures; None for BLIP's with default settings. One of transformers works, too.
        tokenizer: Tokenizes texts; None for BLIP's. A `BertTokenizerFast` of transformers works, too, though it knows
            no `[DEC]`, which `return_labels` needs.

    Example:
        >>> processor = BlipProcessor()
        >>> inputs = processor(text=["a cat", "two cups"], return_tensors="np")
        >>> inputs.input_ids.shape
        (2, 4)
    """

    attributes = ("image_processor", "tokenizer")
    image_processor_class = "BlipImageProcessor"
    tokenizer_class = ("BertTokenizer", "BertTokenizerFast")
    chat_template = None

    def __init__(self, image_processor: Any = None, tokenizer: Any = None):
        for name, value, method in (
            ("image_processor", image_processor, "preprocess"),
            ("tokenizer", tokenizer, "pad"),
        ):
            if value is not None and not hasattr(value, method):
                raise ValueError(f"{name} must be a {KINDS[name]}, got {type(value).__name__}.")
        self.image_processor = BlipImageProcessor() if image_processor is None else image_processor
        self.tokenizer = BlipTokenizer() if tokenizer is None else tokenizer

    @property
    def model_input_names(self) -> list[str]:
        """The names of what a call with pictures and texts returns."""
        names = (*self.tokenizer.model_input_names, *self.image_processor.model_input_names)
        return [name for name in names if name != "token_type_ids"]

    def __call__(
        self,
        images: Any = None,
        text: Text | Sequence[Text] | None = None,
        *,
        prompt: str | None = None,
        return_labels: bool = False,
        return_tensors: str | None = None,
        text_kwargs: Mapping[str, Any] | None = None,
        images_kwargs: Mapping[str, Any] | None = None,
        common_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> BlipInputs:
        """Prepare pictures, texts or both.

        Args:
            images: One picture or many, see `BlipImageProcessor.preprocess`.
            text: One text or many. One text goes with all of several pictures.
            prompt: Precedes each text; with pictures and no text it is the text of each.
            return_labels: Make the inputs of a captioner's training step, as the original does: each row of
                `input_ids` begins with `[DEC]`, and `labels` are the `input_ids` with -100, which the loss ignores, at
                the prompt and at padding.
            return_tensors: "np", "pt" or "tf"; None for lists.
            text_kwargs: Options for texts alone.
            images_kwargs: Options for pictures alone.
            common_kwargs: Options for both, such as `return_tensors`.
            **options: Those of a call of `BlipTokenizer` (`max_length`, `truncation`, ...), where with `return_tensors`
                `padding` defaults to the longest text, and those of `BlipImageProcessor.preprocess`.

        Returns:
            `pixel_values`, `input_ids`, `attention_mask` and `labels`, whichever were asked for.

        Raises:
            OSError: The file of a picture cannot be read.
            ValueError: There is neither picture nor text, an option is given twice, or cannot work.
        """
        if images is None and text is None and prompt is None:
            raise ValueError("Neither images nor text is given; pass at least one of them.")
        if prompt is not None and not isinstance(prompt, str):
            raise ValueError(f"prompt must be one text, for all, got {prompt!r:.80}; texts that differ go into text.")
        options = _joined(options, {} if return_tensors is None else {"return_tensors": return_tensors}, common_kwargs)
        kind = options.pop("return_tensors", None)
        text_options = _joined({k: v for k, v in options.items() if k in TEXT_OPTIONS}, text_kwargs)
        image_options = _joined({k: v for k, v in options.items() if k not in TEXT_OPTIONS}, images_kwargs)
        inputs = BlipInputs()
        if images is not None:
            inputs.update(self.image_processor.preprocess(images, **{"return_tensors": kind, **image_options}))
        elif image_options.keys() - (images_kwargs or {}):
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
        inputs.update(self._rows(text, prompt, return_labels, **{"return_tensors": kind, **text_options}))
        return inputs

    def _rows(
        self,
        text: Any,
        prompt: str | None,
        return_labels: bool,
        *,
        return_tensors: str | None,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = True,
        return_length: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Tokenize texts: first whole, then with their prompt as labels, then padded."""
        words = options.get("is_split_into_words", False)
        single = isinstance(text, str) or (words and is_list_of_words(text))
        texts = check_texts("text", [text] if single else text, words)
        if prompt is not None:  # BERT merges runs of spaces
            texts = [[*prompt.split(), *text] if words else f"{prompt} {text}" for text in texts]
        if truncation is None:  # the tokenizer's default; padding comes after the labels
            truncation = max_length is not None and padding in (None, False)
        if padding is None:
            padding = return_tensors is not None
        longest = min(self.tokenizer.model_max_length, LONGEST)  # transformers writes 1e30 for no limit
        options.setdefault("return_token_type_ids", False)
        rows = self.tokenizer(texts, truncation=truncation, max_length=max_length, **options)
        if return_labels:
            limit = None if truncation in (False, "do_not_truncate") else max_length or longest
            self._add_labels(rows, prompt or "", options.get("add_special_tokens", True), limit)
        side, fill = padding_side or self.tokenizer.padding_side, self.tokenizer.pad_token_id
        mask = return_attention_mask is not False
        if not mask:
            del rows["attention_mask"]
        choice("padding_side", side, SIDES)
        length = longest if padding == "max_length" and max_length is None else max_length
        padded = pad_inputs(rows, fill, padding, length, pad_to_multiple_of, side, mask, return_tensors)
        if return_length:
            padded["length"] = [len(row) for row in padded["input_ids"]]
        if not single or return_tensors is not None or options.get("return_overflowing_tokens"):
            return padded
        return {name: row[0] if isinstance(row[0], list) else row for name, row in padded.items()}

    def _add_labels(self, rows: Any, prompt: str, add_special_tokens: bool, limit: int | None) -> None:
        if not add_special_tokens:
            raise ValueError("return_labels=True puts [DEC] in the place of [CLS]; leave add_special_tokens=True.")
        if self.tokenizer.bos_token_id is None:
            raise ValueError("return_labels=True needs a tokenizer that knows [DEC]; use BlipTokenizer.")
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
    def from_pretrained(
        cls, name_or_path: str | Path | None = None, *, revision: str | None = None, **keywords: Any
    ) -> Self:
        """Read the processor files of a model; missing files stand for BLIP's defaults.

        Args:
            name_or_path: A folder, a file in it, or a Hub repository; None for the small model in the package.
            revision: A branch, tag or commit of the repository.
            **keywords: Settings of the image processor or the tokenizer to replace, and further keywords of
                `blip_core.hub.keywords.KEYWORDS`.

        Returns:
            The processor.

        Raises:
            OSError: There is no such folder or repository.
            TypeError: A keyword is unknown; the message names the nearest.
            ValueError: A file is damaged, or holds settings that cannot work.
        """
        given = read_keywords({"name_or_path": name_or_path, "revision": revision, **keywords}, ALL, SETTINGS)
        parts = {name: given.rest.pop(name) for name in cls.attributes if given.rest.get(name) is not None}
        ours, texts = BlipImageProcessor.setting_names(), BlipTokenizer.setting_names()
        check_rest(given.rest, [*ours, *texts, *NORMALIZER], "setting of a processor or keyword", ALL, SETTINGS, HUB)
        files = {*BlipImageProcessor.file_names, *VOCABULARY_FILES, *BlipTokenizer.file_names}
        name_or_path = or_shipped(given.own["name_or_path"])
        folder = resolve_settings(name_or_path, patterns=sorted(files), **given.hub)
        pictures = {name: value for name, value in given.rest.items() if name in ours}
        texts_given = {name: value for name, value in given.rest.items() if name not in ours}
        return cls(
            parts.get("image_processor") or BlipImageProcessor.from_pretrained(folder, **pictures),
            parts.get("tokenizer") or BlipTokenizer.from_pretrained(folder, **texts_given),
        )

    def save_pretrained(self, folder: str | Path, **keywords: Any) -> list[str]:
        """Write the files of both in the Hugging Face layout, each atomically.

        `processor_config.json` repeats the image processor's for transformers 5.

        Args:
            folder: Created if needed.
            **keywords: `push_to_hub=True` uploads them, too, with further keywords as of `push_to_hub`.

        Returns:
            A list of the path of `processor_config.json`.

        Raises:
            OSError: A file cannot be written.
        """
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        path = Path(folder) / "processor_config.json"
        self.to_json_file(path)
        self.pushed(folder, keywords)
        return [str(path)]

    def to_dict(self) -> dict[str, Any]:
        """Return what `processor_config.json` holds: the settings of the image processor."""
        return {"image_processor": self.image_processor.to_dict(), "processor_class": "BlipProcessor"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.image_processor!r}, {self.tokenizer!r})"


def _joined(*options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Join dictionaries of options; `ValueError` for one that is given twice."""
    joined: dict[str, Any] = {}
    for some in options:
        if twice := joined.keys() & (some or {}).keys():
            raise ValueError(f"{', '.join(sorted(twice))}: given twice, by itself and in a dictionary; give it once.")
        joined |= some or {}
    return joined
