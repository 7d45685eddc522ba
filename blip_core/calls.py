"""How a model may be called: keywords that all models of transformers take, beside those of its own signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from blip_core.checks import InputError
from blip_core.engines import ENGINES, engine_of

P = ParamSpec("P")
M = TypeVar("M")
R = TypeVar("R")

FLAGS = ("output_hidden_states", "output_attentions")
"""Arguments for which None, and leaving them out, stands for what the configuration says."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_cache": (True, False), "past_key_values": (), "head_mask": (), "cache_position": (), "encoder_embeds": (),
    "return_logits": (False,), "logits_to_keep": (0,), "num_items_in_batch": (),
}  # fmt: skip
"""Keywords of transformers that are not offered by every model, with the values, beside None, without effect."""


def takes_tensors(method: Callable[P, R]) -> Callable[P, R]:
    """Let a method of a model say what is wrong where it fails on lists, arrays or another framework's tensors."""

    @wraps(method)
    def run(*args: P.args, **options: P.kwargs) -> R:
        try:
            return method(*args, **options)
        except (AttributeError, TypeError, RuntimeError) as error:  # looked at only now: it costs nothing, nor a graph
            own = engine_of(args[0])
            for value in (*args[1:], *options.values()):
                other = any(engine is not own and engine.owns(value) for engine in ENGINES.values())
                if other or isinstance(value, list | np.ndarray):
                    kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
                    call = f"call the processor with return_tensors={own.name!r}"
                    raise InputError(f"{type(args[0]).__name__} takes tensors, got {kind}; {call}.") from error
            raise

    return run


def called_as_in_transformers(call: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """Let `forward` or `call` of a model take what those of transformers take.

    `return_dict=False`, or a configuration that says so, makes a tuple of the output; `output_hidden_states` and
    `output_attentions` follow the configuration unless given; a first argument that is a dictionary, such as the
    processor's result, holds keywords; keywords without effect here are accepted at a value without effect.
    """
    signature = inspect.signature(call)
    own = list(signature.parameters)
    checked = takes_tensors(call)
    further = [name for name in ("return_dict", *NEUTRAL) if name not in own]
    places = {name: own.index(name) - 1 for name in FLAGS if name in own}  # without self

    @wraps(call)
    def run(model: Any, *args: Any, return_dict: bool | None = None, **options: Any) -> Any:
        if args and isinstance(args[0], Mapping):
            options, args = {**args[0], **options}, args[1:]
        for name, place in places.items():
            if len(args) <= place and options.get(name) is None:
                options[name] = bool(getattr(model.config, name, False))
        for name in further:
            if name in options:
                check_neutral(name, options.pop(name))
        output: Any = checked(model, *args, **options)
        if return_dict is None:  # a part returns what the whole reads, whatever its own configuration says
            return_dict = not hasattr(model.config, "text_config") or getattr(model.config, "return_dict", True)
        return output if return_dict else output.to_tuple()

    kind = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, kind, default=None) for name in further]
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    return run  # type: ignore[return-value]  # which has further keywords


def check_neutral(name: str, value: Any) -> None:
    """Refuse a keyword that would have an effect in transformers and has none here."""
    if value is not None and not (isinstance(value, bool | int) and value in NEUTRAL[name]):
        raise InputError(f"{name} is not offered by this model; leave it out.")


def past_layers(past: Any, layers: int) -> list[tuple[Any, ...]]:
    """Read `past_key_values`.

    Args:
        past: For each layer a tuple of keys and values of the text and, with encoder states, of these; or a cache
            object of transformers; None for none.
        layers: How many layers there are.

    Returns:
        A tuple for each layer, empty where there is nothing yet.

    Raises:
        ValueError: If it is of another number of layers.
    """
    if hasattr(past, "self_attention_cache"):
        own, cross = past_layers(past.self_attention_cache, layers), past_layers(past.cross_attention_cache, layers)
        return [first + second for first, second in zip(own, cross, strict=True)]
    if hasattr(past, "layers"):
        past = [(layer.keys, layer.values) for layer in past.layers if layer.keys is not None]
    if not past:
        return [()] * layers
    if len(past) != layers:
        raise InputError(f"past_key_values must have {layers} layers, got {len(past)}; give those of the same model.")
    return [tuple(tensor for tensor in layer if tensor is not None) for layer in past]
