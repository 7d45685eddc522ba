"""The drawings that the shipped model learns from: emoji in several styles, with their names, from npm packages.

    python -m docs.examples.shipped.drawings FOLDER

fetches the packages with `npm pack` into FOLDER/packages, draws everything as RGBA PNG of 96 pixels into
FOLDER/drawings/STYLE/CODE.png, and writes FOLDER/names.json. What is there already is left alone. Needs npm, and
`pip install resvg-py` for the styles that come as SVG.

Noto is the style that no training sees. Its first version, of the same hand, is left out altogether.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from blip_core.files import atomic_path, write_json
from docs.examples.shipped import run

SIDE = 96
HELD_OUT = "noto"
NAMES = "emojibase-data@17.0.0"
STYLES = {
    "twemoji": "@iconify-json/twemoji@1.2.5",  # Twitter, CC-BY 4.0
    "openmoji": "@iconify-json/openmoji@1.2.29",  # HfG Schwäbisch Gmünd, CC-BY-SA 4.0
    "fluent-flat": "@iconify-json/fluent-emoji-flat@1.2.6",  # Microsoft, MIT
    "fluent": "@iconify-json/fluent-emoji@1.2.7",  # Microsoft, MIT
    "fluent-3d": "@lobehub/fluent-emoji-3d@1.1.0",  # Microsoft, MIT
    "emojione": "@iconify-json/emojione@1.2.3",  # JoyPixels, CC-BY 4.0
    "emojione-v1": "@iconify-json/emojione-v1@1.2.3",  # JoyPixels, CC-BY-SA 4.0
    "fxemoji": "@iconify-json/fxemoji@1.2.2",  # Mozilla, Apache 2.0
    HELD_OUT: "emoji-datasource-google@16.0.0",  # Google, Apache 2.0
}
COMPONENT = 2  # emojibase's group of parts that are no emoji of their own, such as skin tones


def main(folder: Path) -> None:
    """Fetch, draw, and write the names."""
    names = read_names(fetch(NAMES, folder / "packages"))
    for style, package in STYLES.items():
        archive = fetch(package, folder / "packages")
        target = folder / "drawings" / style
        target.mkdir(parents=True, exist_ok=True)
        for code, draw in drawings(archive, names):
            path = target / f"{code}.png"
            if not path.exists():
                with atomic_path(path) as temporary:
                    square(draw()).save(temporary, format="PNG")
        print(f"{style}: {len(list(target.glob('*.png')))} drawings of {len(names)} names", flush=True)
    write_json(folder / "names.json", names)


def fetch(package: str, folder: Path) -> Path:
    """The archive of an npm package, which npm checks against the registry's hash."""
    folder.mkdir(parents=True, exist_ok=True)
    name, _, version = package.rpartition("@")
    archive = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return archive


def members(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """The files of an archive whose whole path matches, with what the first group of the pattern matched."""
    with tarfile.open(archive) as file:
        for member in file:
            match = re.fullmatch(f"package/{pattern}", member.name)
            data = file.extractfile(member) if match and member.isfile() else None
            if match and data is not None:
                yield match[1], data.read()


def member(archive: Path, path: str) -> Any:
    """A JSON file of an archive; an empty dictionary where it is not there."""
    return next((json.loads(data) for _, data in members(archive, f"({re.escape(path)})")), {})


def read_names(archive: Path) -> dict[str, dict[str, Any]]:
    """For each emoji without skin tone, by its code: name, keywords, group and, of flags, the country."""
    groups = {group["order"]: group["message"] for group in member(archive, "en/messages.json")["groups"]}
    names = {}
    for entry in member(archive, "en/data.json"):
        if entry.get("group", COMPONENT) == COMPONENT:
            continue
        kind, _, country = entry["label"].partition(": ")
        names[plain(entry["hexcode"])] = {
            "name": entry["label"],
            "keywords": entry.get("tags", []),
            "group": groups[entry["group"]],
            "country": country if kind == "flag" else None,
        }
    return names


def plain(code: str) -> str:
    """A code such as 263A-FE0F in lower case and without the mark that asks for a coloured drawing."""
    return code.lower().replace("-fe0f", "")


def slug(name: str) -> str:
    """A name as icon sets spell it, whose hyphens differ from set to set: letters and digits alone."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("&", "and"))


def drawings(archive: Path, names: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Image.Image]]]:
    """The code of each emoji that an archive has, and a function that draws it."""
    found: dict[str, Callable[[], Image.Image]] = {}
    for code, data in members(archive, r"(?:assets|img/google/64)/(.+)\.(?:webp|png)"):
        found.setdefault(plain(code), lambda data=data: Image.open(io.BytesIO(data)))
    icons = member(archive, "icons.json")
    if icons:
        by_slug = {slug(entry["name"]): code for code, entry in names.items()}
        codes = member(archive, "chars.json") or {}
        named = {name: plain(code) for code, name in codes.items()}
        aliases = {name: alias["parent"] for name, alias in icons.get("aliases", {}).items()}
        for name in [*icons["icons"], *aliases]:
            code = named.get(name) or by_slug.get(slug(name))
            body = icons["icons"].get(aliases.get(name, name))
            if code and body:
                found.setdefault(code, lambda body=body: draw_svg(body, icons))
    yield from ((code, draw) for code, draw in found.items() if code in names)


def draw_svg(icon: dict[str, Any], icons: dict[str, Any]) -> Image.Image:
    """An icon of an iconify set, drawn with its longer side of `SIDE` pixels."""
    import resvg_py

    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    return Image.open(
        io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, **{"width" if width >= height else "height": SIDE})))
    )


def square(picture: Image.Image) -> Image.Image:
    """A drawing cut to what is not transparent, and put in the middle of a square of `SIDE` pixels."""
    picture = picture.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox())
    scale = SIDE / max(picture.size)
    picture = picture.resize([max(round(side * scale), 1) for side in picture.size], Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (SIDE, SIDE))
    canvas.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return canvas


if __name__ == "__main__":
    run(main)
