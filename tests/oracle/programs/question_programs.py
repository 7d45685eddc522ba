"""Visual question answering: the model card, a service, losses, and training."""

from __future__ import annotations

import torch

from tests.oracle.programs import picture


def model_card(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "vqa")
    model = blip.BlipForQuestionAnswering.from_pretrained(at / "vqa")
    inputs = processor(picture(), "how many dogs are in the picture?", return_tensors="pt")
    out = model.generate(**inputs)
    return {"ids": out, "text": processor.decode(out[0], skip_special_tokens=True)}


def model_card_in_half_precision(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "vqa")
    model = blip.BlipForQuestionAnswering.from_pretrained(at / "vqa", torch_dtype=torch.bfloat16)
    inputs = processor(picture(), "how many dogs?", return_tensors="pt").to(torch.bfloat16)
    return {"types": [str(v.dtype) for v in inputs.values()], "ids": model.generate(**inputs, max_new_tokens=2)}


def a_service_of_questions(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "vqa")
    model = blip.BlipForQuestionAnswering.from_pretrained(at / "vqa").eval()
    image, answers = picture("cat.png"), {}
    for question in ("what is this?", "what colour is the cat?", "is it day or night outside"):
        encoding = processor(images=image, text=question, return_tensors="pt").to("cpu")
        with torch.no_grad():
            outputs = model.generate(**encoding, max_new_tokens=5, num_beams=2)
        answers[question] = processor.batch_decode(outputs, skip_special_tokens=True)[0].strip()
    return answers


def one_question_of_many_pictures(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "vqa")
    model = blip.BlipForQuestionAnswering.from_pretrained(at / "vqa")
    images = [picture(), picture("cat.png")]
    inputs = processor(images=images, text=["who is there?"] * 2, padding=True, return_tensors="pt")
    return model.generate(**inputs, max_length=6)


def loss_of_an_answer(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "vqa")
    model = blip.BlipForQuestionAnswering.from_pretrained(at / "vqa").eval()
    inputs = processor(picture(), "how many dogs?", return_tensors="pt")
    labels = processor(text="two dogs", return_tensors="pt").input_ids
    out = model(**inputs, labels=labels, decoder_input_ids=labels)
    return {"loss": out.loss.item(), "picture": out.image_embeds}


def training_with_padded_answers(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "vqa")
    model = blip.BlipForQuestionAnswering.from_pretrained(at / "vqa").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    inputs = processor(
        picture(), "what is it?", padding="max_length", max_length=6, truncation=True, return_tensors="pt"
    )
    answer = processor(text="a cat", padding="max_length", max_length=6, return_tensors="pt")
    losses = []
    for _ in range(3):
        labels = answer.input_ids.masked_fill(answer.input_ids == processor.tokenizer.pad_token_id, -100)
        out = model(
            **inputs, decoder_input_ids=answer.input_ids, decoder_attention_mask=answer.attention_mask, labels=labels
        )
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out.loss.item())
    return losses


def states_of_a_question(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "vqa")
    model = blip.BlipForQuestionAnswering.from_pretrained(at / "vqa").eval()
    inputs = processor(picture(), "what is it?", return_tensors="pt")
    vision = model.vision_model(pixel_values=inputs.pixel_values)
    states = vision.last_hidden_state
    mask = torch.ones(states.shape[:-1], dtype=torch.long)
    text = model.text_encoder(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        return_dict=False,
    )
    return text[0]
