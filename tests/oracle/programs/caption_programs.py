"""Captioning: model cards, a service, batches, options of generation, and what is inside of the model."""

from __future__ import annotations

import torch

from tests.oracle.programs import picture


def model_card_with_a_prompt(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    inputs = processor(picture(), "a photography of", return_tensors="pt")
    given = {name: value.clone() for name, value in inputs.items()}  # transformers writes into the prompt
    out = model.generate(**inputs)
    return {"inputs": given, "ids": out, "text": processor.decode(out[0], skip_special_tokens=True)}


def model_card_without_a_prompt(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption").to("cpu")
    inputs = processor(picture("cat.png"), return_tensors="pt").to("cpu")
    out = model.generate(**inputs)
    return {"ids": out, "text": processor.decode(out[0], skip_special_tokens=True)}


def model_card_in_half_precision(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption", torch_dtype=torch.float16).to("cpu")
    inputs = processor(picture(), "a photography of", return_tensors="pt").to("cpu", torch.float16)
    types = {name: str(value.dtype) for name, value in inputs.items()}
    return {"types": types, "weights": str(model.dtype), "ids": model.generate(**inputs, max_new_tokens=3)}


def many_pictures_with_beams(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption").eval()
    with torch.no_grad():
        inputs = processor(images=[picture(), picture("cat.png")], return_tensors="pt")
        ids = model.generate(pixel_values=inputs.pixel_values, max_length=12, num_beams=3, min_length=5)
    return [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]


def no_phrase_twice(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    inputs = processor(picture(), text="a picture of", return_tensors="pt")
    options = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "num_beams": 2, "length_penalty": 0.5}
    return model.generate(**inputs, max_new_tokens=9, early_stopping=True, **options)


def several_captions_of_a_picture(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    inputs = processor(picture(), return_tensors="pt")
    return model.generate(**inputs, num_beams=4, num_return_sequences=3, max_new_tokens=8)


class _Captions:
    def __init__(self, blip, folder, device="cpu"):
        self.device = torch.device(device)
        self.processor = blip.BlipProcessor.from_pretrained(folder)
        self.model = blip.BlipForConditionalGeneration.from_pretrained(folder).to(self.device)
        self.model.eval()

    def __call__(self, images, prompt=None):
        texts = None if prompt is None else [prompt] * len(images)
        inputs = self.processor(images=images, text=texts, padding=True, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=7)
        return self.processor.batch_decode(ids, skip_special_tokens=True)


def a_service(blip, at):
    captions = _Captions(blip, at / "caption")
    return {"one": captions([picture()]), "two": captions([picture(), picture("cat.png")], "the image shows")}


def options_in_an_object(blip, at):
    from transformers import GenerationConfig

    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    options = GenerationConfig(
        num_beams=2, max_new_tokens=6, eos_token_id=processor.tokenizer.sep_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
    )  # fmt: skip
    return model.generate(**processor(picture(), return_tensors="pt"), generation_config=options)


def scores_of_a_caption(blip, at):
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    inputs = processor(images=picture(), return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=5, output_scores=True, return_dict_in_generate=True)
    steps = [torch.log_softmax(score, -1)[0] for score in out.scores]
    chosen = out.sequences[0, -len(steps) :]
    return [float(step[token]) for step, token in zip(steps, chosen, strict=True)]


def words_as_they_come(blip, at):
    from transformers import TextStreamer

    class Parts(TextStreamer):
        parts: tuple = ()

        def on_finalized_text(self, text, stream_end=False):
            self.parts = (*self.parts, text)

    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    streamer = Parts(processor.tokenizer, skip_special_tokens=True)
    model.generate(**processor(picture(), return_tensors="pt"), max_new_tokens=6, streamer=streamer)
    return "".join(streamer.parts)


def inside_of_the_model(blip, at):
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption").eval()
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    inputs = processor(picture(), "a cat on a mat", return_tensors="pt")
    out = model(**inputs, output_attentions=True, output_hidden_states=True)
    return {"logits": out.logits, "states": out.hidden_states, "maps": out.attentions, "picture": out.image_embeds}


def a_tuple_of_results(blip, at):
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption").eval()
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    inputs = processor(picture(), "a cat on a mat", return_tensors="pt")
    return model(**inputs, labels=inputs.input_ids, return_dict=False)[:2]


def features_of_a_picture(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    pixels = processor(images=[picture()], return_tensors="pt")["pixel_values"]
    out = model.vision_model(pixel_values=pixels)
    return {"states": out.last_hidden_state, "pooled": out.pooler_output, "first": out[0][:, 0]}


def a_larger_picture(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    processor.image_processor.size = {"height": 48, "width": 64}
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    inputs = processor(images=picture(), return_tensors="pt")
    return model.generate(**inputs, interpolate_pos_encoding=True, max_new_tokens=5)


def how_likely_a_caption_is(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption").eval()
    losses = []
    for text in ("a cat", "an astronaut in a suit"):
        inputs = processor(picture(), text, return_tensors="pt")
        with torch.no_grad():
            losses.append(model(**inputs, labels=inputs.input_ids).loss.item())
    return losses


def random_sampling_with_one_choice(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "caption")
    model = blip.BlipForConditionalGeneration.from_pretrained(at / "caption")
    inputs = processor(picture(), return_tensors="pt")
    return model.generate(**inputs, do_sample=True, top_k=1, temperature=0.7, max_new_tokens=6)
