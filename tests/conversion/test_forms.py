"""Every other form of export computes what the ONNX export does: part by part, and whole searches."""

import json
import shutil
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from blip_core import GenerationConfig
from blip_core.cli import main
from blip_core.generation import generate
from blip_core.graphs.graph_session import GraphSession
from blip_core.parameters.graph_parts import axis_sizes, outputs_of, parts_of
from conversion import convert, inspect_checkpoint
from tests.helpers.exported_models import SIZES, exported, part_inputs, source
from tests.helpers.random_models import CONFIGS_OF, HEADS, difference, head_config, inputs

torch = pytest.importorskip("torch")
CAPTION, ANSWER, MATCH, PRETRAIN = HEADS[4], HEADS[5], HEADS[6], HEADS[8]
NEW_TOKENS = 9
SEP = CONFIGS_OF["wide"].text_config.sep_token_id


def model_class(head):
    return getattr(pytest.importorskip("blip_pt"), head)


@cache
def model(head, name="wide"):
    return model_class(head).from_pretrained(source(head, name))


def run_saved_model(folder):
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)
    return lambda part, **given: {
        name: value.numpy()
        for name, value in loaded.signatures[part](**{key: tf.constant(x) for key, x in given.items()}).items()
    }


def run_litert(folder):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "model.tflite"))
    return lambda part, **given: interpreter.get_signature_runner(part)(**given)


def run_programs(folder):
    programs = {path.stem: torch.export.load(path).module() for path in folder.glob("*.pt2")}
    return lambda part, **given: {
        name: value.numpy()
        for name, value in programs[part](**{k: torch.from_numpy(x) for k, x in given.items()}).items()
    }


FAST = {("litert", ANSWER), ("torch-export", "BlipTextLMHeadModel"), ("savedmodel", "BlipVisionModel")}
RUNNERS = {"savedmodel": run_saved_model, "litert": run_litert, "torch-export": run_programs}
PACKAGES = {"savedmodel": "tensorflow", "litert": "ai_edge_litert", "torch-export": "torch"}


@pytest.mark.parametrize(
    ("form", "head"),
    [
        pytest.param(form, head, marks=[] if (form, head) in FAST else pytest.mark.slow)
        for form in RUNNERS
        for head in HEADS
    ],
)
def test_every_part_at_any_size(form, head):
    from blip_pt.parts import part_functions

    pytest.importorskip(PACKAGES[form])
    name = "wide" if head in (MATCH, ANSWER) else "deep"
    run, functions = RUNNERS[form](exported(form, head, name)), part_functions(model(head, name))
    fixed = axis_sizes(head, head_config(head, CONFIGS_OF[name]))
    for part in parts_of(head):
        for seed, sizes in enumerate(() if part.loop else SIZES):
            if form == "torch-export":  # whose texts have two tokens at least
                sizes = {**sizes, "length": max(sizes["length"], 2)}
            given = part_inputs(part, {**fixed, **sizes}, seed)
            with torch.no_grad():
                expected = functions[part.name](**{key: torch.from_numpy(value) for key, value in given.items()})
            found = run(part.name, **given)
            assert found.keys() == outputs_of(part, head).keys()
            for key, array in expected.items():
                assert array.shape == found[key].shape
                assert not array.any() or difference(array, found[key]) < 1e-4, (part.name, key, sizes)


ELSEWHERE = """
import sys
sys.modules.update(dict.fromkeys(("blip_core", "blip_pt", "blip_tf", "conversion", *sys.argv[4:])))
import numpy as np
given = dict(np.load(sys.argv[3]))
if sys.argv[2] == "step":
    import torch
    program = torch.export.load(sys.argv[1] + "/step.pt2").module()
    found = program(**{key: torch.from_numpy(value) for key, value in given.items()})
else:
    import tensorflow as tf
    signature = tf.saved_model.load(sys.argv[1]).signatures[sys.argv[2]]
    found = signature(**{key: tf.constant(value) for key, value in given.items()})
np.savez(sys.argv[3], **{key: value.numpy() for key, value in found.items()})
"""


