"""COCO's captions, NoCaps and RefCOCO, which have the same form, and Karpathy's splits of COCO and Flickr."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from blip_core.datasets.look import Item, Look, each, field, numbered


def is_coco(look: Look) -> bool:
    """One object with `images` that have an `id` and a `file_name`; `annotations` lack in files for testing."""
    first = look.first_of("images")
    return {"id", "file_name"} <= first.keys() and "open_images_id" not in first and "caption" not in first


def is_nocaps(look: Look) -> bool:
    """As COCO, with the pictures' names in Open Images."""
    return {"id", "open_images_id"} <= look.first_of("images").keys()


def read_coco(look: Look) -> Iterator[Item]:
    """Yield an entry for each caption, in the file's order, and one for each picture without any."""
    images: dict[int | str, dict[str, Any]] = {}
    for place, image in numbered(look.list_of("images") or []):
        try:
            number = field(image, "id", int, str)
            if number in images and images[number].get("file_name") != image.get("file_name"):
                raise ValueError(f"the picture {number} is there twice, with other names")
            images[number] = image
        except ValueError as error:
            yield f"images.{place}", str(error)
    annotations = look.list_of("annotations") or []
    if annotations and "caption" not in look.first_of("annotations"):
        raise ValueError(f"{look.path} has annotations without captions; take the file of COCO's captions.")
    without = dict(images)

    def make(annotation: Any) -> dict[str, Any]:
        number = field(annotation, "image_id", int, str)
        without.pop(number, None)
        if number not in images:
            raise ValueError(f"names the picture {number}, which the file does not list")
        return {**_image(images[number]), "caption": annotation.get("caption")}

    yield from each(numbered(annotations), make)
    yield from each(((f"images.{number}", image) for number, image in without.items()), _image)


def _image(image: dict[str, Any]) -> dict[str, Any]:
    names = [image.get("file_name"), f"{image['open_images_id']}.jpg" if "open_images_id" in image else None]
    given = tuple(name for name in names if isinstance(name, str) and name)
    return {"image": given, "image_id": image["id"], "dataset": "coco", "domain": image.get("domain")}


read_nocaps = read_coco


def is_refcoco(look: Look) -> bool:
    """RefCOCO, RefCOCO+ and RefCOCOg as MDETR publishes them: as COCO, one expression a picture as its `caption`."""
    return {"id", "file_name", "caption"} <= look.first_of("images").keys()


def read_refcoco(look: Look) -> Iterator[Item]:
    """Yield an entry for each expression, with the box of its annotation."""
    annotations = look.list_of("annotations") or []
    boxes = {entry.get("image_id"): entry.get("bbox") for entry in annotations if isinstance(entry, dict)}

    def make(image: Any) -> dict[str, Any]:
        name, text = field(image, "file_name", str), field(image, "caption", str)
        identity = image.get("original_id", image.get("id"))
        return {"image": (name,), "image_id": identity, "text": text, "box": boxes.get(image["id"]), "dataset": "coco"}

    return each(numbered(look.list_of("images") or []), make)


def is_karpathy(look: Look) -> bool:
    """One object with `images` that have `sentences` and a `split`."""
    return {"filename", "sentences", "split"} <= look.first_of("images").keys()


def read_karpathy(look: Look) -> Iterator[Item]:
    """Yield an entry for each sentence of each picture."""
    return each(numbered(look.list_of("images") or []), _sentences)


def _sentences(image: Any) -> list[dict[str, Any]]:
    name, folder = field(image, "filename", str), image.get("filepath")
    names = (f"{folder}/{name}", name) if isinstance(folder, str) and folder else (name,)
    number = image.get("cocoid", image.get("imgid"))
    fields = {"image": names, "image_id": number, "split": image.get("split"), "dataset": "coco"}
    return [{**fields, "caption": field(sentence, "raw", str)} for sentence in field(image, "sentences", list)]
