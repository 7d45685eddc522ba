"""What every model shares: loading, saving, initial values, where it lives and in what precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import reduce
from inspect import signature
from pathlib import Path
from typing import Any, Self, cast

import keras
import numpy as np
import optree
import tensorflow as tf
from tensorflow import Tensor

from blip_core import GenerationConfig, ModelOutput
from blip_core.checkpoints.keras_names import attribute_path
from blip_core.checkpoints.loading import Pretrained
from blip_core.checkpoints.model_card import model_card
from blip_core.checkpoints.saving import write_pretrained
from blip_core.checks import InputError, check_weight_type
from blip_core.hub.keywords import joined
from blip_core.hub.sharing import Shared
from blip_core.outputs import OUTPUTS
from blip_core.parameters.heads import HEADS, AnyConfig
from blip_core.parameters.initial_values import initial_value
from blip_core.parameters.models import Parameter, parameters
from blip_tf.keras_model import KerasModel, dtype_policy, model_name
from blip_tf.model_methods import ModelMethods

LOADING: ContextVar[type | None] = ContextVar("LOADING", default=None)
"""The class of a model that is made and whose weights are loaded next, so that drawing them would be wasted."""


class TFBlipPreTrainedModel(Shared, ModelMethods, KerasModel):
    """A `keras.Model` with a configuration and the methods of `from_pretrained` and `save_pretrained`.

    A model made from a configuration alone has random weights, which follow TensorFlow's global seed. As in all of
    Keras, dropout needs `training=True` in the call (`fit` passes it), and the precision is that of Keras's global
    dtype policy at the time the model is made.
    """

    config: Any
    base_model_prefix = "blip"
    """What adapters of transformers call the model inside of a head."""
    main_input_name = "input_ids"
    """The argument by which trainers count what a model reads: its first."""

    def __init__(self, config: AnyConfig):
        super().__init__()
        self.built = True
        self.config = config
        self.generation_config = GenerationConfig.of_model(config)
        self.name_or_path = str(getattr(config, "name_or_path", ""))

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the model as in transformers: also with a dictionary, or with what is no tensor by position."""
        if args and isinstance(args[0], Mapping):
            options, args = {**args[0], **options}, args[1:]
        if not all(tf.is_tensor(given) for given in args):  # Keras takes nothing else by position
            options, args = {**dict(zip(signature(self.call).parameters, args, strict=False)), **options}, ()
        return super().__call__(*args, **options)

    @property
    def device(self) -> str:
        """The device of the weights."""
        return self.weights[0].value.device

    def table(self) -> list[Parameter]:
        """Return this model's rows of the weight table, but those of a pooler that it does not have."""
        rows = parameters(model_name(type(self)), self.config)
        return [row for row in rows if row.part.label != "pooler" or getattr(self, "pooler", row) is not None]

    def get_parameter(self, name: str) -> keras.Variable:
        """Return the weight, or the variable of the training state, with a name of the table."""
        steps = attribute_path(name).split(".")
        return reduce(lambda at, step: at[int(step)] if isinstance(at, list) else getattr(at, step), steps, self)

    def initialize(self) -> None:
        """Initialise all weights at random; reproducible by `tf.random.set_seed`."""
        if getattr(self.config, "gradient_checkpointing", False):  # a setting of old configurations
            self.gradient_checkpointing_enable()
        if LOADING.get() is type(self):
            return
        noise = np.random.default_rng(random_seed())
        for parameter in self.table():
            value = initial_value(parameter, self.config, noise)
            self.get_parameter(parameter.name).assign(parameter.to_tensorflow(value))

    def tie_weights(self) -> None:
        """Make layers that share weights do so again, after weights were replaced."""
        for layer in self._flatten_layers(include_self=False):
            if isinstance(layer, TFBlipPreTrainedModel):
                layer.tie_weights()

    @classmethod
    def unfilled(cls, config: AnyConfig, **arguments: Any) -> Self:
        """Make the model for weights that are loaded next.

        Args:
            config: What the constructor takes. A class with a constructor of its own, `__init__(self, config)`, draws
                its new layers as it likes.
            **arguments: Further ones of the constructor.

        Returns:
            The model, whose known weights have no values yet.
        """
        token = LOADING.set(cls)
        try:
            own = "initialize" not in signature(cls.__init__).parameters
            return cls(config, **arguments) if own else cls(config, initialize=False, **arguments)  # type: ignore[call-arg]
        finally:
            LOADING.reset(token)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        config: AnyConfig | Mapping[str, Any] | str | Path | None = None,
        image_size: int | None = None,
        dtype: tf.DType | str | None = None,
        device: str | None = None,
        revision: str | None = None,
        **keywords: Any,
    ) -> Self:
        """Load a model from a folder, a weight file, or a Hub repository such as `Salesforce/blip-vqa-base`.

        Args:
            name_or_path: Where to load from. Without it, the small model in the package, which knows drawings of emoji
                (docs/shipped.md).
            config: Replaces or overrides the checkpoint's `config.json`: a whole configuration, a file, or a dictionary
                of settings.
            image_size: In pixels; resizes the position embeddings.
            dtype: That of the weights, "auto" for the stored one, or a Keras policy such as "mixed_float16"; the global
                policy (float32) unless given.
            device: One of TensorFlow's, such as "GPU:0".
            revision: A branch, tag or commit of the Hub.
            **keywords: Those of transformers, see `blip_core.hub.keywords.KEYWORDS`; settings to override, such as
                `text_config={"label_smoothing": 0.1}`; and arguments of the class's own constructor.

        Returns:
            The model. Parts that the checkpoint lacks are initialised at random; one warning lists them. With
            `output_loading_info=True` also a dictionary of what did not match.

        Raises:
            OSError: If nothing is found.
            TypeError: If a keyword is unknown; the message names the nearest.
            ValueError: If a file is damaged, or tensors are missing, unexpected or of another shape; all are named.

        Example:
            model = TFBlipForConditionalGeneration.from_pretrained()
        """
        places = {"name_or_path": name_or_path, "dtype": dtype, "device": device, "revision": revision}
        source = Pretrained(
            "tf",
            cls,
            model_name(cls),
            config=config,
            image_size=image_size,
            seed=random_seed(),
            to_numpy=np.asarray,
            **joined(places, keywords),
        )
        wanted = tf_dtype(source.dtype)
        with dtype_policy(wanted), tf.device(tf_device(source.device)):
            model = cls.unfilled(source.config, **source.arguments)
            if source.has_state and not model.has_momentum:
                model.make_momentum()
            for parameter, array in source:
                variable = model.get_parameter(parameter.name)
                variable.assign(to_tensorflow(parameter.to_tensorflow(cast(np.ndarray, array)), variable.dtype))
                source.release(parameter)
        return source.finish(model)

    def save_pretrained(self, folder: str | Path, max_shard_size: int | str = "5GB", **keywords: Any) -> None:
        """Write `config.json`, `model.safetensors` and `generation_config.json` in Hugging Face's layout.

        An interrupted save leaves the earlier files whole.

        Args:
            folder: Where to write; made where it is missing.
            max_shard_size: Larger weights are split into shards with an index: bytes, or a text such as "5GB".
            **keywords: Those of transformers, see `blip_core.hub.keywords.KEYWORDS`, such as `safe_serialization`.

        Raises:
            OSError: If the folder cannot be written.
            TypeError: If a keyword is unknown; the message names the nearest.
        """
        hub = write_pretrained(
            folder,
            model_name(type(self)),
            self.config,
            self.table(),
            lambda parameter: parameter.from_tensorflow(to_numpy(self.get_parameter(parameter.name))),
            generation_config=self.generation_config if HEADS[model_name(type(self))].generates else None,
            engine="tf",
            to_numpy=np.asarray,
            from_numpy=tf.convert_to_tensor,
            max_shard_size=max_shard_size,
            **keywords,
        )
        self.pushed(folder, hub)

    def model_card(self, name: str, tags: Sequence[str] = ()) -> str:
        """Return the page that `push_to_hub` writes for a new repository.

        Args:
            name: The repository.
            tags: Tags to add.

        Returns:
            Markdown with its base model, its task, and how it is loaded.
        """
        return model_card(model_name(type(self)), name, self.name_or_path, tags)


