"""Data files as nobody would wish them: entries of wrong types, paths that lead outside, damaged bytes."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import tarfile
from pathlib import Path
from typing import Any

from tests.fuzz.checkpoint_readers import flip, integers, shuffle, truncate
from tests.fuzz.hostile_folders import bad_bytes, picture_bytes

DATA_KINDS = ("json", "jsonl", "csv", "parquet", "tar")
DAMAGES = (flip, truncate, integers, shuffle)


def make_data(kind: str, case: Path, rng: random.Random) -> tuple[Path, dict[str, list[str]] | None]:
    """Write a data file of a kind; returns it and the texts of its good and places of its bad entries.

    Of a file whose bytes are damaged nothing is known: None.
    """
    inside = case / "in"
    for number in range(3):
        (inside / f"good{number}.png").write_bytes(picture_bytes(rng))
    (inside / "bad.png").write_bytes(bad_bytes(rng))
    os.mkfifo(inside / "pipe.png")
    (inside / "folder.png").mkdir()
    (inside / "zero.png").symlink_to("/dev/zero")
    (case / "beside" / "secret.png").write_bytes(picture_bytes(rng))
    rows = [({"image": f"good{number}.png", "caption": f"text {number}"}, True) for number in range(3)]
    rows += [(_bad_entry(case, rng), False) for _ in range(rng.randrange(4))]
    rng.shuffle(rows)
    path = inside / f"data.{kind}"
    expected = _WRITERS[kind](path, rows, rng)
    if rng.random() < 0.5:
        data = bytearray(path.read_bytes())
        for _ in range(rng.choice((1, 1, 3))):
            if len(data) > 16:
                rng.choice(DAMAGES)(data, rng)
        path.write_bytes(data)
        return path, None
    return path, expected


def _bad_entry(case: Path, rng: random.Random) -> Any:
    """An entry that cannot be used."""
    image = rng.choice((
        "missing.png", "../beside/secret.png", "/etc/passwd", "bad.png", "pipe.png", "folder.png", "zero.png", "",
        "a\0b", "x" * 5000, "..", "~/x.png", "http://127.0.0.1:9/x.png", "data:image/png;base64,AAAA",
    ))  # fmt: skip
    values = (None, [], 7, -1e400, {}, [["a"]], [None], True, "\ud800", "", "\x00", 10**400, {"a": [1] * 50})
    deep: Any = 1
    for _ in range(600):
        deep = [deep]
    return rng.choice((
        {"image": image, "caption": "bad"}, {"image": rng.choice(values[:7]), "caption": "bad"}, {"caption": "bad"},
        {"image": "good0.png", "caption": rng.choice(values[2:11])}, 7, None, "text", [1], {},
        {"image": deep, "caption": "bad"}, {"image": "good0.png", "caption": deep},
        {"image": "good0.png", "caption": "a", "image_id": [1]},
        {"images": ["good0.png"] * 3, "caption": "bad"}, {"image": "good0.png", "caption": ["fine", 7]},
    ))  # fmt: skip


def _json(path: Path, rows: list[tuple[Any, bool]], rng: random.Random) -> dict[str, list[str]]:
    path.write_text(json.dumps([entry for entry, _ in rows]))
    return _outcome(path, rows, 0)


def _json_lines(path: Path, rows: list[tuple[Any, bool]], rng: random.Random) -> dict[str, list[str]]:
    texts = [(json.dumps(entry), good) for entry, good in rows]
    strange = (
        "{",
        "[" * 100_000,
        '{"image": ' + "9" * 5000 + "}",
        '"' + "x" * 2**20 + '"',
        "\udcff\udcfe",
        "NaN",
        '{"a":1',
    )
    texts += [(rng.choice(strange), False) for _ in range(rng.randrange(3))]
    path.write_bytes("\n".join(text for text, _ in texts).encode("utf-8", "surrogateescape"))
    return _outcome(path, [(json.loads(text) if good else text, good) for text, good in texts], 1)


def _outcome(path: Path, rows: list[tuple[Any, bool]], first: int) -> dict[str, list[str]]:
    return {
        "good": [entry["caption"] for entry, good in rows if good],
        "bad": [f"{path.name}:{number}:" for number, (_, good) in enumerate(rows, first) if not good],
    }


def _csv(path: Path, rows: list[tuple[Any, bool]], rng: random.Random) -> dict[str, list[str]]:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["image", "caption"])
    for entry, good in rows:
        writer.writerow([entry["image"], entry["caption"]] if good else rng.choice((
            ["missing.png", "bad"], ["good0.png"], ["good0.png", "bad", "more"], ["../beside/secret.png", "bad"],
            ["good0.png", "\udcff"], ["pipe.png", "bad"], ["zero.png", "bad"], ["folder.png", "bad"],
            ["x" * 200_000, "a"],
        )))  # fmt: skip
    path.write_bytes(file.getvalue().encode("utf-8", "surrogateescape"))
    return _outcome(path, rows, 2)


def _parquet(path: Path, rows: list[tuple[Any, bool]], rng: random.Random) -> dict[str, list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = [entry["caption"] for entry, is_good in rows if is_good]
    data = [picture_bytes(rng) if is_good else bad_bytes(rng) for _, is_good in rows]
    texts = [entry["caption"] if is_good else rng.choice((None, "bad", "")) for entry, is_good in rows]
    pictures = [{"bytes": one, "path": rng.choice((None, "../x.png"))} for one in data]
    column = rng.choice((pictures, data))
    table = pa.table({"image": column, "caption": texts, "label": [rng.randrange(9) for _ in rows]})
    pq.write_table(
        table, path, row_group_size=rng.choice((1, 2, 100)), compression=rng.choice(("snappy", "zstd", "none"))
    )
    return {"good": good, "bad": []}


def _tar(path: Path, rows: list[tuple[Any, bool]], rng: random.Random) -> dict[str, list[str]]:
    good, bad = [], []
    with tarfile.open(
        path, "w", format=rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT))
    ) as tar:
        for number, (entry, is_good) in enumerate(rows):
            name = f"{number}" if is_good else rng.choice((f"../{number}", f"/abs/{number}", f"d/{'y' * 60}/{number}"))
            text = entry["caption"] if is_good else "bad"
            _add(tar, f"{name}.png", picture_bytes(rng) if is_good else bad_bytes(rng))
            _add(tar, f"{name}.txt", text.encode())
            (good if is_good else bad).append(text if is_good else f":{name}")
            if rng.random() < 0.3:
                member = tarfile.TarInfo(f"odd{number}.png")
                member.type = rng.choice(
                    (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
                )
                member.linkname = "/etc/passwd"
                tar.addfile(member)
    return {"good": good, "bad": []}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


_WRITERS = {"json": _json, "jsonl": _json_lines, "csv": _csv, "parquet": _parquet, "tar": _tar}
