"""Fine-tuning: by hand, with Trainer, accelerate and PEFT, with new words and heads of one's own."""

from __future__ import annotations

import copy

import torch
from torch.utils.data import DataLoader, Dataset

from tests.oracle.programs import picture

CAPTIONS = ["an astronaut in front of a flag", "a cat looks up"]


class _Captions(Dataset):
    """The data set of the captioning notebook."""

    def __init__(self, processor, longest=9):
        self.images, self.processor, self.longest = [picture(), picture("cat.png")], processor, longest

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        encoding = self.processor(
            images=self.images[index], text=CAPTIONS[index], padding="max_length", max_length=self.longest,
            truncation=True, return_tensors="pt",
        )  # fmt: skip
        return {name: value.squeeze() for name, value in encoding.items()}


def _steps(model, batches, lr=1e-3):
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=lr)
    model.train()
    losses = []
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def the_notebook(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    loader = DataLoader(_Captions(processor), shuffle=False, batch_size=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    model.train()
    losses = []
    for _ in range(3):
        for batch in loader:
            input_ids = batch.pop("input_ids").to(device)
            pixel_values = batch.pop("pixel_values").to(device)
            outputs = model(input_ids=input_ids, pixel_values=pixel_values, labels=input_ids)
            losses.append(outputs.loss.item())
            outputs.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return losses


def padding_left_out_of_the_loss(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")

    def collate(rows):
        batch = processor(
            images=[row[0] for row in rows], text=[row[1] for row in rows], padding=True, return_tensors="pt"
        )
        labels = batch["input_ids"].clone()
        labels[labels == processor.tokenizer.pad_token_id] = -100
        return {**batch, "labels": labels}

    loader = DataLoader(list(zip([picture(), picture("cat.png")], CAPTIONS, strict=True)), 2, collate_fn=collate)
    return _steps(model, [batch for _ in range(2) for batch in loader])


def only_the_decoder(blip, at):
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "vision_model" not in name
    groups = [
        {"params": [p for n, p in model.named_parameters() if "bias" not in n and p.requires_grad]},
        {"params": [p for n, p in model.named_parameters() if "bias" in n and p.requires_grad], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    row = _Captions(blip.BlipProcessor.from_pretrained(at / "caption"))[0]
    batch = {name: value[None] for name, value in row.items()}
    model.train()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    optimizer.step()
    return {
        "loss": model(**batch, labels=batch["input_ids"]).loss.item(),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "all": model.num_parameters(),
        "names": sorted(n for n, p in model.named_parameters() if p.requires_grad)[:5],
    }


def _arguments(folder, **options):
    from transformers import TrainingArguments

    return TrainingArguments(
        str(folder), per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False, learning_rate=1e-3, logging_steps=1, seed=3, **options,
    )  # fmt: skip


def _rows(processor):
    return [{**row, "labels": row["input_ids"]} for row in map(_Captions(processor).__getitem__, range(2))]


def _captioner(blip, at):
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    model.accepts_loss_kwargs = False  # transformers 4.57.6 fails without: its decoder does not take num_items_in_batch
    return model


def _losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trainer(blip, at):
    from transformers import Trainer

    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = _captioner(blip, at)
    out = at / f"trainer-{blip.__name__}"
    trainer = Trainer(
        model=model, args=_arguments(out, num_train_epochs=3, save_strategy="epoch"), train_dataset=_rows(processor),
        processing_class=processor,
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(out / "best"))
    again = blip.BlipForConditionalGeneration.from_pretrained(out / "best").eval()
    words = blip.BlipProcessor.from_pretrained(out / "best").tokenizer
    batch = {name: value[None] for name, value in _rows(processor)[0].items()}
    return {"losses": _losses(trainer), "again": again(**batch).loss.item(), "ids": words("a cat")["input_ids"]}


def trainer_with_gradient_checkpointing(blip, at):
    from transformers import Trainer

    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = _captioner(blip, at)
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    arguments = _arguments(at / "unused", max_steps=2, save_strategy="no", max_grad_norm=0.5, **options)
    trainer = Trainer(model=model, args=arguments, train_dataset=_rows(processor))
    trainer.train()
    return _losses(trainer)


def trainer_that_goes_on(blip, at):
    from transformers import Trainer

    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    out = at / f"resumed-{blip.__name__}"

    def make(steps):
        model = _captioner(blip, at)
        arguments = _arguments(out, max_steps=steps, save_steps=2, lr_scheduler_type="constant")
        return Trainer(model=model, args=arguments, train_dataset=_rows(processor))

    make(2).train()
    second = make(4)
    second.train(resume_from_checkpoint=True)
    return {"losses": _losses(second), "files": (out / "checkpoint-4" / "model.safetensors").is_file()}


def trainer_that_evaluates_by_generation(blip, at):
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    processor = blip.BlipProcessor.from_pretrained(at / "vqa")
    model = blip.BlipForQuestionAnswering.from_pretrained(at / "vqa")
    rows = []
    for image in (picture(), picture("cat.png")):
        inputs = processor(image, "what is this?", return_tensors="pt")
        answer = processor(text="a cat", return_tensors="pt").input_ids
        rows.append({**{name: value[0] for name, value in inputs.items()}, "labels": answer[0]})
    arguments = Seq2SeqTrainingArguments(
        str(at / "unused"), per_device_eval_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False, predict_with_generate=True, generation_max_length=6, prediction_loss_only=False,
    )  # fmt: skip

    def texts(prediction):
        ids = [[token for token in row if token >= 0] for row in prediction.predictions]
        return {"letters": sum(map(len, processor.batch_decode(ids, skip_special_tokens=True)))}

    trainer = Seq2SeqTrainer(
        model=model, args=arguments, eval_dataset=rows, processing_class=processor.tokenizer, compute_metrics=texts
    )
    found = trainer.evaluate()
    return {name: found[name] for name in ("eval_letters",)}


def accelerate(blip, at):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = DataLoader(_rows(processor), batch_size=1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    losses = []
    for _ in range(2):
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    out = at / f"accelerate-{blip.__name__}"
    accelerator.unwrap_model(model).save_pretrained(out, save_function=accelerator.save)
    again = blip.BlipForConditionalGeneration.from_pretrained(out)
    return {"losses": losses, "bias": again.text_decoder.cls.predictions.bias[:5]}


def lora(blip, at):
    from peft import LoraConfig, PeftModel, get_peft_model

    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    torch.manual_seed(0)
    settings = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, bias="none", target_modules=["query", "value", "qkv"])
    model = get_peft_model(model, settings)
    batch = next(iter(DataLoader(_rows(processor), batch_size=2)))
    losses = _steps(model, [batch] * 3, lr=1e-2)
    out = at / f"lora-{blip.__name__}"
    model.save_pretrained(out)
    base = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    merged = PeftModel.from_pretrained(base, out).merge_and_unload().eval()
    inputs = processor(picture(), return_tensors="pt")
    return {
        "losses": losses,
        "trainable": model.get_nb_trainable_parameters(),
        "loss": merged(**batch).loss.item(),
        "ids": merged.generate(**inputs, max_new_tokens=5),
    }


def lora_with_a_task(blip, at):
    from peft import LoraConfig, TaskType, get_peft_model

    processor = blip.BlipProcessor.from_pretrained(at / "vqa")
    model = blip.BlipForQuestionAnswering.from_pretrained(at / "vqa")
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=r".*text_decoder.*self\.(query|key)"))
    inputs = processor(picture(), "what is this?", return_tensors="pt")
    labels = processor(text="a cat", return_tensors="pt").input_ids
    batch = {**inputs, "labels": labels, "decoder_input_ids": labels}
    return {"losses": _steps(model, [batch] * 2, lr=1e-2), "kind": TaskType.QUESTION_ANS.value}


def new_words(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    added = processor.tokenizer.add_tokens(["blorptown", "zedville"])
    before = model.text_decoder.get_input_embeddings().weight[:30000].detach().clone()
    model.text_decoder.resize_token_embeddings(30524 + added)
    after = model.text_decoder.get_input_embeddings().weight
    pieces = processor.tokenizer.tokenize("a cat in blorptown")
    return {"added": added, "pieces": pieces, "rows": after.shape[0], "kept": bool((after[:30000] == before).all())}


def a_head_of_ones_own(blip, at):
    class Classifier(torch.nn.Module):
        def __init__(self, folder, classes=3):
            super().__init__()
            self.blip = blip.BlipForConditionalGeneration.from_pretrained(folder).vision_model
            self.head = torch.nn.Linear(self.blip.config.hidden_size, classes)

        def forward(self, pixel_values, labels=None):
            logits = self.head(self.blip(pixel_values=pixel_values).pooler_output)
            return logits if labels is None else torch.nn.functional.cross_entropy(logits, labels)

    torch.manual_seed(0)
    model = Classifier(at / "caption")
    torch.manual_seed(1)
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    pixels = blip.BlipImageProcessor.from_pretrained(at / "caption")([picture()], return_tensors="pt").pixel_values
    loss = model(pixels, torch.tensor([1]))
    loss.backward()
    return {"loss": loss.item(), "gradient": model.blip.embeddings.patch_embedding.weight.grad.norm()}


def a_subclass(blip, at):
    class Captioner(blip.BlipForConditionalGeneration):
        def __init__(self, config):
            super().__init__(config)
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, *given, **named):
            out = super().forward(*given, **named)
            out.loss = out.loss * self.scale * 2
            return out

    model = Captioner.from_pretrained(at / "caption").eval()
    with torch.no_grad():
        model.scale.fill_(1)  # whatever it was drawn as
    batch = {n: v[None] for n, v in _rows(blip.BlipProcessor.from_pretrained(at / "caption"))[0].items()}
    return model(**batch).loss.item()


def weights_by_torch_save(blip, at):
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias.add_(0.5)
    path = at / f"weights-{blip.__name__}.pt"
    torch.save(model.state_dict(), path)
    again = blip.BlipForConditionalGeneration(blip.BlipConfig.from_pretrained(at / "caption"))
    again.load_state_dict(torch.load(path))
    batch = {n: v[None] for n, v in _rows(blip.BlipProcessor.from_pretrained(at / "caption"))[0].items()}
    return {"loss": again.eval()(**batch).loss.item(), "names": sorted(n for n, _ in again.named_parameters())}


def a_moving_average(blip, at):
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    slow = copy.deepcopy(model).eval()
    batch = {n: v[None] for n, v in _rows(blip.BlipProcessor.from_pretrained(at / "caption"))[0].items()}
    _steps(model, [batch] * 2)
    with torch.no_grad():
        for old, new in zip(slow.parameters(), model.parameters(), strict=True):
            old.mul_(0.9).add_(new, alpha=0.1)
    return slow(**batch).loss.item()


def lightning(blip, at):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
            self.losses = []

        def training_step(self, batch, index):
            loss = self.model(**batch).loss
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    module = Module()
    module.model.train()
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(_rows(processor), batch_size=2))
    return module.losses
