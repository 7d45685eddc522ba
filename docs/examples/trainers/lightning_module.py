"""Fine-tune a captioner with PyTorch Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from blip_pt import BlipForConditionalGeneration, BlipProcessor


class Captioner(lightning.LightningModule):
    """A captioner that is loaded from `name`."""

    def __init__(self, name: str, lr: float = 1e-5):
        super().__init__()
        self.save_hyperparameters()
        self.model = BlipForConditionalGeneration.from_pretrained(name).train()

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        loss = self.model(**batch).loss
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"], weight_decay=0.05)


def train(name: str, pairs: Sequence[tuple[Any, str]], out: str, lr: float = 1e-5, **options: Any) -> Captioner:
    """Train on pairs of a picture and a caption; `options` are those of `lightning.Trainer`."""
    processor = BlipProcessor.from_pretrained(name)

    def collate(rows: Sequence[tuple[Any, str]]) -> dict[str, Any]:
        images, captions = zip(*rows, strict=True)
        return dict(processor(list(images), list(captions), return_labels=True, return_tensors="pt"))

    module = Captioner(name, lr)
    lightning.Trainer(default_root_dir=out, **options).fit(module, DataLoader(pairs, 16, collate_fn=collate))
    module.model.save_pretrained(out)
    processor.save_pretrained(out)
    return module
