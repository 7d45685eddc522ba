"""Turn texts into `input_ids` and back: BERT's WordPiece with BLIP's two tokens, on the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from tokenizers import Encoding, Tokenizer

from blip_core.config_mixin import ConfigMixin
from blip_core.files import atomic_path, read_json
from blip_core.hub import or_shipped, resolve_folder
from blip_core.processing.inputs import BlipInputs, check_return_tensors, stack
from blip_core.processing.padding import LENGTH, kept_lengths, pad_rows
from blip_core.processing.texts import Text, check_texts, close_gaps, to_ids
from blip_core.processing.vocabulary import (
    BERT_TOKENS,
    NORMALIZER,
    VOCABULARY,
    panics_told,
    read_vocabulary,
    warn_of_another_vocabulary,
)
from blip_core.validators import check_settings, choice, flag, setting

VOCABULARY_FILES = ("tokenizer.json", "vocab.txt")
BLIP_TOKENS = {"bos": "[DEC]", "enc": "[ENC]"}
"""The first tokens of a decoder's text and of image-grounded text; they have the last ids."""
SIDES = ("right", "left")
TRUNCATIONS = (False, True, "longest_first", "only_first", "only_second", "do_not_truncate")


@dataclass(eq=False, repr=False)
class BlipTokenizer(ConfigMixin):
    """Turn texts into token ids and back: bert-base-uncased plus `[DEC]` (30522) and `[ENC]` (30523).

    The ids are those of transformers' `BertTokenizerFast`. The tokens and their ids are attributes: `pad_token`,
    `pad_token_id` and the like for unk, sep, pad, cls, mask, bos (`[DEC]`) and enc (`[ENC]`).

    Args:
        tokenizer: A `tokenizers.Tokenizer` of another BERT vocabulary; None for the one in the package. `[DEC]` and
            `[ENC]` are added after its last id unless they are there.
        model_max_length: Tokens at which `truncation=True` cuts and `padding="max_length"` ends where no `max_length`
            is given.
        padding_side: Where padding goes, "right" or "left".
        truncation_side: Where texts are cut, "right" or "left".
        clean_up_tokenization_spaces: Decode without the spaces before punctuation and around apostrophes.
        special_tokens: Names the five tokens of BERT where a vocabulary calls them otherwise, as `{"cls": "<s>"}`.

    Raises:
        ValueError: The vocabulary lacks one of these tokens, or a setting cannot work.

    Example:
        >>> tokenizer = BlipTokenizer()
        >>> tokenizer("a cat")["input_ids"]
        [101, 1037, 4937, 102]
        >>> tokenizer.decode([101, 1037, 4937, 102], skip_special_tokens=True)
        'a cat'
    """

    file_names: ClassVar = ("tokenizer_config.json",)
    constants: ClassVar = {"tokenizer_class": "BertTokenizerFast", "processor_class": "BlipProcessor"}
    null_is_default: ClassVar = True
    tokenizer: InitVar[Tokenizer | None] = None
    _: KW_ONLY
    model_max_length: int = setting(512, LENGTH)
    padding_side: str = setting("right", choice, choices=SIDES)
    truncation_side: str = setting("right", choice, choices=SIDES)
    clean_up_tokenization_spaces: bool = setting(True, flag)
    special_tokens: dict[str, str] = None  # type: ignore[assignment]  # becomes the tokens of all kinds
    backend: Tokenizer = field(init=False)

    def __post_init__(self, tokenizer: Tokenizer | None) -> None:
        check_settings(self)
        if not isinstance(tokenizer, Tokenizer | None):
            raise ValueError(f"tokenizer must be a tokenizers.Tokenizer, got {tokenizer!r:.80}; see from_pretrained.")
        self.backend = read_vocabulary(VOCABULARY) if tokenizer is None else tokenizer
        self.backend.no_padding()
        self.backend.no_truncation()
        given = self.special_tokens or {}
        for kind, token in given.items():
            if kind not in BERT_TOKENS or not isinstance(token, str):
                raise ValueError(
                    f"special_tokens must name {', '.join(BERT_TOKENS)} and their texts, got {kind!r}: {token!r}."
                )
        self.special_tokens = {**BERT_TOKENS, **given, **BLIP_TOKENS}
        for kind in ("pad", "unk", "cls", "sep"):
            if self.backend.token_to_id(self.special_tokens[kind]) is None:
                raise ValueError(
                    f"The vocabulary has no {self.special_tokens[kind]!r} token ({kind}_token); "
                    "pass that of a BERT model, or name the token with special_tokens."
                )
        self.backend.add_special_tokens(list(BLIP_TOKENS.values()))

    def __getattr__(self, name: str) -> Any:
        """Return `pad_token`, `pad_token_id` and the like for unk, sep, pad, cls, mask, bos ([DEC]) and enc ([ENC])."""
        kind, _, rest = name.partition("_")
        if rest not in ("token", "token_id") or kind not in self.__dict__.get("special_tokens", ()):
            return super().__getattr__(name)  # type: ignore[misc]  # hidden from type checkers there
        token = self.special_tokens[kind]
        return token if rest == "token" else self.backend.token_to_id(token)

    def __len__(self) -> int:
        """Return the number of ids, `[DEC]` and `[ENC]` included: 30524, the `vocab_size` of a `BlipTextConfig`."""
        return self.backend.get_vocab_size()

    @property
    def vocab_size(self) -> int:
        """The number of ids without the added tokens: 30522."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    @property
    def all_special_ids(self) -> list[int]:
        """The ids that `skip_special_tokens` drops."""
        return sorted(i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)

    def get_vocab(self) -> dict[str, int]:
        """Return every token with its id."""
        return self.backend.get_vocab()

    def __call__(
        self,
        text: Text | Sequence[Text],
        text_pair: Text | Sequence[Text] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        is_split_into_words: bool = False,
        return_attention_mask: bool = True,
        return_tensors: str | None = None,
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
            pad_to_multiple_of: Rounds the length up.
            padding_side: "right" or "left"; None for that of the tokenizer.
            is_split_into_words: Texts are lists of words.
            return_attention_mask: Also return `attention_mask`.
            return_tensors: "np", "pt" or "tf" for integer tensors (batch, length), which need one length; None for
                lists, flat ones for a single text.

        Returns:
            `input_ids` and `attention_mask` (1 = token, 0 = padding).

        Raises:
            ValueError: What should be a text is not, or an option cannot work.
        """
        check_return_tensors(return_tensors)
        if truncation is None:
            truncation = max_length is not None and padding is False
        single = isinstance(text, str) or (is_split_into_words and _is_list_of_words(text))
        texts = check_texts("text", [text] if single else text, is_split_into_words)
        first = self._encode(texts, is_split_into_words)
        second: list[Encoding | None] = [None] * len(texts)
        if text_pair is not None:
            pairs = check_texts("text_pair", [text_pair] if single else text_pair, is_split_into_words)
            if len(pairs) != len(texts):
                raise ValueError(f"text holds {len(texts)} texts and text_pair {len(pairs)}; each needs one.")
            second = list(self._encode(pairs, is_split_into_words))
        room = self._room(truncation, max_length, text_pair is not None, add_special_tokens)
        rows = []
        for one, other in zip(first, second, strict=True):
            if room is not None:
                parts = [one] if other is None else [one, other]
                for part, size in zip(parts, kept_lengths([len(p) for p in parts], room, truncation), strict=True):
                    part.truncate(size, direction=self.truncation_side)
            with panics_told():
                rows.append(self.backend.post_process(one, other, add_special_tokens).ids)
        inputs = BlipInputs(input_ids=rows)
        if return_attention_mask:
            inputs["attention_mask"] = [[1] * len(row) for row in rows]
        inputs = self.pad(inputs, padding, max_length, pad_to_multiple_of, padding_side, return_tensors)
        return BlipInputs({k: v[0] for k, v in inputs.items()}) if single and return_tensors is None else inputs

    def encode(self, text: Text, text_pair: Text | None = None, **options: Any) -> list[int]:
        """Tokenize one text.

        Args:
            text: The text.
            text_pair: A second text that follows it.
            **options: Further options of a call.

        Returns:
            Its token ids.

        Raises:
            ValueError: As in a call.
        """
        return list(self(text, text_pair, **options)["input_ids"])

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
        inputs: dict[str, list[list[int]]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
    ) -> BlipInputs:
        """Pad rows to one length: `input_ids` with `pad_token_id`, `attention_mask` with 0, `labels` with -100.

        Args:
            inputs: Rows by these names.
            padding, max_length, pad_to_multiple_of, padding_side, return_tensors: As in a call.

        Returns:
            The padded rows by the same names.

        Raises:
            ValueError: For another name, or an option that cannot work.
        """
        side = padding_side or self.padding_side
        choice("padding_side", side, SIDES)
        if padding == "max_length" and max_length is None:
            max_length = self.model_max_length
        fills = {"input_ids": self.pad_token_id, "attention_mask": 0, "labels": -100}
        if not inputs.keys() <= fills.keys():
            raise ValueError(f"inputs must hold none but {', '.join(fills)}, got {', '.join(inputs)}.")
        padded = {
            name: pad_rows(rows, fills[name], padding, max_length, pad_to_multiple_of, side)
            for name, rows in inputs.items()
        }
        remedy = "pass padding=True to bring the texts to one length"
        return BlipInputs({name: stack(name, rows, return_tensors, remedy) for name, rows in padded.items()})

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """Return the text of one row of ids.

        Args:
            token_ids: A list, an array or a tensor of one dimension, or a single id.
            skip_special_tokens: Drop `[CLS]`, `[SEP]`, `[PAD]`, `[MASK]`, `[UNK]`, `[DEC]` and `[ENC]`.
            clean_up_tokenization_spaces: Close the gaps before punctuation and around apostrophes ("a man ' s hat ."
                becomes "a man's hat."); without it those around apostrophes stay. None for the tokenizer's setting.

        Returns:
            The text.

        Raises:
            ValueError: For what is not one row of token ids.
        """
        with panics_told():
            text = self.backend.decode(to_ids(token_ids), skip_special_tokens=skip_special_tokens)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return close_gaps(text) if clean_up_tokenization_spaces else text

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Return the text of each row.

        Args:
            sequences: Token ids of two dimensions, or a list of rows.
            **options: As in `decode`.

        Returns:
            The texts.

        Raises:
            ValueError: As `decode` does.
        """
        return [self.decode(row, **options) for row in sequences]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Look up tokens.

        Args:
            ids: An id, or a row of ids.
            skip_special_tokens: Drop special tokens from a row.

        Returns:
            The token of an id, or a list of tokens; unknown ids become `[UNK]`.

        Raises:
            ValueError: For what is not a row of token ids.
        """
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        tokens = [self.backend.id_to_token(i) or self.unk_token for i in to_ids(ids) if i not in skipped]
        return tokens[0] if isinstance(ids, int) else tokens

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Look up ids.

        Args:
            tokens: A token, or a list of tokens.

        Returns:
            The id of a token, or a list of ids; unknown tokens get the id of `[UNK]`.
        """
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        found = self.backend.token_to_id(tokens)
        return self.unk_token_id if found is None else found

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path | None = None, *, revision: str | None = None) -> Self:
        """Read the `tokenizer.json`, else the `vocab.txt` of a model, and its `tokenizer_config.json`.

        A model without a vocabulary file gets BERT's, as `BlipTokenizer()` has it, with a warning if the size in its
        `config.json` differs.

        Args:
            name_or_path: A folder, a vocabulary file, or a Hub repository; None for the small model in the package.
            revision: A branch, tag or commit of the repository.

        Returns:
            The tokenizer.

        Raises:
            OSError: There is no such folder or repository.
            ValueError: A file holds no vocabulary, or settings that cannot work.
        """
        name_or_path = or_shipped(name_or_path)
        path = Path(name_or_path).expanduser()
        files = (*VOCABULARY_FILES, *cls.file_names, "config.json")
        folder = resolve_folder(name_or_path, revision=revision, patterns=files)
        found = [folder / name for name in VOCABULARY_FILES if (folder / name).is_file()]
        if path.is_file() and path.suffix in (".json", ".txt"):
            found = [path]
        file = folder / cls.file_names[0]
        values = read_json(file) if file.is_file() else {}
        given = {name: values[name] for name in NORMALIZER if values.get(name) is not None}
        backend = read_vocabulary(found[0], **given) if found else None
        try:
            tokenizer = cls.from_dict(values, tokenizer=backend)
        except ValueError as error:
            raise ValueError(f"{' with '.join(str(f) for f in (*found[:1], file) if f.is_file())}: {error}") from None
        if not found:
            warn_of_another_vocabulary(folder, len(tokenizer))
        return tokenizer

    @classmethod
    def from_dict(cls, values: dict[str, Any], **overrides: Any) -> Self:
        """Build from a dictionary as `tokenizer_config.json` holds it.

        Args:
            values: Settings and tokens by name; other keys are kept in `extra`.
            **overrides: Further keywords of the constructor, which win over `values`.

        Returns:
            The tokenizer.

        Raises:
            ValueError: A setting cannot work, or the vocabulary lacks a token.
        """
        limit = values.get("model_max_length")
        if isinstance(limit, int | float) and limit > 10**9:  # transformers writes this for no limit
            values = {**values, "model_max_length": None}
        # A token is given as a text, or as an object with this and more.
        tokens = {kind: values.get(f"{kind}_token") for kind in BERT_TOKENS}
        tokens = {kind: token.get("content") if isinstance(token, dict) else token for kind, token in tokens.items()}
        tokens = {kind: token for kind, token in tokens.items() if token is not None}
        return super().from_dict(values, **{"special_tokens": tokens, **overrides})

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary as `tokenizer_config.json` holds it: every setting, token and kept key."""
        values = super().to_dict()
        own = {f"{kind}_token": token for kind, token in values.pop("special_tokens").items() if kind != "enc"}
        added = [token.content for token in self.backend.get_added_tokens_decoder().values() if token.special]
        others = [token for token in added if token not in own.values()]
        inputs = ["input_ids", "attention_mask"]
        return {**values, **own, "additional_special_tokens": others, "model_input_names": inputs}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, `vocab.txt` and `tokenizer_config.json`, each atomically.

        Args:
            folder: Created if needed.

        Raises:
            OSError: A file cannot be written.
        """
        folder = Path(folder)
        with atomic_path(folder / "tokenizer.json") as temporary:
            temporary.write_text(self.backend.to_str(pretty=True), encoding="utf-8")
        pieces = sorted(self.backend.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
        with atomic_path(folder / "vocab.txt") as temporary:
            temporary.write_text("".join(f"{piece}\n" for piece, _ in pieces), encoding="utf-8")
        super().save_pretrained(folder)

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
        added = self.backend.num_special_tokens_to_add(pair) if add_special_tokens else 0
        if limit < added:
            raise ValueError(f"max_length must leave room for {added} special tokens, got {limit}.")
        return limit - added


def _is_list_of_words(text: Any) -> bool:
    return isinstance(text, Sequence) and (not text or isinstance(text[0], str))