@pytest.mark.parametrize(
    ("form", "head", "part", "blocked"),
    [
        ("torch-export", "BlipTextLMHeadModel", "step", ["tensorflow", "onnx", "safetensors"]),
        pytest.param(
            "savedmodel", "BlipVisionModel", "image_features", ["torch", "safetensors"], marks=pytest.mark.slow
        ),
    ],
)
def test_a_process_that_has_not_this_package(form, head, part, blocked, tmp_path):
    pytest.importorskip(PACKAGES[form])
    (row,) = (row for row in parts_of(head) if row.name == part)
    given = part_inputs(row, {**axis_sizes(head, head_config(head, CONFIGS_OF["deep"])), **SIZES[1]}, 0)
    expected = RUNNERS[form](exported(form, head, "deep"))(part, **given)
    np.savez(tmp_path / "arrays.npz", **given)
    arguments = [str(exported(form, head, "deep")), part, str(tmp_path / "arrays.npz"), *blocked]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *arguments], check=True, cwd=tmp_path, timeout=300)
    found = dict(np.load(tmp_path / "arrays.npz"))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], array) for name, array in expected.items())


def test_what_holds_its_weights_in_graphs_is_no_checkpoint(tmp_path):
    folder = exported("torch-export", "BlipTextLMHeadModel", "deep")
    for read in (model_class("BlipTextLMHeadModel").from_pretrained, lambda path: convert(path, tmp_path / "new")):
        with pytest.raises(
            FileNotFoundError, match=r"weights are no checkpoint; open the model that it was made of\.$"
        ):
            read(folder)


@pytest.mark.parametrize(
    ("form", "head"),
    [
        ("torch-export", "BlipTextLMHeadModel"),
        ("onnx-caption", CAPTION),
        ("litert", ANSWER),
        ("savedmodel", "BlipVisionModel"),
    ],
)
def test_inspection_knows_every_form(form, head, capsys, tmp_path):
    pytest.importorskip(PACKAGES.get(form, "onnx"))
    name = "deep" if form in ("torch-export", "savedmodel") else "wide"
    options = {"max_new_tokens": NEW_TOKENS} if form == "onnx-caption" else {}
    folder = exported(form, head, name, **options)
    report = inspect_checkpoint(folder)
    assert (report.head, report.export["form"], report.complete) == (head, form, True)
    assert report.total == inspect_checkpoint(source(head, name)).total
    assert main(["inspect", str(folder)]) == 0
    assert f"{form}, float32 weights" in capsys.readouterr().out
    broken = shutil.copytree(folder, tmp_path / "broken")
    part, file = next(iter(report.export["parts"].items()))
    (broken / file).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=rf"lacks the part {part} \({file}\)|made of|no weights"):
        inspect_checkpoint(broken)
    about = json.loads((folder / "export.json").read_text())
    (broken / "export.json").write_text(json.dumps(about | {"version": 9}))
    with pytest.raises(
        ValueError, match="an export of version 9, this program reads version 1; convert the model again"
    ):
        inspect_checkpoint(broken)


