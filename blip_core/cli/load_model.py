"""Loading the model that the arguments name, with errors in the words of the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from blip_core.engines import Engine, get_engine
from blip_core.hub import or_shipped, resolve_folder
from blip_core.inference.loaded_model import LoadedModel
from blip_core.parameters.heads import HEADS

Model = TypeVar("Model", bound=LoadedModel)


def load(kind: type[Model], args: argparse.Namespace, option: str = "model", **over: Any) -> Model:
    """Load a model and its processor; `option` is the one that names it, `over` are more keywords of `from_pretrained`.

    Raises `ValueError` or `OSError` where that fails; a name that leads nowhere is told before a framework is imported.
    """
    name, engine = getattr(args, option), get_engine(args.engine)
    if name is None:
        name = shipped(kind.head)
    else:
        resolve_folder(name, revision=args.revision, patterns=["config.json"])
    import_quietly(engine)
    if args.device:
        try:
            engine.check_device(args.device)
        except ValueError as error:
            raise ValueError(f"--device {args.device} does not work: {error}") from None
    try:
        how = {key: getattr(args, key) for key in ("device", "dtype", "revision", "background", "fast_decode")}
        loaded = kind.from_pretrained(name, engine=engine.name, **how, **over)
    except ValueError as error:
        ours = str(error).replace(f"The model does not fit a {kind.__name__}", f"--{option} does not fit this command")
        raise ValueError(ours) from None
    if args.optimize:
        optimize(loaded)
    return loaded


def optimize(loaded: LoadedModel) -> None:
    """Optimize a model. Raises `ValueError` where its engine has nothing to choose."""
    if not hasattr(loaded.model, "optimize"):
        raise ValueError(f"--optimize is for --engine pt; {loaded.engine.title} has nothing to choose.")
    loaded.model.optimize()


def load_head(head: str, args: argparse.Namespace, **over: Any) -> LoadedModel:
    """Load a model of a head by its class's name, such as that of a task; `over` as of `load`."""
    return load(type("Model", (LoadedModel,), {"head": head}), args, **over)


def shipped(head: str) -> str:
    """Where the model in the package lies, for a command without `--model`; says on standard error what it is."""
    if os.environ.get("RANK", "0") == "0":  # the first of torchrun's processes speaks for all
        said = "blip: the model in the package knows drawings of emoji alone; for others name a --model."
        print(said, file=sys.stderr)
    return str(or_shipped(None, HEADS[head].shipped))


def for_workers(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments as processes elsewhere understand them: with absolute paths and the engine that is taken here."""
    model = os.path.abspath(args.model) if args.model and os.path.exists(args.model) else args.model
    return argparse.Namespace(**vars(args) | {"model": model, "engine": get_engine(args.engine).name})


def import_quietly(engine: Engine) -> None:
    """Import an engine's framework and find its devices, without what native code prints meanwhile."""
    with quiet():
        engine.default_device()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence native output during an import: TensorFlow prints machine details regardless of settings."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