def tf_dtype(dtype: tf.DType | str | None) -> Any:
    """The Keras policy of a type or a name such as "bfloat16"; None is the global one. `ValueError` for any other."""
    if dtype is None or isinstance(dtype, keras.DTypePolicy):
        return dtype or keras.config.dtype_policy()
    name = dtype.name if isinstance(dtype, tf.DType) else dtype
    if name not in ("mixed_float16", "mixed_bfloat16"):
        check_weight_type(name)
    return name


def tf_device(device: str | None) -> str | None:
    """TensorFlow's name of a device, which may be given as in PyTorch ("cuda", "cuda:1", "cpu").

    Raises `ValueError` for a device that is not there, where TensorFlow itself would compute on the CPU.
    """
    if device is None:
        return None
    kind, _, number = device.rpartition("device:")[2].strip("/").upper().replace("CUDA", "GPU").partition(":")
    devices = [found.name.removeprefix("/device:") for found in tf.config.list_logical_devices()]
    if (name := f"{kind}:{number or 0}") not in devices:
        raise ValueError(f"device {device!r} does not work in TensorFlow here; it has {', '.join(devices)}.")
    return name


def random_seed() -> int:
    """A seed that follows TensorFlow's global one."""
    return int(tf.random.uniform((), maxval=2**62, dtype=tf.int64))


def type_name(tensor: Tensor) -> str:
    """The name of a tensor's type, such as "int64"."""
    return tf.as_dtype(tensor.dtype).name


def to_tensorflow(array: np.ndarray, dtype: str) -> Tensor:
    """Copy a NumPy array into a tensor."""
    return tf.cast(tf.convert_to_tensor(np.asarray(array, order="C")), dtype)


def to_numpy(variable: keras.Variable) -> np.ndarray:
    """A NumPy array of a weight."""
    return variable.value.numpy()


def register_output(kind: type[ModelOutput]) -> None:
    """Let Keras and TensorFlow look into an output's fields, so that it can come out of a `tf.function`."""

    def flatten(output: Any) -> tuple[Any, Any, Any]:
        return output.values(), output.keys(), output.keys()

    def unflatten(names: Any, values: Any) -> ModelOutput:
        return kind(**dict(zip(names, values, strict=True)))

    optree.register_pytree_node(kind, flatten, unflatten, namespace="keras")
    kind.__tf_flatten__ = lambda output: (output.keys(), output.values())  # type: ignore[attr-defined]
    kind.__tf_unflatten__ = staticmethod(unflatten)  # type: ignore[attr-defined]


for output_kind in OUTPUTS:
    register_output(output_kind)
InputError._keras_call_info_injected = True  # type: ignore[attr-defined]  # or Keras writes a page around the message
