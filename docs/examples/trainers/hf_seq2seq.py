"""Fine-tune a question answerer with transformers' Seq2SeqTrainer, which evaluates the answers that it generates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from blip_pt import BlipForQuestionAnswering, BlipProcessor


def train(name: str, triples: Sequence[tuple[Any, str, str]], out: str, **options: Any) -> dict[str, float]:
    """Train on and evaluate triples of a picture, a question and its answer; returns the metrics."""
    processor = BlipProcessor.from_pretrained(name)
    model = BlipForQuestionAnswering.from_pretrained(name)

    def collate(rows: Sequence[tuple[Any, str, str]]) -> dict[str, Any]:
        images, questions, answers = (list(column) for column in zip(*rows, strict=True))
        inputs = processor(images, questions, return_tensors="pt")
        labels = processor(text=answers, return_tensors="pt").input_ids
        return {**inputs, "labels": labels.masked_fill(labels == processor.tokenizer.pad_token_id, -100)}

    def measure(found: Any) -> dict[str, float]:
        pairs = zip(*(rows * (rows >= 0) for rows in (found.predictions, found.label_ids)), strict=True)
        texts = [processor.batch_decode(pair, skip_special_tokens=True) for pair in pairs]
        return {"accuracy": sum(answer == truth for answer, truth in texts) / len(texts)}

    settings = {"predict_with_generate": True, "remove_unused_columns": False, "report_to": [], "learning_rate": 2e-5}
    arguments = Seq2SeqTrainingArguments(out, **{**settings, **options})
    trainer = Seq2SeqTrainer(model, arguments, collate, triples, triples, processor.tokenizer, compute_metrics=measure)
    trainer.train()
    return trainer.evaluate()
