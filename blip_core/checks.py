"""Input validation shared by both backends: shapes and types of what models are given.

A size is None where it is not known yet, while TensorFlow traces a graph; it is then not checked. Sizes may be symbols
while PyTorch traces one: they are compared by `!=` alone, which puts no number in place of a symbol.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig

Shape = Sequence[int | None]
Texts = Sequence[Sequence[int]]
METHODS = ("gradcam", "attention")
"""The kinds of maps that explain a text."""
T = TypeVar("T")


class InputError(ValueError):
    """Something given to a model does not fit it or the rest."""


def differ(*sizes: int | None) -> bool:
    """Say whether sizes differ, as far as they are known."""
    known = [size for size in sizes if size is not None]
    return any(size != known[0] for size in known[1:])


def check_pixel_values(shape: Shape, dtype: str, config: BlipVisionConfig, interpolate_pos_encoding: bool) -> None:
    """Refuse pictures that a vision model cannot take."""
    shape, size = tuple(shape), config.image_size
    if len(shape) != 4 or differ(shape[1], config.num_channels) or "float" not in dtype:
        raise InputError(
            f"pixel_values must be floating-point numbers of shape (batch, {config.num_channels}, height, width), "
            f"got {dtype} of shape {shape}; make them with BlipProcessor."
        )
    if not interpolate_pos_encoding and differ(*shape[2:], size):
        raise InputError(
            f"pixel_values are {shape[2]} x {shape[3]} pixels but the model was made for {size} x {size}; "
            "resize them, load it with image_size=, or pass interpolate_pos_encoding=True."
        )
    if interpolate_pos_encoding and None in shape[2:]:
        raise InputError("interpolate_pos_encoding needs to know the height and width of pixel_values in a graph.")
    if any(size is not None and size < config.patch_size for size in shape[2:]):
        raise InputError(f"pixel_values of {shape[2]} x {shape[3]} are smaller than a patch of {config.patch_size}.")


def image_source(pixel_values: T | None, image_embeds: T | None) -> T:
    """Return the one that is given, and refuse both and neither."""
    source = image_embeds if pixel_values is None else pixel_values
    if source is None or (pixel_values is not None and image_embeds is not None):
        raise InputError("Give either pixel_values or image_embeds.")
    return source


def text_source(input_ids: T | None, inputs_embeds: T | None) -> T:
    """Return the one that is given, and refuse both and neither."""
    given = [source for source in (input_ids, inputs_embeds) if source is not None]
    if len(given) != 1:
        raise InputError("Give either input_ids or inputs_embeds.")
    return given[0]


def check_texts(shape: Shape, dtype: str, config: BlipTextConfig, start: int = 0) -> None:
    """Refuse token ids (batch, length), or embeddings (batch, length, width), that a text model cannot take.

    They follow `start` tokens that it has read.
    """
    shape = tuple(shape)
    if len(shape) not in (2, 3) or 0 in shape[:2] or (len(shape) == 2) == ("float" in dtype):
        raise InputError(
            f"input_ids must be integers of shape (batch, length), got {dtype} of shape {shape}; "
            "make them with BlipProcessor."
        )
    if shape[1] is not None and start + shape[1] > config.max_position_embeddings:
        raise InputError(
            f"The text has {start + shape[1]} tokens but the model takes at most {config.max_position_embeddings}; "
            "shorten it, or pass truncation=True to the processor."
        )


def check_ids(low: int, high: int, config: BlipTextConfig) -> None:
    """Refuse token ids from `low` to `high` that are out of the vocabulary."""
    if low < 0 or high >= config.vocab_size:
        raise InputError(
            f"input_ids must lie between 0 and {config.vocab_size - 1}, got {low} to {high}; "
            "use the tokenizer that belongs to this checkpoint."
        )


def new_vocab_size(new_num_tokens: int | None, pad_to_multiple_of: int | None, old: int) -> int:
    """Return how many words `resize_token_embeddings` makes, and refuse other values than whole numbers above 0."""
    for name, value in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", pad_to_multiple_of)):
        if value is not None and (not isinstance(value, int | np.integer) or value < 1):
            raise InputError(f"{name} must be None or a whole number above 0, got {value!r}.")
    count, multiple = int(new_num_tokens or old), int(pad_to_multiple_of or 1)
    return -(-count // multiple) * multiple


def check_checkpointing(options: Iterable[str], known: Sequence[str], every_n_layers: int, offload: bool) -> None:
    """Refuse options of gradient checkpointing that are unknown or not offered."""
    if unknown := [name for name in options if name not in known]:
        there_is = f"there is {', '.join(known)}" if known else "there is none in TensorFlow; leave them out"
        raise InputError(f"gradient_checkpointing_kwargs holds {', '.join(unknown)}; {there_is}.")
    if every_n_layers != 1 or offload:
        raise InputError(
            f"Every layer is recomputed, and nothing is moved to another device; got every_n_layers={every_n_layers!r} "
            f"and offload={offload!r}, leave both out."
        )


def start_token(config: BlipTextConfig) -> int:
    """Return the first token of generated texts; refuse one that is out of the vocabulary."""
    if config.bos_token_id >= config.vocab_size:
        raise InputError(
            f"text_config.bos_token_id is {config.bos_token_id}, but the vocabulary has {config.vocab_size} tokens; "
            "correct the model's config.json."
        )
    return config.bos_token_id


def check_mask(shape: Shape, texts: Shape, start: int = 0) -> None:
    """Refuse an attention mask that does not go with texts (batch, length ...) and `start` tokens before them."""
    batch, length = texts[:2]
    length = length + start if start and length is not None else length
    if len(shape) not in (2, 3) or differ(shape[0], batch) or any(differ(size, length) for size in shape[1:]):
        raise InputError(f"attention_mask must be of shape ({batch}, {length}) like the text, got {tuple(shape)}.")


def check_states(shape: Shape, mask: Shape | None, batch: int | None, config: BlipTextConfig) -> None:
    """Refuse encoder states, or a mask of theirs, that `batch` texts cannot attend to."""
    if not config.is_decoder:
        raise InputError("This text model was configured with is_decoder=False and cannot read encoder states.")
    if len(shape) != 3 or differ(shape[2], config.encoder_hidden_size):
        raise InputError(
            f"Encoder states (image_embeds) must be of shape (batch, tokens, {config.encoder_hidden_size}), "
            f"got {tuple(shape)}."
        )
    if batch is not None and shape[0] is not None and (not shape[0] or batch % shape[0]):
        raise InputError(f"{batch} texts do not go with {shape[0]} pictures; give one picture or one of each text.")
    if mask is not None and (len(mask) != 2 or differ(mask[0], shape[0]) or differ(mask[1], shape[1])):
        raise InputError(
            f"encoder_attention_mask must be of shape {tuple(shape[:2])} like the states, got {tuple(mask)}."
        )


def check_pairs(pictures: int | None, texts: int | None) -> None:
    """Refuse other numbers than as many pictures as texts, or one picture for all."""
    if pictures != 1 and differ(pictures, texts):
        raise InputError(f"{pictures} pictures do not go with {texts} texts; give one of each, or one picture.")


def check_picture_pairs(shape: Shape, texts: int | None) -> None:
    """Refuse anything but two pictures, or their embeddings, for each text."""
    if len(shape) not in (4, 5) or differ(shape[1], 2) or differ(shape[0], texts):
        raise InputError(
            f"NLVR reads two pictures with each text: pixel_values ({texts}, 2, channels, height, width) or "
            f"image_embeds ({texts}, 2, tokens, width), got {tuple(shape)}."
        )


def check_classes(shape: Shape, texts: int | None) -> None:
    """Refuse labels that are not one class, 0 or 1, of each text."""
    if len(shape) != 1 or differ(shape[0], texts):
        raise InputError(f"labels must be of shape ({texts},), one class of each text, got {tuple(shape)}.")


def check_match_labels(labels: Any, use_itm_head: bool, contrastive: bool, texts: int | None) -> None:
    """Refuse labels of pairs that are not one class of each, and those beside what gives another loss or no logits."""
    if labels is None:
        return
    if contrastive or not use_itm_head:
        raise InputError("labels are of the matching head; leave out image_ids and use_itm_head=False, or labels.")
    check_classes(labels.shape, texts)


def check_captions(caption_ids: Any, use_itm_head: bool, contrastive: bool, config: BlipConfig) -> None:
    """Refuse captions beside what does not read them, and in models whose pictures have states of another width."""
    if caption_ids is None:
        return
    if contrastive or not use_itm_head:
        raise InputError("Captions are for the matching head; leave out image_ids and use_itm_head=False, or captions.")
    widths = config.vision_config.hidden_size, config.text_config.hidden_size
    if widths[0] != widths[1]:
        raise InputError(
            f"Captions go with pictures of states of their width {widths[1]}; this model's have {widths[0]}."
        )


def given_texts(input_ids: T | None, what: str = "texts") -> T:
    """Return texts, and refuse missing ones."""
    if input_ids is None:
        raise InputError(f"Give the {what} as input_ids.")
    return input_ids


def given_answers(labels: T | None) -> T:
    """Return the answers that a question answerer shall predict, and refuse missing ones."""
    if labels is None:
        raise InputError("Give labels to train, decoder_input_ids to score, or call generate to answer.")
    return labels


def check_labels(shape: Shape, texts: Shape, reduction: str = "mean") -> None:
    """Refuse labels that are not of the texts' shape (batch, length), and an unknown reduction."""
    if len(shape) != 2 or any(differ(*sizes) for sizes in zip(shape, texts, strict=True)):
        raise InputError(f"labels must be of shape {tuple(texts)} like the text, got {tuple(shape)}.")
    if reduction not in ("mean", "sum", "none"):
        raise InputError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")


