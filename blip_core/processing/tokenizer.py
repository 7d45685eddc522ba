"""Turn texts into `input_ids` and back: BERT's WordPiece with BLIP's two tokens, on the `tokenizers` library."""

from __future__ import annotations

from dataclasses import KW_ONLY, InitVar, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from tokenizers import Tokenizer

from blip_core.config_mixin import ConfigMixin
from blip_core.files import atomic_path, read_json
from blip_core.hub import or_shipped, resolve_settings
from blip_core.hub.keywords import ALL, HUB, SETTINGS, check_rest, read_keywords
from blip_core.processing.padding import LENGTH, SIDES
from blip_core.processing.special_tokens import BLIP_TOKENS
from blip_core.processing.text_encoder import TextEncoder
from blip_core.processing.texts import close_gaps, to_ids
from blip_core.processing.vocabulary import (
    BERT_TOKENS,
    NORMALIZER,
    VOCABULARY,
    add_listed_tokens,
    panics_told,
    read_vocabulary,
    warn_of_another_vocabulary,
)
from blip_core.validators import check_settings, choice, flag, setting

LONGEST = 512
"""The tokens of a text where a tokenizer has no limit of its own: BERT's."""
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt")


@dataclass(eq=False, repr=False)
class BlipTokenizer(TextEncoder, ConfigMixin):
    """Turn texts into token ids and back: bert-base-uncased plus `[DEC]` (30522) and `[ENC]` (30523).

    The ids are those of transformers' `BertTokenizerFast`. The tokens and their ids are attributes: `pad_token`,
    `pad_token_id` and the like for unk, sep, pad, cls, mask, bos (`[DEC]`) and enc (`[ENC]`); eos is None.

    Args:
        tokenizer: A `tokenizers.Tokenizer` of another BERT vocabulary; None for the one in the package. `[DEC]` and
            `[ENC]` are added after its last id unless they are there.
        model_max_length: Tokens at which `truncation=True` cuts and `padding="max_length"` ends where no `max_length`
            is given.
        padding_side: Where padding goes, "right" or "left".
        truncation_side: Where texts are cut, "right" or "left".
        clean_up_tokenization_spaces: Decode without the spaces before punctuation and around apostrophes.
        special_tokens: Names the five tokens of BERT where a vocabulary calls them otherwise, as `{"cls": "<s>"}`; also
            `eos`.

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
    model_max_length: int = setting(LONGEST, LENGTH)
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
            if kind not in (*BERT_TOKENS, "eos") or not isinstance(token, str):
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

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path | None = None, *, revision: str | None = None, **keywords: Any
    ) -> Self:
        """Read the `tokenizer.json`, else the `vocab.txt` of a model, and its `tokenizer_config.json`.

        A model without a vocabulary file gets BERT's, as `BlipTokenizer()` has it, with a warning if the size in its
        `config.json` differs.

        Args:
            name_or_path: A folder, a vocabulary file, or a Hub repository; None for the small model in the package.
            revision: A branch, tag or commit of the repository.
            **keywords: Settings and tokens to replace, and further keywords of `blip_core.hub.keywords.KEYWORDS`.

        Returns:
            The tokenizer.

        Raises:
            OSError: There is no such folder or repository.
            TypeError: A keyword is unknown; the message names the nearest.
            ValueError: A file holds no vocabulary, or settings that cannot work.
        """
        given = read_keywords({"name_or_path": name_or_path, "revision": revision, **keywords}, ALL, SETTINGS)
        name_or_path = or_shipped(given.own["name_or_path"])
        path = Path(name_or_path).expanduser()
        files = (*VOCABULARY_FILES, *cls.file_names, "config.json")
        folder = resolve_settings(name_or_path, patterns=files, **given.hub)
        found = [folder / name for name in VOCABULARY_FILES if (folder / name).is_file()]
        if path.is_file() and path.suffix in (".json", ".txt"):
            found = [path]
        file = folder / cls.file_names[0]
        values = read_json(file) if file.is_file() else {}
        known = [*cls.setting_names(), *NORMALIZER, *values]
        check_rest(given.rest, known, "setting of a tokenizer or keyword", ALL, SETTINGS, HUB)
        values |= given.rest
        normalizer = {name: values[name] for name in NORMALIZER if values.get(name) is not None}
        backend = read_vocabulary(found[0], **normalizer) if found else None
        try:
            if backend is not None and found[0].suffix == ".txt":
                add_listed_tokens(backend, values.get("added_tokens_decoder"))
            tokenizer = cls.from_dict(values, tokenizer=backend)
        except ValueError as error:
            raise ValueError(f"{' with '.join(str(f) for f in (*found[:1], file) if f.is_file())}: {error}") from None
        if not found:
            warn_of_another_vocabulary(folder, len(tokenizer))
        return tokenizer

    @classmethod
    def setting_names(cls) -> list[str]:
        """Return the names of all settings and tokens that `from_pretrained` can replace."""
        return [*super().setting_names(), *(f"{kind}_token" for kind in (*BERT_TOKENS, "eos"))]

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
        tokens = {kind: values.get(f"{kind}_token") for kind in (*BERT_TOKENS, "eos")}
        tokens = {kind: token.get("content") if isinstance(token, dict) else token for kind, token in tokens.items()}
        tokens = {kind: token for kind, token in tokens.items() if token is not None}
        return super().from_dict(values, **{"special_tokens": tokens, **overrides})

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary as `tokenizer_config.json` holds it: every setting, token and kept key."""
        values = super().to_dict()
        del values["special_tokens"]
        facts = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
        added = {i: {fact: getattr(token, fact) for fact in facts} for i, token in self.added_tokens_decoder.items()}
        own = {**self.special_tokens_map, "model_input_names": list(self.model_input_names)}
        return {**values, **own, "added_tokens_decoder": {str(i): token for i, token in added.items()}}

    def save_vocabulary(self, save_directory: str | Path, filename_prefix: str | None = None) -> tuple[str]:
        """Write `vocab.txt`, one WordPiece a line, without the added tokens; atomically.

        Args:
            save_directory: Created if needed.
            filename_prefix: Precedes the file's name, with a "-".

        Returns:
            The path of the file.

        Raises:
            OSError: The file cannot be written.
        """
        path = Path(save_directory) / (f"{filename_prefix}-vocab.txt" if filename_prefix else "vocab.txt")
        pieces = sorted(self.backend.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{piece}\n" for piece, _ in pieces), encoding="utf-8")
        return (str(path),)

    def save_pretrained(self, folder: str | Path, **keywords: Any) -> tuple[str, ...]:
        """Write `tokenizer.json`, `vocab.txt` and `tokenizer_config.json`, each atomically.

        Args:
            folder: Created if needed.
            **keywords: `push_to_hub=True` uploads them, too, with further keywords as of `push_to_hub`.

        Returns:
            The paths of the files.

        Raises:
            OSError: A file cannot be written.
        """
        path = Path(folder) / "tokenizer.json"
        with atomic_path(path) as temporary:
            temporary.write_text(self.backend.to_str(pretty=True), encoding="utf-8")
        return (str(path), *self.save_vocabulary(folder), *super().save_pretrained(folder, **keywords))
