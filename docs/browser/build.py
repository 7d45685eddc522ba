"""Put the page of this folder together with what it runs: ONNX Runtime from npm, the model in the package, pictures.

    python -m docs.browser.build FOLDER

FOLDER is then all that a static web server needs. Needs npm, and the extras `pt` and `onnx`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from blip_core.hub import SHIPPED
from conversion import convert

HERE = Path(__file__).parent
RUNTIME = "onnxruntime-web@1.30.0"
FILES = {
    "ort.js": "package/dist/ort.wasm.min.mjs",
    "ort-wasm.js": "package/dist/ort-wasm-simd-threaded.mjs",
    "ort-wasm.wasm": "package/dist/ort-wasm-simd-threaded.wasm",
}
"""What the page takes of the package; the names are such that any server gives them a type that browsers accept."""
PICTURES = ("1f98a", "1f353", "1f680", "1f419", "1f3b8")
MODELS = {
    "model": ("BlipForPreTraining", ""),
    "answers": ("BlipForQuestionAnswering", "questions.safetensors.index.json"),
}
"""The folders of the page: the class of each, and which file of the model in the package it is made of."""


def main() -> None:
    """Write everything, what is there already being replaced."""
    parser = argparse.ArgumentParser(description="Build the page that runs BLIP in a browser.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write the page")
    folder = parser.parse_args().folder
    copy_page(folder)
    fetch_runtime(folder / "runtime")
    export_models(folder)
    print(f"python -m http.server --directory {folder}    # then open http://localhost:8000")


def copy_page(folder: Path) -> None:
    """Copy the page itself and its example pictures."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for pattern in ("*.html", "*.css", "*.js", "*.svg"):
        for path in HERE.glob(pattern):
            shutil.copyfile(path, folder / path.name)
    for name in PICTURES:
        shutil.copyfile(HERE.parents[1] / f"tests/data/emoji/{name}.png", folder / f"pictures/{name}.png")


def fetch_runtime(folder: Path) -> None:
    """Take ONNX Runtime from its npm package, which npm checks against the registry's hash."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run(["npm", "pack", "--silent", RUNTIME], cwd=temporary, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(temporary).glob("*.tgz"))) as archive:
            for name, member in FILES.items():
                found = archive.extractfile(member)
                assert found is not None
                (folder / name).write_bytes(found.read())


def export_models(folder: Path, dtype: str = "float16") -> None:
    """Export the model in the package and the one for answers."""
    for name, (head, file) in MODELS.items():
        convert(SHIPPED / file, folder / name, to="onnx", dtype=dtype, head=head, overwrite=True)
        shutil.copyfile(SHIPPED / "generation_config.json", folder / name / "generation_config.json")


if __name__ == "__main__":
    main()