def warn_of_beginning(bos: int) -> None:
    """Warn that captions to train on do not begin as captions do everywhere else."""
    warnings.warn(
        f"labels are given with texts that do not begin with [DEC] ({bos}), as captions do in generation and in the "
        "original's training; make them with BlipProcessor(text=..., return_labels=True), or put it first.",
        stacklevel=3,
    )


def check_similarities(shape: Shape) -> None:
    """Refuse similarities that are not square, of which no diagonal can hold the matching pairs."""
    if differ(*shape):
        raise InputError(f"The loss needs as many pictures as texts, got similarities {tuple(shape)}.")


def answer_groups(counts: Sequence[float] | None, weights: Any, questions: int, answers: int) -> tuple[list[int], Any]:
    """How many answers each question has and what each weighs; `ValueError` where they do not add up.

    Without counts there is one answer to each question; without weights those of a question weigh the same, 1 in all.
    """
    counts = [1] * questions if counts is None else [float(count) for count in counts]
    whole = [int(count) for count in counts]
    if len(whole) != questions or sum(whole) != answers or min(whole) < 0 or whole != counts:
        raise InputError(f"answer_counts must give {questions} whole numbers of sum {answers}, got {counts}.")
    if weights is None:
        weights = [1 / count for count in whole for _ in range(count)]
    if (shape := tuple(getattr(weights, "shape", [len(weights)]))) != (answers,):
        raise InputError(f"answer_weights must give one weight for each of {answers} answers, got {shape}.")
    return whole, weights


