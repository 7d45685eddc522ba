"""What every model shares: loading, saving, initial values, where it lives and in what precision."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar, cast

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from blip_core import GenerationConfig, ModelOutput
from blip_core.calls import takes_tensors
from blip_core.checkpoints.checkpoint import Rounded
from blip_core.checkpoints.loading import Pretrained
from blip_core.checkpoints.model_card import model_card
from blip_core.checkpoints.saving import write_pretrained
from blip_core.checks import check_weight_type
from blip_core.hub.keywords import joined
from blip_core.hub.sharing import Shared
from blip_core.outputs import OUTPUTS
from blip_core.parameters.heads import HEADS, AnyConfig
from blip_core.parameters.initial_values import initial_value
from blip_core.parameters.models import Parameter, parameters
from blip_core.parameters.table import BUFFERS
from blip_pt.model_methods import ModelMethods
from blip_pt.nn import Linear, QuantizedLinear
from blip_pt.optimizing import PackedLinear, pack_layers, unpack_layers

P = ParamSpec("P")
R = TypeVar("R")


LOADING: ContextVar[type | None] = ContextVar("LOADING", default=None)
"""The class of a model that is made and whose weights are loaded next, so that drawing them would be wasted."""


class BlipPreTrainedModel(Shared, ModelMethods, nn.Module):
    """A `torch.nn.Module` with a configuration that is loaded and saved.

    A model made from a configuration alone has random weights, which follow torch's global seed, and is in training
    mode; one from `from_pretrained` is in evaluation mode.
    """

    config: Any
    base_model_prefix = "blip"
    """What adapters of transformers call the model inside of a head."""
    main_input_name = "input_ids"
    """The argument by which trainers count what a model reads: its first."""
    trainable_before: list[str] | None = None
    """The weights that were trainable before `optimize()`; None for a model that is not optimized."""

    def __init__(self, config: AnyConfig):
        super().__init__()
        self.config = config
        self.generation_config = GenerationConfig.of_model(config)
        self.name_or_path = str(getattr(config, "name_or_path", ""))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype

    def table(self) -> list[Parameter]:
        """Return this model's rows of the weight table, but those of a pooler that it does not have."""
        rows = parameters(model_name(type(self)), self.config)
        return [row for row in rows if row.part.label != "pooler" or getattr(self, "pooler", row) is not None]

    def get_tensor(self, name: str) -> Tensor:
        """Return the weight, or the buffer of the training state, with a name of the table."""
        module, _, name = name.rpartition(".")
        layer = self.get_submodule(module)
        tensor: Tensor = layer.dense() if name == "weight" and isinstance(layer, PackedLinear) else getattr(layer, name)
        return tensor

    @torch.no_grad()
    def initialize(self) -> None:
        """Initialise all weights at random; reproducible by `torch.manual_seed`."""
        if getattr(self.config, "gradient_checkpointing", False):  # a setting of old configurations
            self.gradient_checkpointing_enable()
        if LOADING.get() is type(self) or self.device.type == "meta":
            return
        noise = np.random.default_rng(int(torch.randint(2**62, ())))
        for parameter in self.table():
            value = initial_value(parameter, self.config, noise)
            self.get_parameter(parameter.name).copy_(torch.from_numpy(value))

    def tie_weights(self) -> None:
        """Make modules that share weights do so again, after weights were replaced."""
        for module in self.modules():
            if module is not self and isinstance(module, BlipPreTrainedModel):
                module.tie_weights()

    def state_dict(self, *args: Any, prefix: str = "", keep_vars: bool = False, **destination: Any) -> Any:
        """Return the weights by their published names, as `torch.nn.Module.state_dict` does.

        A tied weight stands under each of its names, as in published files, but under the second as a copy, so that
        trainers can write what they get as safetensors, which refuses tensors that share memory.

        Args:
            *args, prefix, **destination: As there.
            keep_vars: Return the parameters themselves, tied ones too.

        Returns:
            The tensors by name.
        """
        found = super().state_dict(*args, prefix=prefix, keep_vars=keep_vars, **destination)
        seen: set[int] = set()
        for name, weight in () if keep_vars else self.named_parameters(remove_duplicate=False):
            held = found.get(prefix + name)
            if id(weight) in seen and held is not None and held.is_set_to(weight):
                found[prefix + name] = held.clone()
            seen.add(id(weight))
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights by their published names.

        Args:
            state_dict: Tensors by name. Of tied ones either or both may be there; buffers of position ids are ignored.
            strict: Raise `RuntimeError` for missing and unexpected names.
            assign: Take the tensors themselves instead of copying their values.

        Returns:
            The missing and unexpected names, as `torch.nn.Module.load_state_dict`.
        """
        given = {name: tensor for name, tensor in state_dict.items() if not name.endswith(BUFFERS)}
        for parameter in self.table():
            places = (parameter.name, *parameter.copies(parameter.part.prefix))
            held = next((given[name] for name in places if name in given), None)
            if held is not None:
                given |= {name: held for name in places if name not in given}
        result = super().load_state_dict(given, strict, assign)
        self.tie_weights()
        return result

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
        own = "initialize" not in signature(cls.__init__).parameters
        token = LOADING.set(cls)
        try:
            if own:
                return cls(config, **arguments)
            with torch.device("meta"):
                return cls(config, initialize=False, **arguments)  # type: ignore[call-arg]  # every model class takes it
        finally:
            LOADING.reset(token)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        config: AnyConfig | Mapping[str, Any] | str | Path | None = None,
        image_size: int | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
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
            dtype: That of the weights, float32 unless given; "auto" for the stored one, int8 included. On the CPU,
                weights of the stored type stay in the mapped file until they are used.
            device: One of PyTorch's, such as "cuda:0".
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
            model = BlipForConditionalGeneration.from_pretrained()
        """
        place: Any = torch.get_default_device()
        if place.type == "meta":
            raise RuntimeError("from_pretrained needs a device with memory, got meta; leave torch.device('meta') out.")
        places = {"name_or_path": name_or_path, "dtype": dtype, "device": device, "revision": revision}
        source = Pretrained(
            "pt",
            cls,
            model_name(cls),
            config=config,
            image_size=image_size,
            seed=int(torch.randint(2**62, (), device="cpu")),
            to_numpy=to_numpy,
            keeps_int8=True,
            **joined(places, keywords),
        )
        wanted, place = torch_dtype(source.dtype), source.device or place
        model = cls.unfilled(source.config, **source.arguments)
        if source.has_state:
            with model.device:
                cast(Any, model).make_momentum()
        loaded = set()
        for parameter, array in source:
            module, _, name = parameter.name.rpartition(".")
            if isinstance(array, Rounded):
                holder, _, layer = module.rpartition(".")
                weight, scale = (torch.from_numpy(part).to(device=place) for part in array)
                bias: Any = model.get_tensor(f"{module}.bias")
                setattr(model.get_submodule(holder), layer, QuantizedLinear(weight, scale, bias).eval())
                continue
            old = model.get_tensor(parameter.name)
            kind = wanted if old.requires_grad else old.dtype  # the state of training keeps its precision
            tensor = to_torch(converted(array, kind)).to(device=place)
            if not tensor.is_cpu or tensor.data_ptr() != array.ctypes.data:
                source.release(parameter)
            if isinstance(old, nn.Parameter):
                tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
            setattr(model.get_submodule(module), name, tensor)
            loaded.add(parameter.name)
        model.tie_weights()
        for name, weight in model.named_parameters():
            if name not in loaded:  # a layer of a class of its own
                weight.data = weight.data.to(device=place, dtype=wanted)
        if model.quantized:
            model.requires_grad_(False)
        return cast(Self, source.finish(model.eval()))

    def save_pretrained(self, folder: str | Path, max_shard_size: int | str = "5GB", **keywords: Any) -> None:
        """Write `config.json`, `model.safetensors` and `generation_config.json` in Hugging Face's layout.

        A model of int8 weights is written as such, into `model.int8.safetensors`. An interrupted save leaves
        the earlier files whole.

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
            lambda parameter: to_numpy(self.get_tensor(parameter.name)),
            generation_config=self.generation_config if HEADS[model_name(type(self))].generates else None,
            engine="pt",
            format="int8" if self.quantized else "safetensors",
            to_numpy=to_numpy,
            from_numpy=to_torch,
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

    def optimize(self, enable: bool = True) -> Self:
        """Pack the weights of large layers as oneDNN multiplies with them fastest: for long work in float32 on a CPU.

        It takes some tenths of a second and a copy of those weights. They take the place of the weights that they are
        made of, so that nothing goes stale: until it is undone the model is not trained, loaded into, moved, compiled
        or exported, and whoever tries is told so. Results differ by rounding. Weights stay as they are where that is
        no slower on this machine (`BLIP_MEASURE`, see `products.py`), on a GPU, and in other types than float32.

        Args:
            enable: False undoes it; the weights are bit by bit what they were.

        Returns:
            The model itself.
        """
        if enable and self.trainable_before is None:
            self.trainable_before = [name for name, weight in self.named_parameters() if weight.requires_grad]
            pack_layers(self.requires_grad_(False))
        elif not enable and self.trainable_before is not None:
            unpack_layers(self)
            for name in self.trainable_before:
                self.get_parameter(name).requires_grad_()
            self.trainable_before = None
        return self

    @property
    def quantized(self) -> bool:
        """Whether the layers have int8 weights."""
        return any(isinstance(module, QuantizedLinear) for module in self.modules())

    def quantize(self) -> Self:
        """Keep the weights of all layers as int8, and multiply in int8 on a CPU: a quarter of the memory, less time.

        Each output of a layer has a scale, and so has each row of its input, computed as it comes. Embeddings,
        LayerNorms, the projection to the vocabulary and the heads stay as they are. It cannot be undone, and the model
        cannot be trained any more. `save_pretrained` writes the int8 weights, which `from_pretrained(dtype="auto")`
        takes from the mapped file as they are. `docs/benchmarks.md` has the accuracy.

        Returns:
            The model itself, in evaluation mode.
        """
        self.optimize(False)
        for name, module in list(self.named_modules()):
            if re.search(r"\bencoder\.layers?\.", name):
                for child_name, child in list(module.named_children()):
                    if type(child) is Linear:
                        setattr(module, child_name, QuantizedLinear.of(child))
        return self.requires_grad_(False).eval()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run without gradients and without dropout, whatever mode the model is in."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def evaluated(method: Callable[P, R]) -> Callable[P, R]:
    """Make a method of a model run under `evaluating`."""
    checked = takes_tensors(method)

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with evaluating(cast(nn.Module, args[0])):
            return checked(*args, **kwargs)

    return run


def model_name(cls: type) -> str:
    """The name under which the weight table knows a model class, or one derived from it as FSDP does."""
    return next((base.__name__ for base in cls.__mro__ if base.__name__ in HEADS), cls.__name__)


def torch_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """The floating-point type of a name such as "bfloat16"; None is float32. Raises `ValueError` for any other."""
    name = str(dtype or "float32").removeprefix("torch.")
    check_weight_type(name)
    kind: torch.dtype = getattr(torch, name)
    return kind


def type_name(tensor: Tensor) -> str:
    """The name of a tensor's type, such as "int64"."""
    return str(tensor.dtype).removeprefix("torch.")


def converted(array: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """An array as another type, by NumPy: PyTorch would start OpenMP's threads, after which no process can fork."""
    name = str(dtype).removeprefix("torch.")
    with np.errstate(over="ignore"):  # numbers that are too large for half precision become infinite
        return array.astype(ml_dtypes.bfloat16 if name == "bfloat16" else name, copy=False)


def to_torch(array: np.ndarray) -> Tensor:
    """A tensor in the memory of a NumPy array, bfloat16 included."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A NumPy array of a tensor, in the same memory where it lies on the CPU."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def register_output(kind: type[ModelOutput]) -> None:
    """Register an output's fields as a tree of tensors, which torch.export and data parallelism need."""
    pytree.register_pytree_node(
        kind,
        lambda output: (list(output.values()), output.keys()),
        lambda values, names: kind(**dict(zip(names, values, strict=True))),
        serialized_type_name=f"blip_core.{kind.__name__}",
        to_dumpable_context=list,
        from_dumpable_context=tuple,
    )


for output_kind in OUTPUTS:
    register_output(output_kind)
