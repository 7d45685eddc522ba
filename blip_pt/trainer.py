"""Training steps for `blip_core.training`: the model, AdamW, mixed precision, several processes."""

from __future__ import annotations

import gc
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import blip_pt
from blip_core.parameters.models import Parameter
from blip_core.training.freezing import is_frozen
from blip_core.training.lora import SCALE, changed_layers, lora_rows, lora_values
from blip_core.training.protocol import REPLAY_WEIGHT, MicroBatch, count
from blip_core.training.settings import Settings
from blip_core.training.start import Start
from blip_pt.base import to_numpy
from blip_pt.distributed import Sharded, full, gather, processes
from blip_pt.nn import LoraLinear

HALF = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Trainer:
    """A model in training, see `blip_core.training.protocol.Trainer`.

    With `WORLD_SIZE` processes of `torchrun`, gradients are averaged over them (`parallel="ddp"`), or weights,
    gradients and moments are shared out among them ("fsdp"). Raises `ValueError` for what cannot be joined.
    """

    def __init__(self, start: Start, settings: Settings):
        self.settings, self.start = settings, start
        self.joined = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
        self.device = choose_device(settings)
        if self.joined:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        self.rank, self.processes = processes()
        self.replicas = 1
        self.model = make_model(start, settings)
        self.lora = add_lora(self.model, start, settings)
        self.model.to(self.device)
        self.old: Any = load_old(start, settings).to(self.device) if settings.replay else None
        if settings.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        if settings.vit_ckpt_layer:
            self.model.vision_model.encoder.checkpoint_last(settings.vit_ckpt_layer)
        for row in self.model.table():
            if settings.lora or is_frozen(row, settings.freeze):
                self.model.get_tensor(row.name).requires_grad_(False)
        sharded = settings.parallel == "fsdp" and self.processes > 1
        self.sharded = Sharded(self.model, self.device) if sharded else None
        self.parallel: Any = self.sharded or self.model
        if self.processes > 1 and self.sharded is None:
            # The queues are the same everywhere without being sent, because all features are gathered.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*broadcast_buffers")  # its new name is newer than torch 2.6
                self.parallel = DistributedDataParallel(self.model, broadcast_buffers=False)
        rows = [(row, self.model.get_tensor(row.name)) for row in (*self.model.table(), *self.lora)]
        self.trained = [(row, weight) for row, weight in rows if weight.requires_grad]
        decayed: list[Tensor] = []
        others: list[Tensor] = []
        for _, weight in self.trained:
            (decayed if settings.weight_decay_on == "all" or weight.ndim > 1 else others).append(weight)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
        )
        if settings.precision == "float16" and self.sharded is not None:
            raise ValueError("parallel='fsdp' does not go with precision='float16'; use bfloat16.")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "float16")

    def step(self, parts: Sequence[MicroBatch], rate: float, alpha: float, seed: tuple[int, int]) -> dict[str, float]:
        """Take one step of the optimizer, as the protocol says."""
        entropy = np.random.SeedSequence([*seed, self.rank])
        torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad()
        whole = self.mean({"new": count(parts, old=False), "old": count(parts, old=True)})
        losses: dict[str, float] = {}
        for part in parts:
            alone = isinstance(self.parallel, DistributedDataParallel) and part is not parts[-1]
            with self.parallel.no_sync() if alone else nullcontext():  # gradients are averaged once, with the last part
                output = self._call(part, alpha)
                # the mean over all parts and processes, not the mean of means
                weight = part.count / whole["old" if part.old else "new"]
                self.scaler.scale(output["loss"] * weight).backward()
            for name, value in _losses(output).items():
                losses[name] = losses.get(name, 0.0) + value * weight
        losses = self.mean(losses)
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        if math.isfinite(losses["loss"]) and (math.isfinite(norm) or self.scaler.is_enabled()):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return {**losses, "gradient_norm": norm}

    def _clip(self) -> float:
        """The norm of all gradients, which are scaled down where it is above the limit."""
        limit = self.settings.clip_norm or math.inf
        if self.sharded is not None:
            return self.sharded.clip(limit)
        return float(nn.utils.clip_grad_norm_([weight for _, weight in self.trained], limit))

    def _call(self, part: MicroBatch, alpha: float) -> Mapping[str, Any]:
        inputs: dict[str, Any] = {name: torch.from_numpy(value).to(self.device) for name, value in part.inputs.items()}
        if "answer_counts" in inputs:
            inputs["answer_counts"] = part.inputs["answer_counts"].tolist()
        if part.noise is not None:
            inputs["noise"] = torch.from_numpy(part.noise).to(self.device)
        if self.start.task.contrastive or self.start.task.distils:
            inputs["alpha"] = alpha
        half = HALF[self.settings.precision]
        with torch.autocast(self.device.type, half) if half else nullcontext():
            if part.old:
                with torch.no_grad():
                    before = self.old(**inputs)
                return self._distance(inputs, before)
            output: Mapping[str, Any] = self.parallel(**inputs)
        return output

    @torch.no_grad()
    def evaluate(self, part: MicroBatch, alpha: float) -> dict[str, float]:
        """The losses of a batch of this process, without training."""
        self.model.eval()
        losses = _losses(self._call(part, alpha))
        if self.sharded is not None:
            self.sharded.share_out()
        return losses

    def inference_model(self) -> Any:
        """Return the model for use; under FSDP a copy, whole in each process."""
        if self.sharded is None:
            return self.model
        model = getattr(blip_pt, self.start.head)(self.model.config, initialize=False)
        add_lora(model, self.start, self.settings)
        with torch.no_grad():
            for row in (*model.table(), *self.lora):
                model.get_tensor(row.name).copy_(full(self.model.get_tensor(row.name)))
        model.generation_config = self.model.generation_config
        return model.to(self.device).eval()

    def read(self, parameter: Parameter) -> np.ndarray:
        """Return a weight, in PyTorch's layout."""
        return to_numpy(full(self.model.get_tensor(parameter.name)))

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """Return the optimizer's state by name, as the protocol says."""
        found: dict[str, np.ndarray] = {}
        steps = 0.0
        for row, weight in self.trained:
            state = self.optimizer.state[weight]
            if state:
                steps = float(state["step"])
                found[f"first.{row.name}"] = to_numpy(full(state["exp_avg"]))
                found[f"second.{row.name}"] = to_numpy(full(state["exp_avg_sq"]))
        found["steps"] = np.array(steps, np.float32)
        if self.scaler.is_enabled():
            scale = self.scaler.state_dict()
            found["scale"] = np.array(scale["scale"], np.float32)
            found["good_steps"] = np.array(scale["_growth_tracker"], np.int64)
        return found

    def load_optimizer_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `optimizer_state` returned, in any engine."""
        for row, weight in self.trained:
            if f"first.{row.name}" in state:
                self.optimizer.state[weight] = {
                    "step": torch.tensor(float(state["steps"])),
                    "exp_avg": _like(weight, state[f"first.{row.name}"]),
                    "exp_avg_sq": _like(weight, state[f"second.{row.name}"]),
                }
        if self.scaler.is_enabled() and "scale" in state:
            scale = self.scaler.state_dict()
            new = {"scale": float(state["scale"]), "_growth_tracker": int(state["good_steps"])}
            self.scaler.load_state_dict(scale | new)

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the means of numbers over all processes."""
        if self.processes == 1:
            return dict(values)
        numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(numbers)
        return dict(zip(values, (numbers / self.processes).tolist(), strict=True))

    def exchange(self, own: bytes) -> list[bytes]:
        """Return the bytes that each process gave, in the order of their ranks."""
        if self.processes == 1:
            return [own]
        lengths = gather(torch.tensor([len(own)], device=self.device)).tolist()
        padded = torch.frombuffer(bytearray(own.ljust(max(lengths), b"\0")), dtype=torch.uint8).to(self.device)
        parts = gather(padded[None]).cpu().numpy()
        return [part.tobytes()[:length] for part, length in zip(parts, lengths, strict=True)]

    def close(self) -> None:
        """Leave the other processes."""
        if self.sharded is not None:
            # What FSDP holds of the process group has threads, which abort Python if they are there when it ends.
            del self.parallel, self.sharded, self.model, self.optimizer, self.trained
            gc.collect()
        if self.joined:
            dist.destroy_process_group()

    def _distance(self, inputs: dict[str, Any], before: Any) -> dict[str, Tensor]:
        """How far predictions of next tokens are from those before training: KL(before, now), weighted as the loss."""
        if self.settings.freeze == "vision":  # which encodes pictures as before
            inputs = {**inputs, "pixel_values": None, "image_embeds": before.image_embeds}
        now = self.parallel(**inputs)
        old, new = (output.logits[:, :-1].float().log_softmax(-1) for output in (before, now))
        distance = (old.exp() * (old - new)).sum(-1)[inputs["labels"][:, 1:] != -100].mean()
        return {"loss": REPLAY_WEIGHT * distance, "loss_replay": distance}


