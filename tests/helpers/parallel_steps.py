"""One training step on two processes or two devices; `test_parallel.py` runs it, for PyTorch with `torchrun`.

`tests/helpers/parallel_steps.py pt|tf HEAD FOLDER` reads FOLDER/batch.npz and the model in FOLDER,
and writes the losses,
gradients and state of the whole to FOLDER/pt.npz or tf.npz.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

PARTS = 2


def halves(values: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The batch in parts; the noise has an example in each column."""
    split = {name: np.split(value, PARTS, axis=int(name == "noise")) for name, value in values.items()}
    return [{name: parts[i] for name, parts in split.items()} for i in range(PARTS)]


def pytorch(head: str, folder: Path) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    import blip_pt

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = getattr(blip_pt, head).from_pretrained(folder).train()
    values = halves(dict(np.load(folder / "batch.npz")))[rank]
    if rank:  # texts may be of other lengths elsewhere
        length = int(values["attention_mask"].sum(axis=1).max())
        values |= {name: values[name][:, :length] for name in ("input_ids", "attention_mask")}
    parallel = DistributedDataParallel(model)  # while it lives, gradients are averaged
    output = parallel(**{name: torch.from_numpy(value) for name, value in values.items()})
    output.loss.backward()
    found: dict[str, Any] = {}
    for name, value in output.items():
        if name.startswith("loss"):
            value = value.detach().clone()
            dist.all_reduce(value)
            found[name] = value / PARTS
    for parameter in model.table():
        tensor = model.get_tensor(parameter.name)
        found[f"weight {parameter.name}"] = tensor.detach()
        if tensor.grad is not None:
            found[f"grad {parameter.name}"] = tensor.grad
    if rank == 0:
        np.savez(folder / "pt.npz", **{name: tensor.numpy() for name, tensor in found.items()})
    dist.barrier()  # no process leaves while another one still works
    dist.destroy_process_group()
    os._exit(0)  # all is done: threads of gloo that outlive the group now and then abort an ordinary exit


def tensorflow(head: str, folder: Path) -> None:
    import tensorflow as tf

    import blip_tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * PARTS)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(PARTS)])
    with strategy.scope():
        model = getattr(blip_tf, "TF" + head).from_pretrained(folder)
    parts = halves(dict(np.load(folder / "batch.npz")))
    weights = model.trainable_weights

    @tf.function(autograph=False)
    def step(values: Any) -> Any:
        with tf.GradientTape() as tape:
            output = model(**values, training=True)
        gradients = [
            tf.zeros_like(w) if g is None else tf.convert_to_tensor(g)
            for g, w in zip(tape.gradient(output.loss, weights), weights, strict=True)
        ]
        losses = {name: value for name, value in output.items() if name.startswith("loss")}
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, (losses, gradients))

    values = strategy.experimental_distribute_values_from_function(
        lambda context: {name: tf.constant(value) for name, value in parts[context.replica_id_in_sync_group].items()}
    )
    losses, gradients = strategy.run(step, args=(values,))
    local = strategy.experimental_local_results
    found = {name: local(value)[0].numpy() for name, value in losses.items()}
    by_weight = {id(w): local(g)[0].numpy() for w, g in zip(weights, gradients, strict=True)}
    for parameter in model.table():
        weight = model.get_parameter(parameter.name)
        found[f"weight {parameter.name}"] = parameter.from_tensorflow(weight.value.numpy())
        if id(weight) in by_weight:
            found[f"grad {parameter.name}"] = parameter.from_tensorflow(by_weight[id(weight)])
    np.savez(folder / "tf.npz", **found)


if __name__ == "__main__":
    _, framework, head, folder = sys.argv
    (pytorch if framework == "pt" else tensorflow)(head, Path(folder))
