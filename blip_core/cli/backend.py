"""The model of a run, in one framework or the other, so that no subcommand needs to know which."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from blip_core.engines import Engine, get_engine
from blip_core.hub import shipped_model
from blip_core.processing.processor import BlipProcessor


class Backend:
    """A model and its processor, loaded as the arguments say; raises `ValueError` or `OSError` where that fails.

    `option` is the one that names the model, for commands with several.
    """

    def __init__(self, head: str, args: argparse.Namespace, option: str = "model"):
        name = getattr(args, option) or shipped(head)
        self.engine = get_engine(args.engine)
        with quiet():
            model_class = self.engine.model_class(head)
            device = args.device or self.engine.default_device()
        self.engine.check_device(device)
        self.processor = BlipProcessor.from_pretrained(name, revision=args.revision)
        with warnings.catch_warnings():
            # Training may begin with random weights, but what they say of a picture means nothing.
            warnings.filterwarnings("error", message=".*initialised at random")
            try:
                self.model: Any = model_class.from_pretrained(
                    name, dtype=args.dtype, device=device, revision=args.revision
                )
            except UserWarning as warning:
                raise ValueError(f"--{option} does not fit this command: {warning}") from None
            except (RuntimeError, AssertionError) as error:
                raise ValueError(f"--device {args.device} does not work: {str(error).splitlines()[0]}") from None
        with suppress(AttributeError):
            self.model.requires_grad_(False)

    def read_picture(self, path: str) -> np.ndarray:
        """Read and prepare a picture: float32 (3, height, width). Raises `ValueError` or `OSError`."""
        return self.processor(images=path, return_tensors="np")["pixel_values"][0]

    def tensor(self, array: np.ndarray) -> Any:
        """An array as a tensor of the framework, where the model is."""
        return self.engine.to_tensor(array, self.model)

    def tokens(self, texts: list[str]) -> dict[str, Any]:
        """Tokenized texts, padded to the longest: `input_ids` and `attention_mask` for a model's call."""
        encoded = self.processor(text=texts, padding=True, return_tensors="np")
        return {name: self.tensor(encoded[name]) for name in ("input_ids", "attention_mask")}

    def embeds(self, picture: np.ndarray) -> Any:
        """The image embeddings (1, tokens, width) of one picture, to be used for any number of texts."""
        return self.model.vision_model(self.tensor(picture[None])).last_hidden_state

    def texts(self, output: Any, *, whole: bool = False) -> list[tuple[str, dict[str, Any]]]:
        """The new text of each row of a `GenerationOutput`, or the whole one with its prompt, and its scores.

        `log_prob` is the log-probability of the text (after the prompt, its end token included) under the model's own
        distribution, natural logarithm; `confidence` the geometric mean of its tokens' probabilities, 0 to 1, which
        long and short texts can be compared by; `tokens` and `token_log_probs` say it token by token.
        """
        sequences, log_probs = self.engine.to_numpy(output.sequences), self.engine.to_numpy(output.token_log_probs)
        new = sequences[:, sequences.shape[1] - log_probs.shape[1] :]  # all rows have prompts of the same length
        decoded = self.processor.batch_decode(sequences if whole else new, skip_special_tokens=True)
        found = []
        for text, ids, row in zip(decoded, new, log_probs, strict=True):
            real = ~np.isnan(row)
            scores = {
                "confidence": float(np.exp(row[real].mean())),
                "log_prob": float(row[real].sum()),
                "tokens": self.processor.tokenizer.convert_ids_to_tokens(ids[real].tolist()),
                "token_log_probs": row[real].tolist(),
            }
            found.append((text.strip(), scores))
        return found


def shipped(head: str) -> str:
    """Where the model in the package lies, for a command without `--model`; says on standard error what it is."""
    if os.environ.get("RANK", "0") == "0":  # the first of torchrun's processes speaks for all
        said = "blip: the model in the package knows drawings of emoji alone; for others name a --model."
        print(said, file=sys.stderr)
    return str(shipped_model(head))


def for_workers(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments as processes elsewhere understand them, and such that they can be pickled."""
    given = {name: value for name, value in vars(args).items() if name != "run"}
    model = os.path.abspath(args.model) if args.model and os.path.exists(args.model) else args.model
    return argparse.Namespace(**given | {"model": model, "engine": get_engine(args.engine).name})


def import_quietly(engine: Engine) -> None:
    """Import an engine's framework, without what native code prints meanwhile."""
    with quiet():
        engine.backend  # noqa: B018


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what native code prints: TensorFlow remarks on the machine while it is imported, whatever it is told."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