def test_options_and_types_that_a_form_does_not_take(tmp_path):
    folder = source("BlipVisionModel", "wide")
    for options, said in (
        ({"to": "litert", "dtype": "float16"}, "litert cannot hold float16; pass dtype='float32'"),
        ({"to": "litert", "weights": "int4"}, "weights of litert must be one of int8; got 'int4'"),
        ({"to": "onnx", "max_new_tokens": 3}, "max_new_tokens goes with savedmodel, onnx-caption, and not with onnx"),
        ({"to": "savedmodel", "max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1"),
        ({"to": "onnx-caption"}, "onnx-caption cannot hold a BlipVisionModel; it takes BlipForConditionalGeneration"),
    ):
        with pytest.raises(ValueError, match=said):
            convert(folder, tmp_path / "new", **options)
    assert not list(tmp_path.iterdir())


def prompts():
    """Two prompts of unlike length that end in [SEP], the shorter one padded on the right."""
    given = inputs(ANSWER, CONFIGS_OF["wide"])
    ids, mask = (given[name].astype(np.int32) for name in ("input_ids", "attention_mask"))
    ids[range(2), mask.sum(axis=1) - 1] = SEP
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("head", [CAPTION, ANSWER])
@pytest.mark.parametrize("form", ["savedmodel", "onnx-caption"])
def test_a_whole_search_in_the_graph(form, head):
    onnxruntime = pytest.importorskip("onnxruntime")
    part = "caption" if head == CAPTION else "answer"
    folder = exported(form, head, "wide", max_new_tokens=NEW_TOKENS)
    if form == "savedmodel":
        signatures = run_saved_model(folder)
        run = lambda **given: signatures(part, **given)["sequences"]  # noqa: E731
    else:
        session = onnxruntime.InferenceSession(folder / f"{part}.onnx")
        run = lambda **given: session.run(None, given)[0]  # noqa: E731
    pixels = inputs(head, CONFIGS_OF["wide"])["pixel_values"]
    texts = [prompts()]
    for prompt in ([7], [7, SEP], [7, SEP, 0], [0, 7, 12]) if head == CAPTION else ():
        ids = np.array([prompt], np.int32)
        texts.append({"input_ids": ids, "attention_mask": (ids != 0).astype(np.int32)})
    for given in texts:
        given["pixel_values"] = pixels[: len(given["input_ids"])]
        tensors = {key: torch.from_numpy(value) for key, value in given.items()}
        expected = model(head).generate(**tensors, max_new_tokens=NEW_TOKENS).numpy()
        assert np.array_equal(run(**given), expected), given
    if form == "onnx-caption" and head == CAPTION:  # pictures alone, any number of them
        many = np.concatenate([pixels, pixels[:1]])
        expected = model(head).generate(torch.from_numpy(many), max_new_tokens=NEW_TOKENS).numpy()
        assert np.array_equal(run(pixel_values=many), expected)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "early_stopping": True}, {"do_sample": True}], ids=str)
@pytest.mark.parametrize("form", ["litert", "savedmodel"])
def test_any_search_over_begin_and_step(form, options):
    pytest.importorskip(PACKAGES[form])
    run, texts = RUNNERS[form](exported(form, ANSWER, "wide")), prompts()
    pixels = inputs(ANSWER, CONFIGS_OF["wide"])["pixel_values"]
    embeds = run("image_features", pixel_values=pixels)["image_embeds"]
    states = run("question_states", image_embeds=embeds, **texts)["encoder_states"]

    def part(name, **given):
        return run(name, **{key: x.astype(x.dtype if x.dtype.kind == "f" else np.int32) for key, x in given.items()})

    session = GraphSession(part, states, texts["attention_mask"], 2, 1 + NEW_TOKENS)
    text = CONFIGS_OF["wide"].text_config
    tokens = {"bos_token_id": text.bos_token_id, "eos_token_id": SEP, "pad_token_id": 0}
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, **tokens, **options)
    found = generate(session, np.full((2, 1), text.bos_token_id), np.ones((2, 1), int), config, seed=5).sequences
    given = {name: torch.from_numpy(value) for name, value in {"pixel_values": pixels, **texts}.items()}
    expected = model(ANSWER).generate(**given, generation_config=config, seed=5).numpy()
    assert np.array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="AOTInductor needs a C++ compiler")
def test_programs_can_be_compiled_ahead_of_time(tmp_path):
    head = "BlipVisionModel"
    part = next(iter(parts_of(head)))
    program = torch.export.load(exported("torch-export", head, "wide") / f"{part.name}.pt2")
    packed = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "compiled.pt2"))
    run, fixed = torch._inductor.aoti_load_package(packed), axis_sizes(head, head_config(head, CONFIGS_OF["wide"]))
    for seed, sizes in enumerate(SIZES):
        given = {k: torch.from_numpy(x) for k, x in part_inputs(part, {**fixed, **sizes}, seed).items()}
        expected, found = program.module()(**given), run(**given)
        assert found.keys() == expected.keys()
        assert all(difference(expected[name], found[name]) < 1e-4 for name in found)
