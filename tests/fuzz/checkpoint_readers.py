"""Damages checkpoint files at random and opens them with every reader.

    python -m tests.fuzz.checkpoint_readers [--mutations 10000] [--seed 0] [--keep FOLDER]

Each damaged file must either give the true values or raise `ValueError` or `OSError`: no other exception, no crash,
no hang, no gigabytes of memory, no code of the file's run, nothing written. Files are opened in worker processes that
are replaced when one dies or takes too long; their memory is limited, so that a claim of a huge size shows.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import pickle
import random
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blip_core.checkpoints.saved_model import DATA, INDEX

SAVED_MODEL = Path(__file__).parents[1] / "data" / "saved_model"
"""The variables of an exported BlipVisionModel; the graph is left out, which is not read."""

SECONDS = 60
MEMORY = 1_500_000_000
"""What a reader may take in addition to what the worker holds with its libraries loaded."""


def flip(data: bytearray, rng: random.Random) -> None:
    """Change some bytes, more often near the beginning and the end, where headers and directories are."""
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        place = rng.choice((rng.random(), rng.random() ** 4, 1 - rng.random() ** 4))
        at = min(int(place * len(data)), len(data) - 1)
        data[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256), data[at] ^ 1 << rng.randrange(8)))


def truncate(data: bytearray, rng: random.Random) -> None:
    """Cut off the end, or put something behind it."""
    if rng.random() < 0.8:
        del data[rng.randrange(len(data)) :]
    else:
        data += rng.randbytes(rng.randrange(1, 5000))


def integers(data: bytearray, rng: random.Random) -> None:
    """Replace a number by a huge, negative or slightly wrong one: lengths, counts, offsets."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        size, code = rng.choice(((4, "<I"), (8, "<Q")))
        at = int(rng.random() ** rng.choice((1, 5)) * (len(data) - size))
        (value,) = struct.unpack_from(code, data, at)
        value = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), value + 1, value - 1, value * 2, 1 << 40))
        struct.pack_into(code, data, at, value % 2 ** (8 * size))


def shuffle(data: bytearray, rng: random.Random) -> None:
    """Copy, zero or drop a stretch of bytes."""
    begin, length = rng.randrange(len(data)), rng.choice((1, 8, 64, 512, 4096))
    other = rng.randrange(len(data))
    piece = data[begin : begin + length]
    how = rng.randrange(3)
    data[other : other + (len(piece) if how < 2 else 0)] = bytes(len(piece)) if how == 1 else piece


def header(data: bytearray, rng: random.Random) -> None:
    """Change the header of a safetensors file in a way that is still JSON: offsets, overlaps, shapes, types, names."""
    (length,) = struct.unpack_from("<Q", data)
    if length > len(data):
        return
    entries = json.loads(bytes(data[8 : 8 + length]))
    names = [name for name in entries if name != "__metadata__"]
    for _ in range(rng.choice((1, 1, 2, 5))):
        entry = entries.get(rng.choice(names))
        if not isinstance(entry, dict):
            continue
        change = rng.randrange(6)
        huge = rng.choice((-1, 0, 2**31, 2**63, 2**64, 10**30, 1.5, None, "4", []))
        if change == 0:
            entry["data_offsets"] = [rng.choice((huge, rng.randrange(len(data)))), rng.choice((huge, len(data)))]
        elif change == 1:
            entry["data_offsets"] = entries[rng.choice(names)].get("data_offsets", huge)
        elif change == 2:
            entry["shape"] = rng.choice(([huge], [huge, huge], [2**32, 2**32], huge, [3, 4, 5]))
        elif change == 3:
            entry["dtype"] = rng.choice(("F64", "I8", "BF16", "F8_E4M3", "X", 7, None))
        elif change == 4:
            entries[rng.choice((rng.choice(names), "../../etc/passwd", "", "x" * 10000))] = dict(entry)
        else:
            entry.pop(rng.choice(list(entry) or [""]), None)
    text = json.dumps(entries).encode()
    data[: 8 + length] = struct.pack("<Q", len(text)) + text