def check_one_answer_each(answers: int | None, questions: int | None) -> None:
    """Refuse another number of answers than questions, where no counts say whose they are."""
    if differ(answers, questions):
        raise InputError(f"{answers} answers to {questions} questions need answer_counts.")


def check_weight_type(name: str) -> None:
    """Refuse a type that weights cannot have."""
    if name not in ("float16", "bfloat16", "float32", "float64"):
        raise InputError(f"dtype must be float32, float16, bfloat16, float64 or 'auto', got {name!r}.")


def check_momentum(has_momentum: bool, name: str) -> None:
    """Refuse to train a model without momentum encoders and queues."""
    if not has_momentum:
        raise InputError(
            f"This {name} has no training state; call start_momentum() before the optimizer is made, "
            "or load a checkpoint with one."
        )


def given_pictures(pixel_values: T | None) -> T:
    """Return the pictures to train on, and refuse missing ones: momentum encoders take no embeddings of others."""
    if pixel_values is None:
        raise InputError("Give pixel_values to train: the momentum encoders read the pictures as well.")
    return pixel_values


def check_only_losses(image_embeds: Any, use_itm_head: bool, *outputs: bool) -> None:
    """Refuse what has no meaning for the call that trains."""
    if image_embeds is not None or not use_itm_head or any(outputs):
        raise InputError(
            "With image_ids the call gives losses; leave out image_embeds, use_itm_head=False, output_hidden_states "
            "and output_attentions, or image_ids."
        )


