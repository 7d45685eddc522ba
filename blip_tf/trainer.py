"""Training steps for `blip_core.training`: the model, AdamW, mixed precision, several replicas."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

import blip_tf
from blip_core.parameters.models import Parameter
from blip_core.training.freezing import is_frozen
from blip_core.training.lora import SCALE, changed_layers, lora_rows, lora_values
from blip_core.training.protocol import REPLAY_WEIGHT, MicroBatch, count, split
from blip_core.training.settings import Settings
from blip_core.training.start import Start
from blip_tf.adamw import AdamW
from blip_tf.base import tf_device, to_numpy
from blip_tf.distributed import gather, processes, raw
from blip_tf.keras_model import dtype_policy
from blip_tf.nn import Linear, LoraLinear, dropout_seed

HALF = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


class Trainer:
    """A model in training, see `blip_core.training.protocol.Trainer`.

    Under `TF_CONFIG` the workers that it names train together (`MultiWorkerMirroredStrategy`), otherwise all GPUs that
    TensorFlow sees (`MirroredStrategy`), or those that `device` lists. Raises `ValueError` for what cannot work.
    """

    def __init__(self, start: Start, settings: Settings):
        self.settings, self.start = settings, start
        if settings.parallel != "ddp":
            raise ValueError(f"parallel={settings.parallel!r} is PyTorch's; leave it out in TensorFlow.")
        self.strategy, self.rank = choose_strategy(settings)
        whole = self.strategy.num_replicas_in_sync
        self.replicas = len(self.strategy.extended.worker_devices) if whole > 1 else 1
        self.processes = whole // self.replicas
        with self.strategy.scope(), tf.device(tf_device(settings.device) if self.replicas == 1 else None):
            self.model = make_model(start, settings)
            self.lora = add_lora(self.model, start, settings)
            self.old: Any = load_old(start, settings) if settings.replay else None
            if settings.gradient_checkpointing:
                self.model.gradient_checkpointing_enable()
            if settings.vit_ckpt_layer:
                self.model.vision_model.encoder.checkpoint_last(settings.vit_ckpt_layer)
            for row in self.model.table():
                if settings.lora or is_frozen(row, settings.freeze):
                    self.model.get_parameter(row.name).trainable = False
            wanted = {id(weight) for weight in self.model.trainable_weights}
            rows = [(row, self.model.get_parameter(row.name)) for row in (*self.model.table(), *self.lora)]
            self.trained = [(row, weight) for row, weight in rows if id(weight) in wanted]
            self.optimizer = AdamW([weight for _, weight in self.trained], settings)
        self._graphs = {
            work: tf.function(partial(self._everywhere, work), autograph=False, reduce_retracing=True)
            for work in (self._gradients, self._add, self._apply, self._losses, gather, self._mean)
        }

    def step(self, parts: Sequence[MicroBatch], rate: float, alpha: float, seed: tuple[int, int]) -> dict[str, float]:
        """Take one step of the optimizer, as the protocol says."""
        words = np.random.SeedSequence(seed).generate_state(2 * len(parts)).astype(np.int32).reshape(-1, 2)
        whole = {old: tf.constant(count(parts, old=old)) for old in (False, True)}
        losses: dict[str, float] = {}
        total = None
        for part, word in zip(parts, words, strict=True):
            found, gradients = self._run(
                self._gradients, self._local(part, alpha), whole[part.old], tf.constant(word), part.old
            )
            total = gradients if total is None else self._run(self._add, total, gradients)
            for name, value in self._first(found).items():
                losses[name] = losses.get(name, 0.0) + float(value)
        norm = self._first(self._run(self._apply, total, tf.constant(rate, tf.float32)))
        return {**losses, "gradient_norm": float(norm)}

    def evaluate(self, part: MicroBatch, alpha: float) -> dict[str, float]:
        """The losses of a batch of all processes, without training."""
        found = self._first(self._run(self._losses, self._local(part, alpha)))
        return {name: float(value) for name, value in found.items()}

    def inference_model(self) -> Any:
        """Return the model for use; of several replicas a copy, whole in each process."""
        if self.strategy.num_replicas_in_sync == 1:
            return self.model
        with dtype_policy(HALF[self.settings.precision]):
            model = getattr(blip_tf, f"TF{self.start.head}")(self.model.config, initialize=False)
            add_lora(model, self.start, self.settings)
        for row in (*model.table(), *self.lora):
            model.get_parameter(row.name).assign(to_numpy(self.model.get_parameter(row.name)))
        model.generation_config = self.model.generation_config
        return model

    def read(self, parameter: Parameter) -> np.ndarray:
        """Return a weight, in PyTorch's layout."""
        return parameter.from_tensorflow(to_numpy(self.model.get_parameter(parameter.name)))

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """Return the optimizer's state by name, as the protocol says."""
        found: dict[str, np.ndarray] = {}
        for (row, _), first, second in zip(self.trained, self.optimizer.first, self.optimizer.second, strict=True):
            found[f"first.{row.name}"] = row.from_tensorflow(to_numpy(first))
            found[f"second.{row.name}"] = row.from_tensorflow(to_numpy(second))
        found["steps"] = to_numpy(self.optimizer.steps)
        if self.optimizer.half:
            found["scale"], found["good_steps"] = to_numpy(self.optimizer.scale), to_numpy(self.optimizer.good_steps)
        return found

    def load_optimizer_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `optimizer_state` returned, in any engine."""
        for (row, _), first, second in zip(self.trained, self.optimizer.first, self.optimizer.second, strict=True):
            if f"first.{row.name}" in state:
                first.assign(row.to_tensorflow(state[f"first.{row.name}"]))
                second.assign(row.to_tensorflow(state[f"second.{row.name}"]))
        self.optimizer.steps.assign(state["steps"])
        if self.optimizer.half and "scale" in state:
            self.optimizer.scale.assign(state["scale"])
            self.optimizer.good_steps.assign(state["good_steps"])

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the means of numbers over all processes."""
        if self.processes == 1:
            return dict(values)
        numbers = self._first(self._run(self._mean, tf.constant(list(values.values()), tf.float64)))
        return dict(zip(values, numbers.numpy().tolist(), strict=True))

    def exchange(self, own: bytes) -> list[bytes]:
        """Return the bytes that each process gave, in the order of their ranks."""
        if self.processes == 1:
            return [own]
        lengths = self._first(self._run(gather, tf.constant([len(own)]))).numpy()[:: self.replicas]
        padded = np.frombuffer(own.ljust(max(lengths), b"\0"), np.uint8).astype(np.int32)  # what collectives take
        parts = self._first(self._run(gather, tf.constant(padded[None]))).numpy()[:: self.replicas]
        return [part.astype(np.uint8).tobytes()[:length] for part, length in zip(parts, lengths, strict=True)]

    def close(self) -> None:
        """Leave the other processes."""

    def _run(self, work: Any, *arguments: Any) -> Any:
        """Run one of the compiled functions in all replicas."""
        return self._graphs[work](*arguments)

    def _everywhere(self, work: Any, *arguments: Any) -> Any:
        return self.strategy.run(work, args=arguments)

    def _first(self, value: Any) -> Any:
        """What the first replica of this process returned; all return the same."""
        return tf.nest.map_structure(lambda item: self.strategy.experimental_local_results(item)[0], value)

    def _local(self, part: MicroBatch, alpha: float) -> Any:
        """A batch as tensors, cut up for the replicas of this process, each with what its loss is the mean over."""
        if hasattr(self.model, "check_beginning") and "labels" in part.inputs:
            texts = (part.inputs.get(name) for name in ("input_ids", "attention_mask"))
            self.model.check_beginning(
                *(None if x is None else tf.constant(x) for x in texts)
            )  # a graph knows no values
        followed = self.start.task.contrastive or self.start.task.distils
        parts = [_tensors(piece, alpha if followed else None) for piece in split(part, self.start.task, self.replicas)]
        if self.replicas == 1:
            return parts[0]
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group % self.replicas]
        )

    def _gradients(self, part: Any, whole: Tensor, seed: Tensor, old: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The losses and gradients of a part, by its share in the mean over all parts and replicas.

        `whole` is what the parts of this process have together.
        """
        inputs, count = part
        share = count * self.replicas / _sum(whole)
        before = self.old(**inputs, training=False) if old else None
        with tf.GradientTape() as tape, dropout_seed(tf.random.fold_in(seed, processes()[0])):
            output = self._distance(inputs, before) if old else self.model(**inputs, training=True)
            scaled = self.optimizer.scaled(output["loss"] * share)
        weights = [raw(weight) for _, weight in self.trained]
        gradients = [
            tf.zeros_like(weight) if gradient is None else tf.convert_to_tensor(gradient)
            for weight, gradient in zip(weights, tape.gradient(scaled, weights), strict=True)
        ]
        return _sum({name: value * share for name, value in _losses(output).items()}), gradients

    def _distance(self, inputs: dict[str, Any], before: Any) -> dict[str, Tensor]:
        """How far predictions of next tokens are from those before training: KL(before, now), weighted as the loss."""
        if self.settings.freeze == "vision":  # which encodes pictures as before
            inputs = {**inputs, "pixel_values": None, "image_embeds": before.image_embeds}
        now = self.model(**inputs, training=True)
        old, new = (tf.nn.log_softmax(tf.cast(output.logits[:, :-1], tf.float32)) for output in (before, now))
        distances = tf.reduce_sum(tf.exp(old) * (old - new), -1)
        distance = tf.reduce_mean(tf.boolean_mask(distances, inputs["labels"][:, 1:] != -100))
        return {"loss": REPLAY_WEIGHT * distance, "loss_replay": distance}

    def _add(self, total: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        return [one + other for one, other in zip(total, gradients, strict=True)]

    def _apply(self, gradients: list[Tensor], rate: Tensor) -> Tensor:
        """Sum the gradients of all replicas, and move the weights by them; returns their norm."""
        gradients = self.optimizer.unscaled(_sum(gradients))
        norm = tf.linalg.global_norm(gradients)
        if self.settings.clip_norm:
            share = tf.minimum(1.0, self.settings.clip_norm / (norm + 1e-6))
            gradients = [gradient * share for gradient in gradients]
        self.optimizer.apply(gradients, rate, tf.math.is_finite(norm))
        return norm

    def _losses(self, part: Any) -> dict[str, Tensor]:
        inputs, count = part
        output = self.model(**inputs, training=False)
        return _sum({name: value * count / _sum(count) for name, value in _losses(output).items()})

    def _mean(self, numbers: Tensor) -> Tensor:
        return _sum(numbers) / tf.cast(self.strategy.num_replicas_in_sync, numbers.dtype)


def choose_strategy(settings: Settings) -> tuple[tf.distribute.Strategy, int]:
    """How replicas train together, and the number of this process among those of `TF_CONFIG`."""
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        return strategy, strategy.cluster_resolver.task_id
    devices = (settings.device or "").replace("cuda", "GPU").split(",")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy(devices), 0
    if not settings.device and len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy(), 0
    return tf.distribute.get_strategy(), 0


def make_model(start: Start, settings: Settings) -> Any:
    """The model to begin with; parts that it lacks are initialised at random from the settings' seed."""
    tf.random.set_seed(settings.seed)
    model_class: Any = getattr(blip_tf, f"TF{start.head}")
    followed = start.task.contrastive or start.task.distils
    policy = HALF[settings.precision]
    if start.config is not None:
        with dtype_policy(policy):
            model = model_class(start.config, initialize=False)
        if followed and not model.has_momentum:
            model.make_momentum()
        new = model.table()
    else:
        model, new = start.load(model_class, settings, dtype=policy), []
        if followed and not model.has_momentum:
            model.start_momentum()
            new = [row for row in model.table() if "queue" in row.name]
    for row, value in start.values(new, model.config, settings.seed):
        model.get_parameter(row.name).assign(row.to_tensorflow(value))
    for name in start.task.unused:
        if hasattr(model, name):
            getattr(model, name).trainable = False
    return model


def load_old(start: Start, settings: Settings) -> Any:
    """The model before training, which replay compares with."""
    model_class: Any = getattr(blip_tf, f"TF{start.head}")
    return (start.old or start).load(model_class, settings, dtype=HALF[settings.precision])


def add_lora(model: Any, start: Start, settings: Settings) -> list[Parameter]:
    """Give linear layers the factors that `settings.lora` asks for, and return their rows."""
    rows = lora_rows(model.table(), settings.lora, settings.freeze)
    weights = {id(model.get_parameter(f"{name}.weight")) for name in changed_layers(rows)}
    new: dict[int, LoraLinear] = {}
    with dtype_policy(HALF[settings.precision]):
        for parent in model._flatten_layers():
            for name, layer in list(vars(parent).items()):  # encoder and decoder of pre-training share some
                if type(layer) is Linear and id(layer.weight) in weights:
                    if id(layer) not in new:
                        new[id(layer)] = LoraLinear(layer, settings.lora, SCALE)
                    setattr(parent, name, new[id(layer)])
    for row, value in lora_values(rows, model.config, settings.seed, start.adapter):
        model.get_parameter(row.name).assign(row.to_tensorflow(value))
    return rows


def _losses(output: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: tf.cast(value, tf.float32)
        for name, value in output.items()
        if name.startswith("loss") and value is not None
    }


def _sum(value: Any) -> Any:
    """The sum over all replicas of each tensor."""
    if processes()[1] == 1:
        return value
    own = tf.nest.map_structure(tf.identity, value)  # what is the same tensor in all replicas cannot be reduced
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, own)


def _tensors(part: MicroBatch, alpha: float | None) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of the model's call, whole numbers as int32, and what the loss is the mean over."""
    inputs = {
        name: tf.constant(value.astype(np.int32) if value.dtype == np.int64 and name != "image_ids" else value)
        for name, value in part.inputs.items()
    }
    if part.noise is not None:
        inputs["noise"] = tf.constant(part.noise)
    if alpha is not None:
        inputs["alpha"] = tf.constant(alpha, tf.float32)
    return inputs, tf.constant(float(part.count))
