"""The same in TensorFlow, where transformers 4.57.6 had it: calls, features, losses."""

from __future__ import annotations

import tensorflow as tf

from tests.oracle.programs import picture

CAPTIONS = ["an astronaut in front of a flag", "a cat looks up"]


def _batch(blip, folder):
    processor = blip.BlipProcessor.from_pretrained(folder)
    images = [picture(), picture("cat.png")]
    return processor(images=images, text=CAPTIONS, padding="max_length", max_length=9, return_tensors="tf")


def a_dictionary_as_argument(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "itm")
    model = blip.TFBlipForImageTextRetrieval.from_pretrained(at / "itm")
    inputs = processor(picture(), "a cat", return_tensors="tf")
    return {"inputs": model(inputs).itm_score, "dictionary": model(dict(inputs), training=False)[0]}


def arguments_by_position(blip, at):
    model = blip.TFBlipForConditionalGeneration.from_pretrained(at / "caption")
    inputs = _batch(blip, at / "caption")
    return model(inputs["pixel_values"], inputs["input_ids"], inputs["attention_mask"]).logits


def features_of_pictures_and_texts(blip, at):
    model = blip.TFBlipModel.from_pretrained(at / "plain")
    inputs = _batch(blip, at / "plain")
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    return {
        "image": model.get_image_features(pixel_values=inputs["pixel_values"]),
        "text": model.get_text_features(**text),
        "logits": model(**inputs).logits_per_image,
    }


def in_a_graph(blip, at):
    model = blip.TFBlipForImageTextRetrieval.from_pretrained(at / "itm")

    @tf.function
    def score(pixel_values, input_ids, attention_mask):
        return model(pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask).itm_score

    return score(**_batch(blip, at / "itm"))


def loss_of_captions(blip, at):
    model = blip.TFBlipForConditionalGeneration.from_pretrained(at / "caption")
    inputs = _batch(blip, at / "caption")
    labels = tf.where(inputs["attention_mask"] == 1, inputs["input_ids"], -100)
    return tf.reduce_mean(model(**inputs, labels=labels, training=False).loss)


def loss_of_an_answer(blip, at):
    processor = blip.BlipProcessor.from_pretrained(at / "vqa")
    model = blip.TFBlipForQuestionAnswering.from_pretrained(at / "vqa")
    inputs = processor(picture(), "how many dogs?", return_tensors="tf")
    labels = processor(text="two dogs", return_tensors="tf").input_ids
    return model(**inputs, labels=labels, decoder_input_ids=labels).loss
