"""Pictures, texts and data sets on their way to a model."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch

from tests.oracle.programs import PHOTOS, picture

TEXTS = ["a cat", "two dogs run along the beach, don't they?"]


def texts_of_one_length(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    inputs = processor(text=TEXTS, padding="max_length", truncation=True, max_length=8, return_tensors="pt")
    return dict(inputs)


def labels_back_to_text(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    labels = processor(text=TEXTS, padding=True, return_tensors="pt").input_ids
    labels[labels == processor.tokenizer.pad_token_id] = -100
    back = torch.where(labels != -100, labels, torch.tensor(processor.tokenizer.pad_token_id))
    return processor.batch_decode(back, skip_special_tokens=True)


def a_collator(blip, at):
    from transformers import DataCollatorWithPadding

    processor = blip.BlipProcessor.from_pretrained(at / "vqa")
    rows = [dict(processor.tokenizer(text, return_token_type_ids=False)) for text in TEXTS]
    return dict(DataCollatorWithPadding(processor.tokenizer, pad_to_multiple_of=8)(rows))


def a_collator_of_language_models(blip, at):
    from transformers import DataCollatorForLanguageModeling

    tokenizer = blip.BlipProcessor.from_pretrained(at / "caption").tokenizer
    rows = [tokenizer(text, return_token_type_ids=False) for text in TEXTS]
    return dict(DataCollatorForLanguageModeling(tokenizer, mlm=False)(rows))


def a_collator_of_ones_own(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    rows = [processor(images=picture(), text=text) for text in TEXTS]
    pixels = torch.stack([torch.tensor(np.array(row["pixel_values"][0])) for row in rows])
    texts = processor.tokenizer.pad(
        {"input_ids": [row["input_ids"] for row in rows]}, padding=True, return_tensors="pt"
    )
    return {"pixel_values": pixels, **texts}


def a_data_set_that_is_mapped(blip, at):
    from datasets import Dataset

    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    rows = Dataset.from_dict({"image": [str(PHOTOS / "astronaut.jpg"), str(PHOTOS / "cat.png")], "text": TEXTS})

    def prepare(batch):
        from PIL import Image

        images = [Image.open(path).convert("RGB") for path in batch["image"]]
        return processor(images=images, text=batch["text"], padding="max_length", max_length=9, truncation=True)

    mapped = rows.map(prepare, batched=True, remove_columns=["image", "text"])
    mapped.set_format("torch")
    return {name: mapped[:][name] for name in ("input_ids", "attention_mask", "pixel_values")}


def a_data_set_that_is_transformed(blip, at):
    from datasets import Dataset

    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    rows = Dataset.from_dict({"image": [str(PHOTOS / "astronaut.jpg"), str(PHOTOS / "cat.png")], "text": TEXTS})

    def transform(batch):
        from PIL import Image

        images = [Image.open(path).convert("RGB") for path in batch["image"]]
        inputs = processor(images=images, text=batch["text"], padding=True, return_tensors="pt")
        inputs.update({"labels": inputs["input_ids"]})
        return inputs

    rows.set_transform(transform)
    return dict(rows[:2])


def saved_and_read_again(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    out = at / f"saved-{blip.__name__}"
    model.save_pretrained(out)
    processor.save_pretrained(out)
    model = blip.BlipForConditionalGeneration.from_pretrained(out)
    processor = blip.BlipProcessor.from_pretrained(out)
    return model.generate(**processor(picture(), "a picture of", return_tensors="pt"), max_new_tokens=5)


def a_picture_from_a_form(blip, at):
    data = base64.b64encode((PHOTOS / "cat.png").read_bytes()).decode()
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    processor = blip.BlipImageProcessor.from_pretrained(at / "caption")
    array = np.array(image)
    found = [
        processor(image, return_tensors="np"),
        processor(array),
        processor(torch.from_numpy(array).permute(2, 0, 1)),
    ]
    return [np.array(one["pixel_values"]) for one in found]


def settings_of_pictures(blip, at):
    processor = blip.BlipImageProcessor(
        size={"height": 20, "width": 24}, do_normalize=False, rescale_factor=1 / 127.5, do_convert_rgb=True
    )
    return {"pixels": processor.preprocess(picture(), return_tensors="pt").pixel_values, "size": processor.size}


def a_tokenizer_given_by_hand(blip, at):
    from transformers import BertTokenizerFast

    tokenizer = BertTokenizerFast.from_pretrained(at / "caption")
    processor = blip.BlipProcessor(
        image_processor=blip.BlipImageProcessor(size={"height": 24, "width": 24}), tokenizer=tokenizer
    )
    return dict(processor(images=picture(), text=TEXTS, padding=True, return_tensors="pt"))


def a_configuration_by_hand(blip, at):
    text = blip.BlipTextConfig(
        vocab_size=90, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20
    )
    vision = blip.BlipVisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = blip.BlipConfig.from_text_vision_configs(text, vision, projection_dim=6)
    config.text_config.hidden_dropout_prob = 0.25
    model = blip.BlipForImageTextRetrieval(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    return {
        "count": count,
        "dropout": model.config.text_config.hidden_dropout_prob,
        "width": config.vision_config.hidden_size,
    }


def offsets_and_masks(blip, at):
    tokenizer = blip.BlipProcessor.from_pretrained(at / "caption").tokenizer
    found = tokenizer(
        TEXTS, padding=True, truncation=True, max_length=7, stride=2, return_overflowing_tokens=True,
        return_offsets_mapping=True, return_special_tokens_mask=True, return_token_type_ids=True, return_length=True,
    )  # fmt: skip
    return {
        name: [list(map(list, row)) if name == "offset_mapping" else row for row in rows]
        for name, rows in found.items()
    }
