"""Labels of zero-shot classification: the texts that stand for them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from blip_core.checks import InputError
from blip_core.processing.processor import BlipProcessor
from blip_core.processing.texts import check_texts

TEMPLATE = "a picture of {}"
"""What BLIP's captioners begin with."""


def label_texts(labels: Sequence[str], templates: Sequence[str] = (TEMPLATE,)) -> list[str]:
    """Put labels into templates such as "a photo of a {}": for each label its texts, next to each other.

    Raises `ValueError` for no labels, empty ones or duplicates, and for templates without exactly one `{}`.
    """
    seen: dict[str, int] = {}
    for number, label in enumerate(check_texts("labels", labels)):
        if not label.strip():
            raise InputError(f"Label {number} is empty; leave it out.")
        if (first := seen.setdefault(label, number)) != number:
            raise InputError(f"Labels {first} and {number} are the same, {label!r}; leave one out.")
    for template in check_texts("templates", templates):
        if template.count("{}") != 1:
            raise InputError(f"A template needs one {{}} where the label goes, got {template!r}.")
    return [template.replace("{}", label) for label in labels for template in templates]


def tell_apart(name: str, texts: Sequence[str], processor: BlipProcessor) -> list[str]:
    """Return the texts without those that are the same to the model as an earlier one, such as "Yes" after "yes".

    Warns of what is left out. Raises `ValueError` for no texts, and for a text of which the model reads nothing.
    """
    first: dict[tuple[int, ...], str] = {}
    left_out = []
    texts = check_texts(name, texts)
    for text, ids in zip(texts, processor(text=texts)["input_ids"], strict=True):
        if len(ids) == 2:
            raise ValueError(f"{text!r} has no letter that the model reads; leave it out.")
        if first.setdefault(tuple(ids), text) != text:
            left_out.append((text, first[tuple(ids)]))
    if left_out:
        text, same = left_out[0]
        more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        warnings.warn(f"{text!r} is left out{more}: to the model it is the same as {same!r}.", stacklevel=3)
    return list(first.values())