def choose_device(settings: Settings) -> torch.device:
    """Return the device of this process; of several GPUs each process of `torchrun` has its own."""
    name = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if name == "cuda" else torch.device(name)


def make_model(start: Start, settings: Settings) -> Any:
    """The model to begin with, on the CPU; parts that it lacks are initialised at random from the settings' seed."""
    torch.manual_seed(settings.seed)
    model_class: Any = getattr(blip_pt, start.head)
    followed = start.task.contrastive or start.task.distils
    if start.config is not None:
        model = model_class(start.config, initialize=False)
        if followed and not model.has_momentum:
            model.make_momentum()
        new = model.table()
    else:
        model, new = start.load(model_class, settings, device="cpu"), []
        if followed and not model.has_momentum:
            model.start_momentum()
            new = [row for row in model.table() if "queue" in row.name]
    with torch.no_grad():
        for row, value in start.values(new, model.config, settings.seed):
            model.get_tensor(row.name).copy_(torch.from_numpy(value))
    for name in start.task.unused:
        if hasattr(model, name):
            getattr(model, name).requires_grad_(False)
    return model


def load_old(start: Start, settings: Settings) -> Any:
    """The model before training, which replay compares with."""
    model_class: Any = getattr(blip_pt, start.head)
    return (start.old or start).load(model_class, settings, device="cpu").eval()


def add_lora(model: Any, start: Start, settings: Settings) -> list[Parameter]:
    """Give linear layers the factors that `settings.lora` asks for, and return their rows."""
    rows = lora_rows(model.table(), settings.lora, settings.freeze)
    layers = [model.get_submodule(name) for name in changed_layers(rows)]
    new = {id(layer): LoraLinear(layer, settings.lora, SCALE) for layer in layers}
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):  # encoder and decoder of pre-training share some
            if id(layer) in new:
                setattr(parent, name, new[id(layer)])
    with torch.no_grad():
        for row, value in lora_values(rows, model.config, settings.seed, start.adapter):
            model.get_tensor(row.name).copy_(torch.from_numpy(value))
    return rows


def _losses(output: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value.detach()) for name, value in output.items() if name.startswith("loss") and value is not None
    }


def _like(weight: Tensor, value: np.ndarray) -> Tensor:
    """A copy of an array, where and as the weight is."""
    tensor = torch.from_numpy(value.copy()).to(weight.device, torch.float32)
    if not hasattr(weight, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, weight.device_mesh, weight.placements)  # type: ignore[attr-defined]
