"""Matching pictures and texts: scores, features, and where the model looks."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tests.oracle.programs import picture

TEXTS = ["a cat", "an astronaut in a suit", "a cup of coffee"]


def model_card(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "itm")
    model = blip.BlipForImageTextRetrieval.from_pretrained(at / "itm")
    inputs = processor(picture(), "a woman and a dog", return_tensors="pt")
    match = F.softmax(model(**inputs)[0], dim=1)[:, 1].item()
    return {"match": match, "cosine": model(**inputs, use_itm_head=False)[0].item()}


def model_card_in_half_precision(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "itm")
    model = blip.BlipForImageTextRetrieval.from_pretrained(at / "itm", torch_dtype=torch.float16)
    inputs = processor(picture(), "a woman and a dog", return_tensors="pt").to("cpu", torch.float16)
    return str(model(**inputs)[0].dtype)


def a_table_of_scores(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "itm")
    model = blip.BlipForImageTextRetrieval.from_pretrained(at / "itm").eval()
    inputs = processor(images=[picture(), picture("cat.png")], text=TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs, use_itm_head=False).itm_score


def the_best_caption(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "itm")
    model = blip.BlipForImageTextRetrieval.from_pretrained(at / "itm").eval()
    scores = []
    for text in TEXTS:
        with torch.no_grad():
            out = model(**processor(images=picture(), text=text, return_tensors="pt"))
        scores.append(torch.nn.functional.softmax(out.itm_score, dim=1)[0, 1].item())
    return {"scores": scores, "best": TEXTS[scores.index(max(scores))]}


def features_by_hand(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "itm")
    model = blip.BlipForImageTextRetrieval.from_pretrained(at / "itm").eval()
    inputs = processor(picture(), "a cat", return_tensors="pt")
    states = model.vision_model(inputs.pixel_values)[0]
    image = F.normalize(model.vision_proj(states[:, 0, :]), dim=-1)
    text = model.text_encoder(inputs.input_ids, attention_mask=inputs.attention_mask).last_hidden_state
    text = F.normalize(model.text_proj(text[:, 0, :]), dim=-1)
    return {"image": image, "text": text, "cosine": image @ text.t()}


def features_of_blip_model(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "plain")
    model = blip.BlipModel.from_pretrained(at / "plain").eval()
    inputs = processor(images=picture(), text=TEXTS[:1], return_tensors="pt", padding=True)
    out = model(**inputs)
    return {
        "image": model.get_image_features(pixel_values=inputs.pixel_values),
        "text": model.get_text_features(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask),
        "logits": out.logits_per_image,
        "probs": out.logits_per_image.softmax(dim=1),
    }


def grad_cam_with_hooks(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "itm")
    model = blip.BlipForImageTextRetrieval.from_pretrained(at / "itm").eval()
    kept = {}

    def keep(module, inputs, output):
        kept["context"] = output[0]
        output[0].register_hook(lambda gradient: kept.update(gradient=gradient))

    module = model.text_encoder.encoder.layer[1].crossattention.self
    handle = module.register_forward_hook(keep)
    out = model(**processor(picture(), "an astronaut", return_tensors="pt"))
    out.itm_score[0, 1].backward()
    handle.remove()
    return {"context": kept["context"], "gradient": kept["gradient"], "query": module.query.weight.grad}


def attention_to_the_picture(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "itm")
    model = blip.BlipForImageTextRetrieval.from_pretrained(at / "itm", attn_implementation="eager").eval()
    inputs = processor(picture(), "an astronaut", return_tensors="pt")
    states = model.vision_model(inputs.pixel_values).last_hidden_state
    out = model.text_encoder(
        inputs.input_ids, inputs.attention_mask, encoder_hidden_states=states, output_attentions=True, return_dict=True
    )
    return out.cross_attentions[-1].mean(dim=1)[0, :, 1:]


def states_of_each_layer(blip, at):
    model = blip.BlipForImageTextRetrieval.from_pretrained(at / "itm").eval()
    processor = blip.BlipProcessor.from_pretrained(at / "itm")
    states = []
    hooks = [
        layer.register_forward_hook(lambda *given: states.append(given[2][0]))
        for layer in model.text_encoder.encoder.layer
    ]
    hooks += [
        layer.register_forward_hook(lambda *given: states.append(given[2][0]))
        for layer in model.vision_model.encoder.layers
    ]
    model(**processor(picture(), "a cat", return_tensors="pt"))
    for hook in hooks:
        hook.remove()
    return [state.reshape(-1, state.shape[-1]).norm(dim=-1) for state in states]
