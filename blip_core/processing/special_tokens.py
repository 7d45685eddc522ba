"""The tokens of a tokenizer by kind, by text and by id: special ones, added ones, and the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer

from blip_core.processing.texts import to_ids
from blip_core.processing.vocabulary import BERT_TOKENS

BLIP_TOKENS = {"bos": "[DEC]", "enc": "[ENC]"}
"""The first tokens of a decoder's text and of image-grounded text; they have the last ids."""
KINDS = ("bos", "eos", *BERT_TOKENS, "enc")
"""The kinds of special tokens. BERT has no eos, which is None; of `enc` transformers knows nothing."""
NAMES = {f"{kind}_token": kind for kind in KINDS if kind != "enc"}
"""The kinds by their names in files and in `add_special_tokens`."""
ADDITIONAL = "additional_special_tokens"


class SpecialTokens:
    """What a tokenizer knows of its tokens; `special_tokens` holds the text of each kind."""

    backend: Tokenizer
    special_tokens: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        """Return `pad_token`, `pad_token_id` and the like for each of `KINDS`."""
        kind, _, rest = name.partition("_")
        if rest not in ("token", "token_id") or kind not in KINDS:
            return super().__getattr__(name)  # type: ignore[misc]  # hidden from type checkers there
        token = self.__dict__.get("special_tokens", {}).get(kind)
        return token if rest == "token" or token is None else self.backend.token_to_id(token)

    def __setattr__(self, name: str, value: Any) -> None:
        """Let `pad_token`, `pad_token_id` and the like name another token of the vocabulary."""
        kind, _, rest = name.partition("_")
        if rest not in ("token", "token_id") or kind not in KINDS:
            return super().__setattr__(name, value)
        token = self.backend.id_to_token(value) if rest == "token_id" and value is not None else value
        if token is None and kind not in BERT_TOKENS and kind not in BLIP_TOKENS:
            self.special_tokens.pop(kind, None)
        elif not isinstance(token, str | AddedToken) or self.backend.token_to_id(str(token)) is None:
            raise ValueError(f"{name} must name a token of the vocabulary, got {value!r}; see add_special_tokens.")
        elif BLIP_TOKENS.get(kind, str(token)) != str(token):
            raise ValueError(f"{name} is {BLIP_TOKENS[kind]} in every BLIP model, and cannot be {value!r}.")
        else:
            self.special_tokens[kind] = str(token)
        return None

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
        return [i for i, token in self.added_tokens_decoder.items() if token.special]

    @property
    def all_special_tokens(self) -> list[str]:
        """The tokens that `skip_special_tokens` drops, in the order of `all_special_ids`."""
        return [token.content for token in self.added_tokens_decoder.values() if token.special]

    @property
    def additional_special_tokens(self) -> list[str]:
        """The special tokens without a kind that files have a name for: `[ENC]`, and those that were added."""
        named = [token for kind, token in self.special_tokens.items() if kind != "enc"]
        return [token for token in self.all_special_tokens if token not in named]

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """The ids of `additional_special_tokens`."""
        return list(self.convert_tokens_to_ids(self.additional_special_tokens))

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """The special tokens by name: `pad_token` and the like, and `additional_special_tokens`."""
        found = {name: self.special_tokens[kind] for name, kind in NAMES.items() if kind in self.special_tokens}
        return {**found, ADDITIONAL: self.additional_special_tokens}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are never split, the special ones included, by id."""
        return dict(sorted(self.backend.get_added_tokens_decoder().items()))

    def get_added_vocab(self) -> dict[str, int]:
        """Return the tokens that are never split, the special ones included, with their ids."""
        return {token.content: i for i, token in self.added_tokens_decoder.items()}

    def get_vocab(self) -> dict[str, int]:
        """Return every token with its id."""
        return self.backend.get_vocab()

    @property
    def vocab(self) -> dict[str, int]:
        """Every token with its id."""
        return self.get_vocab()

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add words that are never split. A model learns them after `resize_token_embeddings(len(tokenizer))`.

        Args:
            new_tokens: One or many; those that the vocabulary has keep their ids.
            special_tokens: They are dropped by `skip_special_tokens`, and found whatever their case.

        Returns:
            How many ids are new. They follow `[DEC]` and `[ENC]`, from 30524 on.

        Raises:
            ValueError: For what is not a text or an `AddedToken`, or an empty one.
        """
        tokens = list(new_tokens) if isinstance(new_tokens, list | tuple) else [new_tokens]
        for token in tokens:
            if not isinstance(token, str | AddedToken) or not str(token):
                raise ValueError(f"A new token must be a text that is not empty, or an AddedToken, got {token!r}.")
        before = len(self)
        (self.backend.add_special_tokens if special_tokens else self.backend.add_tokens)(tokens)
        return len(self) - before

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any]) -> int:
        """Add tokens that `skip_special_tokens` drops, and name their kinds.

        Args:
            special_tokens_dict: Tokens by name, as `{"eos_token": "</s>"}`, and a list of more of them as
                `additional_special_tokens`.

        Returns:
            How many ids are new.

        Raises:
            ValueError: For another name, or a `bos_token` that is not `[DEC]`.
        """
        for name, token in special_tokens_dict.items():
            if name not in (*NAMES, ADDITIONAL):
                raise ValueError(f"{name!r} is no kind of special token; there are {', '.join((*NAMES, ADDITIONAL))}.")
            if name == "bos_token" and str(token) != self.special_tokens["bos"]:
                setattr(self, name, token)  # says why not
        before = len(self)
        for name, token in special_tokens_dict.items():
            self.add_tokens(token, special_tokens=True)
            if name != ADDITIONAL:
                setattr(self, name, token)
        return len(self) - before

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

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Join tokens to a text: `["un", "##do", "it"]` is `"undo it"`.

        Args:
            tokens: The tokens, special ones included.

        Returns:
            The text, with a space before each token that does not continue a word.
        """
        text: str = self.backend.decoder.decode(list(tokens))
        return text

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens a text, or a pair of texts, gets."""
        return self.backend.num_special_tokens_to_add(pair)

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """Put ids between `[CLS]` and `[SEP]`.

        Args:
            token_ids_0: The ids of a text.
            token_ids_1: Those of a second text that follows it.

        Returns:
            `[CLS] text [SEP]`, or `[CLS] text [SEP] second text [SEP]`.
        """
        second = [] if token_ids_1 is None else [*token_ids_1, self.sep_token_id]
        return [self.cls_token_id, *token_ids_0, self.sep_token_id, *second]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """Return 0 for each token of the first text, its special tokens included, and 1 for those of the second."""
        first = len(self.build_inputs_with_special_tokens(token_ids_0))
        return [0] * first + [1] * (len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1)) - first)

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Mark the special tokens of a row.

        Args:
            token_ids_0: The ids of a text.
            token_ids_1: Those of a second text.
            already_has_special_tokens: `token_ids_0` is a whole row; False for ids that are to get theirs.

        Returns:
            1 for a special token, 0 for any other.
        """
        row = to_ids(token_ids_0)
        if not already_has_special_tokens:
            row = self.build_inputs_with_special_tokens(row, token_ids_1)
        special = set(self.all_special_ids)
        return [int(token in special) for token in row]
