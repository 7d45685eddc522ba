"""What the shipped model is trained and tested on, made of the drawings.

    python -m docs.examples.shipped.prepare FOLDER

writes beside FOLDER/drawings, which `docs.examples.shipped.drawings` makes:

    pretrain.json, vqa.json              pictures of all styles but Noto
    held_out.json, held_out_vqa.json     pictures of Noto
    new/config.json, vocab.txt ...       the model before training, and its processor
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import BertWordPieceTokenizer

from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTextConfig, BlipTokenizer, BlipVisionConfig
from blip_core.datasets import clean_caption
from blip_core.files import atomic_path, read_json, write_json
from docs.examples.shipped import run
from docs.examples.shipped.drawings import HELD_OUT, STYLES

IMAGE_SIZE, PATCH, WIDTH, HEAD_WIDTH, LAYERS, VOCABULARY = 64, 8, 192, 64, (6, 3), 2500
COLOURS = {
    "red": (210, 40, 45), "orange": (245, 145, 40), "yellow": (252, 210, 70), "green": (80, 165, 75),
    "blue": (50, 130, 215), "purple": (140, 90, 190), "pink": (245, 140, 180), "brown": (140, 90, 60),
    "black": (35, 35, 40), "white": (245, 245, 245), "gray": (140, 145, 150),
}  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")


def main(folder: Path) -> None:
    """Write the data sets and the new model."""
    names = read_json(folder / "names.json")
    learned = [style for style in STYLES if style != HELD_OUT]
    texts = [text for entry in names.values() for text in (entry["name"], entry["group"])]
    for styles, captions_file, questions_file in (
        (learned, "pretrain.json", "vqa.json"),
        ([HELD_OUT], "held_out.json", "held_out_vqa.json"),
    ):
        pictures = list(drawings(folder, styles, names))
        captions = [
            {"image": path, "caption": names[code]["name"], "image_id": clean_caption(names[code]["name"])}
            for path, code in pictures
            if clean_caption(names[code]["name"])  # that of the asterisk's key is a sign alone
        ]
        questions = [
            {
                "image": path,
                "question": question,
                "answer": [answer],
                "question_id": f"{path} {question}",
                "dataset": "vqa",
            }
            for path, code in pictures
            for question, answer in asked(folder / path, names[code]).items()
        ]
        texts += {entry["question"] for entry in questions}
        write_json(folder / captions_file, captions)
        write_json(folder / questions_file, questions)
        print(f"{captions_file}: {len(captions)} pictures, {len(questions)} questions")
    write_model(folder / "new", texts)


def drawings(folder: Path, styles: Sequence[str], names: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The path, relative to the folder, and the code of every drawing of some styles.

    Fluent's flags in three dimensions are Noto's, and left out.
    """
    for style in styles:
        for path in sorted((folder / "drawings" / style).glob("*.png")):
            if not (style == "fluent-3d" and names[path.stem]["country"]):
                yield str(path.relative_to(folder)), path.stem


def asked(path: Path, entry: dict[str, Any]) -> dict[str, str]:
    """The questions about a drawing and their answers."""
    answers = {"what group is it of?": entry["group"], "what color is it mostly?": main_colour(path)}
    if entry["country"]:
        answers["what country has this flag?"] = entry["country"]
    else:
        answers["what is it?"] = entry["name"]
    return {question: clean_caption(answer) for question, answer in answers.items() if answer}


def main_colour(path: Path) -> str | None:
    """The colour of half of a drawing or more, and None where there is no such."""
    pixels = np.asarray(Image.open(path).resize((24, 24), Image.Resampling.BOX)).reshape(-1, 4)
    pixels = pixels[pixels[:, 3] > 128, :3].astype(np.float32)
    distances = np.square(pixels[:, None] - np.array(list(COLOURS.values()), np.float32)).sum(-1)
    (nearest, count), *_ = Counter(distances.argmin(1).tolist()).most_common(1) or [(0, 0)]
    return list(COLOURS)[nearest] if count >= len(pixels) / 2 else None


def write_model(folder: Path, texts: Sequence[str], width: int = WIDTH, layers: tuple[int, int] = LAYERS) -> None:
    """Write a vocabulary learned from the texts, the processor's files and, last, a configuration.

    `layers` are those of the vision encoder and of the texts.
    """
    folder.mkdir(exist_ok=True)
    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator(
        [clean_caption(text) for text in texts], VOCABULARY, 1, special_tokens=list(SPECIAL), show_progress=False
    )
    with atomic_path(folder / "vocab.txt") as temporary:
        order = sorted(words.get_vocab().items(), key=lambda item: item[1])
        temporary.write_text("".join(f"{word}\n" for word, _ in order), encoding="utf-8")
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    BlipProcessor(BlipImageProcessor(size=size), BlipTokenizer.from_pretrained(folder)).save_pretrained(folder)
    own = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // HEAD_WIDTH}
    ids = {
        f"{name}_token_id": SPECIAL.index(f"[{token}]")
        for name, token in (("bos", "DEC"), ("sep", "SEP"), ("pad", "PAD"))
    }
    text = BlipTextConfig(
        vocab_size=len(order), num_hidden_layers=layers[1], max_position_embeddings=64, label_smoothing=0.1,
        initializer_range=0.05, encoder_hidden_size=width, **ids, **own,
    )  # fmt: skip
    vision = BlipVisionConfig(
        num_hidden_layers=layers[0], image_size=IMAGE_SIZE, patch_size=PATCH, initializer_range=0.05,
        layer_norm_eps=1e-6, **own,
    )  # fmt: skip
    config = BlipConfig.from_text_vision_configs(
        text, vision, image_text_hidden_size=width, enc_token_id=SPECIAL.index("[ENC]"), queue_size=1
    )
    config.save_pretrained(folder)


if __name__ == "__main__":
    run(main)
