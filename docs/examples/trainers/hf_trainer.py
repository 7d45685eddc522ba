"""Fine-tune a captioner with transformers' Trainer: gradient checkpointing, and a run that goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from blip_pt import BlipForConditionalGeneration, BlipProcessor


def train(name: str, pairs: Sequence[tuple[Any, str]], out: str, **options: Any) -> Trainer:
    """Train on pairs of a picture and a caption; `options` are those of `TrainingArguments`."""
    processor = BlipProcessor.from_pretrained(name)
    model = BlipForConditionalGeneration.from_pretrained(name)

    def collate(rows: Sequence[tuple[Any, str]]) -> dict[str, Any]:
        images, captions = zip(*rows, strict=True)
        return dict(processor(list(images), list(captions), return_labels=True, return_tensors="pt"))

    settings = {
        "learning_rate": 1e-5, "per_device_train_batch_size": 16, "num_train_epochs": 5, "remove_unused_columns": False,
        "gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}, "report_to": [],
    }  # fmt: skip
    arguments = TrainingArguments(out, **{**settings, **options})
    trainer = Trainer(model, arguments, collate, pairs, processing_class=processor)
    model.config.save_pretrained(out)  # Trainer writes weights alone; what is loaded from here finds it
    trainer.train(resume_from_checkpoint=get_last_checkpoint(out))
    trainer.save_model(out)  # `from_pretrained(out)` loads the model and the processor
    return trainer
