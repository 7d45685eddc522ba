"""Texts to rows of token ids: one or many, alone or in pairs, cut and padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Encoding

from blip_core.processing.inputs import BlipInputs, check_return_tensors
from blip_core.processing.padding import LENGTH, SIDES, kept_lengths, pad_inputs
from blip_core.processing.special_tokens import SpecialTokens
from blip_core.processing.texts import Text, check_texts
from blip_core.processing.vocabulary import panics_told
from blip_core.validators import choice, whole_number

TRUNCATIONS = (False, True, "longest_first", "only_first", "only_second", "do_not_truncate")


class TextEncoder(SpecialTokens):
    """The calls of a tokenizer; `padding_side` and the like are its settings."""

    model_max_length: int
    padding_side: str
    truncation_side: str
    is_fast = True
    """As transformers calls tokenizers on the `tokenizers` library."""
    pad_token_type_id = 0
    model_input_names = ("input_ids", "attention_mask")
    """What a call returns unless it is asked for more."""

    def __call__(
        self,
        text: Text | Sequence[Text],
        text_pair: Text | Sequence[Text] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool = False,
        return_attention_mask: bool | None = True,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
    ) -> BlipInputs:
        """Tokenize one text or many.

        Args:
            text: A text or a list of texts; with `is_split_into_words` a list of words or a list of such.
            text_pair: The second text of each pair: `[CLS] text [SEP] text_pair [SEP]`.
            add_special_tokens: Add `[CLS]` and `[SEP]`.
            padding: False, True or "longest", or "max_length".
            truncation: True or "longest_first", "only_first", "only_second" (of a pair), or False. Left out, a
                `max_length` without padding truncates; otherwise nothing is cut unless asked for.
            max_length: In tokens, the special ones included; None for `model_max_length`.
            stride: How many tokens of a row the next one repeats, with `return_overflowing_tokens`.
            is_split_into_words: Texts are lists of words.
            pad_to_multiple_of: Rounds the length up.
            padding_side: "right" or "left"; None for that of the tokenizer.
            return_tensors: "np", "pt" or "tf" for integer tensors (batch, length), which need one length; None for
                lists, flat ones for a single text.
            return_token_type_ids: Also return 0 for the first text of a pair and 1 for the second. BLIP takes none.
            return_attention_mask: Also return `attention_mask`; None is True.
            return_overflowing_tokens: Make further rows of what is cut, and say of which text each row is in
                `overflow_to_sample_mapping`.
            return_special_tokens_mask: Also return 1 for special tokens and padding, 0 for others.
            return_offsets_mapping: Also return where each token begins and ends in its text.
            return_length: Also return the length of each row.

        Returns:
            `input_ids` and `attention_mask` (1 = token, 0 = padding), and what else was asked for.

        Raises:
            ValueError: What should be a text is not, or an option cannot work.
        """
        check_return_tensors(return_tensors)
        if truncation is None:
            truncation = max_length is not None and padding is False
        single = isinstance(text, str) or (is_split_into_words and is_list_of_words(text))
        texts = check_texts("text", [text] if single else text, is_split_into_words)
        first = self._encode(texts, is_split_into_words)
        second: list[Encoding | None] = [None] * len(texts)
        if text_pair is not None:
            pairs = check_texts("text_pair", [text_pair] if single else text_pair, is_split_into_words)
            if len(pairs) != len(texts):
                raise ValueError(f"text holds {len(texts)} texts and text_pair {len(pairs)}; each needs one.")
            second = list(self._encode(pairs, is_split_into_words))
        room = self._room(truncation, max_length, text_pair is not None, add_special_tokens)
        whole_number("stride", stride, most=None if room is None else max(room - 1, 0))
        rows: list[Encoding] = []
        samples: list[int] = []
        for sample, (one, other) in enumerate(zip(first, second, strict=True)):
            if room is not None:
                parts = [one] if other is None else [one, other]
                for part, size in zip(parts, kept_lengths([len(p) for p in parts], room, truncation), strict=True):
                    part.truncate(size, stride=min(stride, max(size - 1, 0)), direction=self.truncation_side)
            with panics_told():
                row = self.backend.post_process(one, other, add_special_tokens)
            rows += [row, *row.overflowing] if return_overflowing_tokens else [row]
            samples += [sample] * (len(rows) - len(samples))
        columns = {
            "input_ids": ("ids", True),
            "token_type_ids": ("type_ids", return_token_type_ids),
            "attention_mask": ("attention_mask", return_attention_mask is not False),
            "special_tokens_mask": ("special_tokens_mask", return_special_tokens_mask),
            "offset_mapping": ("offsets", return_offsets_mapping),
        }
        inputs: dict[str, Any] = {
            name: [getattr(row, attribute) for row in rows] for name, (attribute, wanted) in columns.items() if wanted
        }
        if return_overflowing_tokens:
            inputs["overflow_to_sample_mapping"] = samples
        padded = self.pad(
            inputs, padding, max_length, pad_to_multiple_of, padding_side, return_attention_mask, return_tensors
        )
        if return_length:
            padded["length"] = [len(row) for row in padded["input_ids"]]
        if not single or return_tensors is not None or return_overflowing_tokens:
            return padded
        return BlipInputs({k: v[0] if isinstance(v[0], list) else v for k, v in padded.items()})

    def encode(self, text: Text, text_pair: Text | None = None, **options: Any) -> Any:
        """Tokenize one text.

        Args:
            text: The text.
            text_pair: A second text that follows it.
            **options: Further options of a call.

        Returns:
            Its token ids, a list; with `return_tensors` a tensor (1, length).

        Raises:
            ValueError: As in a call.
        """
        return self(text, text_pair, **options)["input_ids"]

    def encode_plus(self, text: Text, text_pair: Text | None = None, **options: Any) -> BlipInputs:
        """Tokenize one text, or a pair of them; arguments, result and errors as in a call."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Sequence[Any], **options: Any) -> BlipInputs:
        """Tokenize many texts, or many pairs, each a tuple of two; options, result and errors as in a call."""
        batch = list(batch_text_or_text_pairs)
        if batch and all(isinstance(item, tuple) and len(item) == 2 for item in batch):
            return self([item[0] for item in batch], [item[1] for item in batch], **options)
        return self(batch, **options)

    def tokenize(self, text: str, text_pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """Split one text into tokens.

        Args:
            text: The text.
            text_pair: A second text that follows it.
            add_special_tokens: Add `[CLS]` and `[SEP]`.

        Returns:
            The tokens as strings; those that continue a word begin with `##`.

        Raises:
            ValueError: As in a call.
        """
        return list(self.convert_ids_to_tokens(self.encode(text, text_pair, add_special_tokens=add_special_tokens)))

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BlipInputs:
        """Pad rows to one length, as collators do with the examples of a batch.

        `input_ids` are filled with `pad_token_id`, `attention_mask` with 0, `labels` with -100; what else lies beside
        them, such as `pixel_values`, is joined as it is.

        Args:
            encoded_inputs: Rows by name, or a list of examples, each a dictionary of one row by name. Rows are lists,
                arrays or tensors.
            padding, max_length, pad_to_multiple_of, padding_side: As in a call.
            return_attention_mask: False leaves out a mask that is not there.
            return_tensors: As in a call; None keeps lists, and makes tensors of rows that are tensors.

        Returns:
            The padded rows by the same names.

        Raises:
            ValueError: There are no `input_ids`, examples lack what others have, or an option cannot work.
        """
        side = padding_side or self.padding_side
        choice("padding_side", side, SIDES)
        if padding == "max_length" and max_length is None:
            max_length = self.model_max_length
        return pad_inputs(
            encoded_inputs,
            self.pad_token_id,
            padding,
            max_length,
            pad_to_multiple_of,
            side,
            return_attention_mask is not False,
            return_tensors,
        )

    def _encode(self, texts: list[Any], is_split_into_words: bool) -> list[Encoding]:
        with panics_told():
            return self.backend.encode_batch(texts, is_pretokenized=is_split_into_words, add_special_tokens=False)

    def _room(self, truncation: bool | str, max_length: int | None, pair: bool, add_special_tokens: bool) -> int | None:
        """Return how many tokens a row may have besides the added special ones; None for no limit."""
        choice("truncation", truncation, TRUNCATIONS)
        if truncation in (False, "do_not_truncate"):
            return None
        limit = self.model_max_length if max_length is None else max_length
        LENGTH("max_length", limit)
        added = self.num_special_tokens_to_add(pair) if add_special_tokens else 0
        if limit < added:
            raise ValueError(f"max_length must leave room for {added} special tokens, got {limit}.")
        return limit - added


def is_list_of_words(text: Any) -> bool:
    """Tell one text given as its words from a list of such."""
    return isinstance(text, Sequence) and (not text or isinstance(text[0], str))