class Attack:
    """What a hostile pickle asks for."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def hostile_pickle(data: bytearray, rng: random.Random) -> None:
    """Replace or extend the pickle of a PyTorch file by one that runs code, claims sizes or nests without end."""
    source = zipfile.ZipFile(io.BytesIO(bytes(data)))
    name = next(name for name in source.namelist() if name.endswith("data.pkl"))
    old = source.read(name)
    canary = os.environ["FUZZ_CANARY"]
    deep: Any = ()
    for _ in range(60):
        deep = (deep, deep)
    evil = rng.choice(
        (
            pickle.dumps({"a": Attack(os.system, f"touch {canary}")}, 2),
            pickle.dumps(Attack(open, canary, "w"), 2),
            b"\x80\x02}" + pickle.dumps(deep, 2)[2:-1] + b"K\x01s.",  # as a key, it takes 2 ** 60 steps to hash
            b"\x80\x02" + b"(" * rng.choice((10, 10**6)) + b".",
            b"\x80\x04\x8e" + struct.pack("<Q", 2**50) + b"x.",
            b"\x80\x02}r\xff\xff\xff\xff.",
            old[: rng.randrange(len(old))] + pickle.dumps(Attack(exec, f"open({canary!r}, 'w')"), 2)[2:],
            old.replace(b"FloatStorage", rng.choice((b"LongStorage", b"DoubleStorage", b"load", b"Tensor"))),
            old.replace(
                b"_rebuild_tensor_v2",
                rng.choice((b"_rebuild_qtensor", b"_rebuild_sparse_tensor", b"_import_dotted_name")),
            ),
            old.replace(b"K\x10", rng.choice((b"K\xff", b"K\x00", b"J\xff\xff\xff\x7f"))),
        )
    )
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as new:
        for record in source.namelist():
            new.writestr(record, evil if record == name else source.read(record))
    data[:] = target.getvalue()


GENERAL = (flip, truncate, integers, shuffle)
SPECIAL = {".safetensors": header, ".pth": hostile_pickle, ".bin": hostile_pickle}


def mutate(seed: int, sources: list[Path], folder: Path) -> Path:
    """Write the damaged checkpoint of this seed into a folder; it replaces the last one of its kind."""
    rng = random.Random(seed)
    source = rng.choice(sources)
    path = folder / source.name
    if source.is_dir():  # a SavedModel, of which only the variables are read
        shutil.copytree(source, path, dirs_exist_ok=True)
        part = rng.choice((INDEX, INDEX, INDEX, DATA))
        source, file = source / part, path / part
    else:
        file = path
    data = bytearray(source.read_bytes())
    kinds = [*GENERAL, *[SPECIAL[source.suffix]] * 2] if source.suffix in SPECIAL else list(GENERAL)
    rng.choice(kinds)(data, rng)
    file.write_bytes(data)
    return path


def worker(connection: Any, truths: dict[str, str]) -> None:
    """Open files until told to stop; says for each what came out."""
    import resource

    import torch  # noqa: F401  # loaded before the limit on memory is set

    from blip_core.checkpoints import keras_hdf5, open_checkpoint, torch_reader  # noqa: F401
    from conversion.verification import same

    warnings.simplefilter("ignore")
    true = {name: open_checkpoint(path) for name, path in truths.items()}
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    while path := connection.recv():
        expected = true[Path(path).name]
        try:
            found = open_checkpoint(path)
            values = {name: found[name] for name in found}
            right = all(found.shapes[name] == value.shape for name, value in values.items())
            exact = values.keys() == expected.keys() and all(same(values[n], expected[n]) for n in values)
            connection.send("true" if right and exact else "other values" if right else "WRONG SHAPES")
        except (ValueError, OSError) as error:
            connection.send("refused" if len(str(error)) < 2000 else "LONG MESSAGE")
        except BaseException as error:
            connection.send(f"{type(error).__name__}: {error}"[:200])


def fuzz(mutations: int, seed: int, sources: list[Path], folder: Path) -> tuple[Counter[str], list[str]]:
    """Open so many damaged files; returns what came out how often, and descriptions of everything that must not be."""
    canary = folder / "canary"
    os.environ["FUZZ_CANARY"] = str(canary)
    truths = {source.name: str(source) for source in sources}
    context = multiprocessing.get_context("spawn")
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    process, connection = None, None
    work = folder / "work"
    work.mkdir()
    for number in range(seed, seed + mutations):
        if process is None:
            connection, theirs = context.Pipe()
            process = context.Process(target=worker, args=(theirs, truths), daemon=True)
            process.start()
            theirs.close()
        path = mutate(number, sources, work)
        before = sorted(work.rglob("*"))
        try:
            connection.send(str(path))
            outcome = connection.recv() if connection.poll(SECONDS) else "HANG"
        except (EOFError, OSError):
            outcome = "CRASH"
        if outcome in ("HANG", "CRASH"):
            process.kill()
            process = None
        kind = outcome if outcome in ("true", "refused", "other values") else "FAILED"
        outcomes[f"{path.name}: {kind}"] += 1
        if kind == "FAILED":
            failures.append(f"seed {number}, {path.name}: {outcome}")
        if canary.exists() or sorted(work.rglob("*")) != before:
            failures.append(f"seed {number}, {path.name}: wrote a file")
            canary.unlink(missing_ok=True)
    if process is not None:
        connection.send(None)
        process.join(SECONDS)
    return outcomes, failures


def main() -> int:
    """Fuzz and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes, failures = fuzz(args.mutations, args.seed, make_sources(Path(folder)), Path(folder))
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:7} {outcome}")
    print("\n".join(failures) or "nothing that must not be")
    return 1 if failures else 0


def make_sources(folder: Path) -> list[Path]:
    """One whole little checkpoint of each format, and one of Keras that holds the state of training."""
    from conversion import convert
    from tests.helpers.checkpoint_files import ATTENTION_HEADS, ORIGINAL, random_checkpoint

    random_checkpoint(folder / "model", "BlipForConditionalGeneration")
    sources = [folder / "model" / "model.safetensors", folder / "model.pth"]
    convert(folder / "model", folder / "model.pth")
    for to in ("pytorch_model.bin", "tf_model.h5", "weights.h5"):
        convert(folder / "model", folder / to, to)
        sources.append(next(path for path in (folder / to).iterdir() if path.name.endswith(to)))
    convert(ORIGINAL / "pretrain.pth", folder / "pretrain", "weights.h5", config=ATTENTION_HEADS)
    training = (folder / "pretrain" / "model.weights.h5").rename(folder / "pretrain" / "training.weights.h5")
    return [*sources, training, SAVED_MODEL]


if __name__ == "__main__":
    sys.exit(main())