def check_pair_batch(pictures: int | None, texts: int | None, noise: Sequence[int | None] | None) -> None:
    """Refuse batches that are not as many pictures as texts, and noise that does not go with them."""
    if differ(pictures, texts):
        raise InputError(f"Contrastive training needs a text for each picture, got {pictures} pictures, {texts} texts.")
    if noise is not None and (len(noise) != 2 or noise[0] != 2 or differ(noise[1], texts)):
        raise InputError(f"noise must be of shape (2, {texts}), got {tuple(noise)}; see negative_noise.")


def check_image_ids(shape: Sequence[int | None], dtype: str, texts: int | None) -> None:
    """Refuse picture ids that are not one whole number of each pair."""
    if len(shape) != 1 or differ(shape[0], texts) or "int" not in dtype:
        got = f"{dtype} of shape {tuple(shape)}"
        raise InputError(f"image_ids must be of shape ({texts},), one whole number of each pair, got {got}.")


def check_negatives(pairs: int | None, distinct: bool = True) -> None:
    """Refuse batches from which no negative can be drawn: of one pair, or of pairs that are not `distinct` pictures."""
    if pairs == 1 or not distinct:
        raise InputError(NO_NEGATIVES)


NO_NEGATIVES = (
    "Every pair of the batch has the same picture, so that there are no negatives to learn from; "
    "use batches of two different pictures or more (in each process, with config.negative_all_rank=False)."
)


def unpadded(input_ids: np.ndarray, attention_mask: np.ndarray | None, config: BlipTextConfig) -> list[np.ndarray]:
    """Return the tokens of each text (texts, length) without padding, and refuse wrong ids and masks.

    Without a mask, `pad_token_id` is padding.
    """
    ids = np.asarray(input_ids)
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise InputError(f"input_ids must be integers of shape (batch, length), got {ids.dtype} of shape {ids.shape}.")
    check_ids(int(ids.min()), int(ids.max()), config)
    real = ids != config.pad_token_id if attention_mask is None else np.asarray(attention_mask).astype(bool)
    if real.shape != ids.shape:
        raise InputError(f"attention_mask must be of shape {ids.shape} like input_ids, got {real.shape}.")
    return [row[kept] for row, kept in zip(ids, real, strict=True)]


def texts_of(input_ids: np.ndarray, attention_mask: np.ndarray | None, config: BlipTextConfig) -> list[list[int]]:
    """The tokens of each text (texts, length) after its first, in whose place `[DEC]` goes; padding is left out.

    Without a mask, `pad_token_id` is padding. Raises `ValueError` for texts of fewer than two tokens or of more than
    the model takes, and for ids out of the vocabulary.
    """
    texts = [row[1:].tolist() for row in unpadded(input_ids, attention_mask, config)]
    lengths = [len(text) for text in texts]
    if min(lengths) < 1 or max(lengths) > config.max_position_embeddings:
        bad = next(i for i, length in enumerate(lengths) if not 1 <= length <= config.max_position_embeddings)
        raise InputError(
            f"Text {bad} has {lengths[bad] + 1} tokens, of which the first becomes [DEC]; "
            f"it needs 2 to {config.max_position_embeddings + 1}."
        )
    return texts


