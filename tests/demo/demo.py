"""`make demo`: real pictures, captioned on your own machine, in a few minutes and without any download.

A BLIP of a quarter of a million weights learns the names of 96 emoji (tests/data/emoji), then `blip caption`
describes them in places, sizes and colors around them that it has not seen. The model stays in .demo/model:
`blip caption PICTURE --model .demo/model`. It knows these 96 things and nothing else.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTextConfig, BlipTokenizer, BlipVisionConfig
from blip_pt import BlipForConditionalGeneration

EMOJI = Path(__file__).parents[1] / "data" / "emoji"
DEMO = Path(".demo")
MODEL, PICTURES = DEMO / "model", DEMO / "pictures"
SIDE, STEPS, LEARNING_RATE, SHOWN = 64, 1600, 4e-3, 10
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]


def main() -> None:
    names = json.loads((EMOJI / "names.json").read_text())
    emoji = {file: Image.open(EMOJI / file).convert("RGBA") for file in names}
    if MODEL.exists():
        print(f"The model in {MODEL} is there already; delete it to train anew.")
    else:
        train(list(emoji.values()), [name["caption"] for name in names.values()])

    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    noise = random.Random("pictures that training does not see")
    for file, picture in emoji.items():
        placed(picture, noise).save(PICTURES / file)
    arguments = ["caption", str(PICTURES), "--model", str(MODEL), "--framework", "pt", "--json"]
    print(f"\n$ blip {' '.join(arguments)}\n")
    started = time.monotonic()
    command = [sys.executable, "-m", "blip_core.cli", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds = time.monotonic() - started

    captions = {entry["image"]: entry["caption"] for entry in map(json.loads, output.splitlines())}
    truth = {path: names[Path(path).name]["caption"] for path in captions}
    for path in noise.sample(sorted(captions), SHOWN):
        show(path, names[Path(path).name]["name"], captions[path], truth[path])
    right = sum(captions[path] == truth[path] for path in captions)
    print(f"\n{right} of all {len(names)} captions are exactly right ({seconds:.0f} s). The ones that are not:")
    for path in captions:
        if captions[path] != truth[path]:
            print(f"  {path}: {captions[path]!r} should be {truth[path]!r}")


def placed(picture: Image.Image, noise: random.Random) -> Image.Image:
    """The emoji at 60 to 100 % of its size somewhere on a background of some color: RGB, SIDE x SIDE pixels."""
    side = round(SIDE * noise.uniform(0.6, 1.0))
    small = picture.resize((side, side), Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (SIDE, SIDE), tuple(noise.randrange(256) for _ in range(3)))
    canvas.paste(small, (noise.randint(0, SIDE - side), noise.randint(0, SIDE - side)), small)
    return canvas


def train(pictures: list[Image.Image], captions: list[str]) -> None:
    """Train a captioner from random weights on pictures placed anew in every step, and save it whole."""
    folder = DEMO / "model.unfinished"
    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({word for caption in captions for word in caption.split()})
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + words) + "\n")
    processor = BlipProcessor(
        BlipImageProcessor(size={"height": SIDE, "width": SIDE}), BlipTokenizer.from_pretrained(folder)
    )
    sizes = {"hidden_size": 64, "num_attention_heads": 4}
    config = BlipConfig(
        text_config=BlipTextConfig(
            **sizes,
            vocab_size=len(SPECIAL + words),
            intermediate_size=128,
            num_hidden_layers=1,
            max_position_embeddings=32,
            bos_token_id=SPECIAL.index("[DEC]"),
            sep_token_id=SPECIAL.index("[SEP]"),
        ),
        vision_config=BlipVisionConfig.base(**sizes, intermediate_size=256, num_hidden_layers=3, image_size=SIDE),
    )
    torch.manual_seed(0)
    noise = random.Random(0)
    model = BlipForConditionalGeneration(config)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.05)
    texts = processor(text=captions, padding=True, return_tensors="pt", return_labels=True)
    print(f"A BLIP of {model.num_parameters():,} weights learns {len(captions)} captions, {STEPS} times each:")
    for _ in (bar := tqdm(range(STEPS), unit="step", mininterval=0.5 if sys.stderr.isatty() else 20)):
        views = processor(images=[placed(picture, noise) for picture in pictures], return_tensors="pt")
        loss = model(**views, **texts).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    folder.rename(MODEL)  # only now: what is in MODEL is always complete


def show(path: str, name: str, caption: str, truth: str) -> None:
    """Print one picture: its file, its name in Unicode and its caption; on terminals of many colors, the picture."""
    verdict = "right" if caption == truth else f"WRONG, it is {truth!r}"
    lines = [path, f"  Unicode name: {name}", f"  caption:      {caption}   ({verdict})"]
    if not (sys.stdout.isatty() and os.environ.get("COLORTERM") in ("truecolor", "24bit")):
        print("\n".join(lines))
        return
    pixels = Image.open(path).convert("RGB").resize((16, 16), Image.Resampling.BOX).load()
    for row in range(8):  # a half block shows two pixels: one as its own color, one as what is behind it
        cells = ((*pixels[x, 2 * row], *pixels[x, 2 * row + 1]) for x in range(16))
        picture = "".join("\x1b[38;2;{};{};{};48;2;{};{};{}m▀".format(*cell) for cell in cells)
        print(f"{picture}\x1b[0m  {lines[row - 2] if 2 <= row < 5 else ''}")
    print()


if __name__ == "__main__":
    main()
