"""Evaluation of grounding: does a matching model look at what an expression means?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blip_core.datasets import Dataset
from blip_core.evaluation.common import Evaluation, Run
from blip_core.inference import Explainer
from blip_core.inference.attribution import find_box, peak
from blip_core.metrics import best_box, box_iou, is_inside
from blip_core.parameters.position_embeddings import bicubic_matrix
from blip_core.processing.processor import BlipProcessor
from blip_core.tasks import get_task

RIGHT = 0.5
"""The intersection over union from which on a box counts as right."""


def evaluate_grounding(
    model: Any,
    processor: BlipProcessor,
    dataset: Dataset,
    *,
    method: str = "gradcam",
    layer: int | None = None,
    detections: Mapping[str, Sequence[Sequence[float]]] | None = None,
    **common: Any,
) -> Evaluation:
    """Map each expression in its picture, and compare with the box that it means: `pointing` and `box_accuracy`.

    The map is the mean of those of all tokens, as in ALBEF's evaluation on RefCOCO+.

    Args:
        model: A matching model of an engine with gradients.
        processor: Its processor.
        dataset: Opened for "grounding".
        method: "gradcam" or "attention".
        layer: The layer of the text encoder, from 0; 7 of 12 unless given (ALBEF's own has 8).
        detections: Boxes of a detector by the pictures' `image_id`, each x, y, width and height and perhaps more. Adds
            `detection_accuracy`, how often the box with most of the map is right: what ALBEF reports.
        **common: Keywords of `Run`.

    Returns:
        The shares of expressions whose map is highest in the box, and whose own box overlaps with the right one by an
        intersection over union of 0.5 or more; and each expression.

    Raises:
        ValueError: For a model of another head, a picture without detections, and where nothing can be compared.
    """
    explainer, run, task = (
        Explainer(model, processor),
        Run("grounding", processor, dataset, **common),
        get_task("grounding"),
    )
    layer, patch = explainer.check(method, layer), model.config.vision_config.patch_size
    groups = run.groups()
    if detections is not None:
        missing = [group[0].key for group in groups.values() if not detections.get(str(group[0].image_id))]
        if missing:
            raise ValueError(f"The detections have no boxes of {len(missing)} pictures, such as that of {missing[0]}.")
    entries: list[dict[str, Any]] = []
    for batch in run.batches([group[0] for group in groups.values()]):
        pixels = batch.inputs["pixel_values"]
        states, grid = explainer.encode(pixels), [size // patch for size in pixels.shape[2:]]
        for row, first in enumerate(batch.examples):
            size = first.images[0].load().size
            asked = [(example, text) for example in groups[first.key] for text in example.texts]
            texts = [task.clean(text) for _, text in asked]
            maps = explainer.expression_maps(states[row : row + 1], texts, grid, method=method, layer=layer)
            for (example, text), heat in zip(asked, maps, strict=True):
                entry: dict[str, Any] = {"example": example.key, "image": first.images[0].name, "text": text}
                found = find_box(heat, size)
                entry |= {"box": found and list(found.box), "score": found and found.score}
                point = peak(heat, size) if found else None
                entry |= {"peak": point and list(point)}
                if detections is not None:
                    entry["detection"] = list(best_box(_enlarged(heat, size), detections[str(first.image_id)]))
                if example.box:
                    entry |= {"right": list(example.box), "pointing": is_inside(point, example.box)}
                    entry["iou"] = box_iou(found.box, example.box) if found else 0.0
                    if detections is not None:
                        entry["detection_iou"] = box_iou(entry["detection"], example.box)
                entries.append(entry)
    entries = run.processes.join(entries)
    compared = [entry for entry in entries if "right" in entry]
    metrics: dict[str, float] = {}
    if compared:
        metrics = {"pointing": _mean(compared, lambda entry: entry["pointing"])}
        metrics["box_accuracy"] = _mean(compared, lambda entry: entry["iou"] >= RIGHT)
        if detections is not None:
            metrics["detection_accuracy"] = _mean(compared, lambda entry: entry["detection_iou"] >= RIGHT)
    return run.result(metrics, {"expressions": len(compared)}, entries)


def _mean(entries: Sequence[dict[str, Any]], value: Any) -> float:
    return float(np.mean([value(entry) for entry in entries]))


def _enlarged(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (rows, columns) at each pixel of a picture of `size`, (height, width), by bicubic interpolation."""
    rows, columns = bicubic_matrix(heat.shape[0], size[1]), bicubic_matrix(heat.shape[1], size[0])
    result: np.ndarray = rows @ heat @ columns.T
    return result