def check_answers(texts: Texts, k: int, config: BlipTextConfig) -> None:
    """Refuse a list of answers with empty ones or duplicates, and a `k` below 1."""
    seen: dict[tuple[int, ...], int] = {}
    for number, text in enumerate(texts):
        if not [token for token in text if token != config.sep_token_id]:
            raise InputError(f"Answer {number} of the list is empty; leave it out.")
        if (first := seen.setdefault(tuple(text), number)) != number:
            raise InputError(f"Answers {first} and {number} of the list are the same; leave one out.")
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}.")


def chosen_layer(layer: int | None, method: str, config: BlipTextConfig) -> int:
    """The layer, counted from 0, whose cross-attention is mapped.

    None is layer 7 of 12, as in LAVIS's demonstrations, and its like in other models, but not the last, of which the
    match score reads the first token alone. Raises `ValueError` for a layer or a method that there is not.
    """
    if method not in METHODS:
        raise InputError(f"method must be {' or '.join(map(repr, METHODS))}, got {method!r}.")
    layers = config.num_hidden_layers
    if layer is None:
        return max(0, min(7 * layers // 12, layers - 2))
    if not isinstance(layer, int) or not 0 <= layer < layers:
        raise InputError(f"The text model has layers 0 to {layers - 1}, got layer {layer!r}.")
    return layer


def patch_grid(pixel_values: Any, image_embeds: Any, grid: Sequence[int] | None, config: BlipVisionConfig) -> list[int]:
    """The rows and columns of patches of pictures; `grid` gives them for embeddings of pictures that are not square.

    Raises `ValueError` where they do not fit.
    """
    source = image_source(pixel_values, image_embeds)
    if image_embeds is None:
        side = [int(size or 0) // config.patch_size for size in source.shape[2:]]
        if grid is not None and list(grid) != side:
            raise InputError(f"grid must be {side[0]} x {side[1]} patches for these pixel_values, got {tuple(grid)}.")
        return side
    patches = source.shape[1] - 1  # the first image token is the class token
    side = [round(patches**0.5)] * 2 if grid is None else [int(size) for size in grid]
    if len(side) != 2 or side[0] * side[1] != patches:
        raise InputError(
            f"image_embeds hold {patches} patches, which are not {' x '.join(map(str, side))}; "
            "give grid=(rows, columns)."
        )
    return side


def given_labels(label_features: T | None) -> T:
    """Return the features of labels, and refuse missing ones."""
    if label_features is None:
        raise InputError("Give label_features to classify by; get_label_features makes them.")
    return label_features


def check_templates(texts: int | None, templates: int) -> None:
    """Refuse texts that are not the same number of each label."""
    if templates < 1 or (texts is not None and texts % templates):
        raise InputError(f"{texts} texts do not go with {templates} templates of each label; see label_texts.")


def check_label_features(shape: Shape, width: int, temperature: float | None) -> None:
    """Refuse features (labels, width) of another shape, and a temperature that is not above 0."""
    if len(shape) != 2 or differ(shape[1], width):
        raise InputError(f"label_features must be of shape (labels, {width}), got {tuple(shape)}.")
    if temperature is not None and not temperature > 0:
        raise InputError(f"temperature must be above 0, got {temperature}.")


def check_mode(mode: str) -> None:
    """Refuse unknown kinds of features."""
    if mode not in ("image", "text", "multimodal"):
        raise InputError(f"mode must be 'image', 'text' or 'multimodal', got {mode!r}.")
