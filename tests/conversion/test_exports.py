"""Exports to graphs: every part of every head computes what the PyTorch model does, at any size, in both runtimes."""

import json
import shutil

import numpy as np
import pytest

from blip_core.cli import main
from blip_core.engines import ENGINES
from blip_core.parameters import heads
from blip_core.parameters.graph_parts import axis_sizes, graph_names, outputs_of, parts_of
from conversion import convert, inspect_checkpoint
from tests.helpers.exported_models import SIZES, exported, part_inputs, source
from tests.helpers.random_models import CONFIGS_OF, HEADS, difference, head_config

onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
FAST = {
    ("BlipTextModel", "wide"), ("BlipForConditionalGeneration", "deep"), ("BlipForQuestionAnswering", "wide"),
    ("BlipForImageTextRetrieval", "wide"), ("BlipForNLVR", "deep"),
}  # fmt: skip
FAST_IN_OPENVINO = {("BlipForQuestionAnswering", "wide"), ("BlipForNLVR", "deep")}
CASES = [
    pytest.param(head, name, form, marks=[] if (head, name) in fast else pytest.mark.slow)
    for form, fast in (("onnx", FAST), ("openvino", FAST_IN_OPENVINO))
    for head in HEADS
    for name in CONFIGS_OF
]


def pytorch_parts(head, name):
    import blip_pt
    from blip_pt.parts import part_functions

    return part_functions(getattr(blip_pt, head).from_pretrained(source(head, name)))


def run_onnx(folder, part, given):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / f"{part.name}.onnx", options)
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, given), strict=True))


def run_openvino(folder, part, given):
    openvino = pytest.importorskip("openvino")
    graph = openvino.Core().read_model(folder / f"{part.name}.xml", folder / "weights.bin")
    found = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(given)
    return {output.any_name: array for output, array in found.items()}


FORMS = {"onnx": run_onnx, "openvino": run_openvino}


@pytest.mark.parametrize(("head", "name", "form"), CASES)
def test_every_part_at_any_size(head, name, form):
    folder, functions = exported(form, head, name), pytorch_parts(head, name)
    fixed = axis_sizes(head, head_config(head, CONFIGS_OF[name]))
    parts = [part for part in parts_of(head) if not part.loop]
    ending = json.loads((folder / "export.json").read_text())["parts"][parts[0].name].rpartition(".")[2]
    assert sorted(path.stem for path in folder.glob(f"*.{ending}")) == sorted(part.name for part in parts)
    for part in parts:
        outputs = outputs_of(part, head)
        for seed, sizes in enumerate(SIZES):
            given = part_inputs(part, {**fixed, **sizes}, seed)
            found = FORMS[form](folder, part, given)
            with torch.no_grad():
                expected = functions[part.name](**{key: torch.from_numpy(value) for key, value in given.items()})
            assert list(found) == graph_names(part, outputs)
            for (key, array), output in zip(expected.items(), found.values(), strict=True):
                assert key in outputs
                assert array.shape == output.shape
                assert not array.any() or difference(array, output) < 1e-5, (part.name, key, sizes)


def test_weights_are_stored_once_and_in_half_precision_where_asked():
    head = "BlipForImageTextRetrieval"
    folder, half = exported("onnx", head, "wide"), exported("onnx", head, "wide", dtype="float16")
    weights = [(path / "model.safetensors").stat().st_size for path in (folder, half)]
    assert weights[1] < 0.6 * weights[0]
    about = json.loads((half / "export.json").read_text())
    assert (about["form"], about["weights"], about["version"]) == ("onnx", "float16", 1)
    part = next(part for part in parts_of(head) if part.name == "text_features")
    given = part_inputs(part, {**axis_sizes(head, CONFIGS_OF["wide"]), **SIZES[0]}, 0)
    import blip_pt

    model = blip_pt.BlipForImageTextRetrieval.from_pretrained(half)  # the folder is a checkpoint as well
    expected = model.get_text_features(**{key: torch.from_numpy(value) for key, value in given.items()})
    assert difference(expected.detach(), run_onnx(half, part, given)["text_features"]) < 1e-5


@pytest.mark.parametrize("engine", ["pt", "tf"])
@pytest.mark.parametrize(
    "head", [pytest.param(x, marks=[] if x == "BlipForPreTraining" else pytest.mark.slow) for x in HEADS]
)
def test_an_export_is_a_checkpoint_as_its_source_is(head, engine):
    """Of pre-training, where the decoder is stored as the encoder, captioner and matcher are cut out as well."""
    for kind in (head, *(name for name, row in heads.HEADS.items() if row.cut_from == head)):
        made = ENGINES[engine].model_class(kind)
        one, other = (made.from_pretrained(path) for path in (source(head, "deep"), exported("onnx", head, "deep")))
        expected, found = (dict(ENGINES[engine].weights(model)) for model in (one, other))
        assert expected.keys() == found.keys()
        assert all(np.array_equal(found[name], array) for name, array in expected.items()), kind


@pytest.mark.parametrize("form", FORMS)
def test_pictures_of_any_size(form):
    head, name = "BlipVisionModel", "deep"
    folder, functions = exported(form, head, name, free_size=True), pytorch_parts(head, name)
    for height, width in ((48, 48), (32, 80), (96, 16)):
        pixels = np.random.default_rng(0).normal(size=(2, 1, height, width)).astype(np.float32)
        with torch.no_grad():
            expected = functions["image_features"](torch.from_numpy(pixels))
        found = FORMS[form](folder, parts_of(head)[0], {"pixel_values": pixels})
        assert difference(expected["image_embeds"], found["image_embeds"]) < 1e-5


def test_inspection_knows_an_export(capsys, tmp_path):
    folder = exported("onnx", "BlipVisionModel", "deep", free_size=True)
    report = inspect_checkpoint(folder)
    assert report.complete
    parts = {"image_features": "image_features.onnx"}
    assert report.export == {"form": "onnx", "weights": "float32", "free_size": True, "parts": parts}
    assert inspect_checkpoint(source("BlipVisionModel", "deep")).export is None
    assert main(["inspect", str(folder)]) == 0
    assert "onnx, float32 weights, pictures of any size" in capsys.readouterr().out
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "image_features.onnx").unlink()
    with pytest.raises(ValueError, match="lacks the part image_features"):
        inspect_checkpoint(broken)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["torch.jit.trace", "openvino.convert_model"])
@pytest.mark.parametrize("head", [pytest.param(x, marks=[] if x == "BlipForNLVR" else pytest.mark.slow) for x in HEADS])
def test_every_part_can_be_traced(head, way):
    """By others' tracers, at the sizes of the inputs with which it is traced."""
    import blip_pt
    from blip_pt.onnx_export import Part

    openvino = pytest.importorskip("openvino") if way.startswith("openvino") else None
    model = getattr(blip_pt, head).from_pretrained(source(head, "wide"))
    fixed = axis_sizes(head, model.config)
    for part in parts_of(head):
        if part.loop:
            continue
        given = part_inputs(part, {**fixed, **SIZES[0]}, 0)
        tensors = tuple(torch.from_numpy(value) for value in given.values())
        with torch.no_grad():
            module = Part(model, part).eval()
            expected = module(*tensors)
            if openvino is None:
                found = torch.jit.trace(module, tensors, check_trace=False)(*tensors)
            else:
                settings = {"INFERENCE_PRECISION_HINT": "f32"}
                graph = openvino.compile_model(openvino.convert_model(module, example_input=tensors), "CPU", settings)
                found = tuple(graph(list(given.values())).values())
        for one, other in zip(expected, found, strict=True):
            assert not one.any() or difference(one, other) < 1e-4, part.name


def test_options_that_do_not_go_together(tmp_path):
    folder = source("BlipVisionModel", "wide")
    with pytest.raises(ValueError, match="free_size goes with onnx, openvino, onnx-caption, and not with safetensors"):
        convert(folder, tmp_path / "x", to="safetensors", free_size=True)
    with pytest.raises(ValueError, match="onnx cannot hold bfloat16"):
        convert(folder, tmp_path / "x", to="onnx", dtype="bfloat16")
    with pytest.raises(ValueError, match=r"weights goes with onnx, openvino, litert, and not with tf_model\.h5"):
        convert(folder, tmp_path / "x", to="tf_model.h5", weights="int8")
    with pytest.raises(ValueError, match="weights of onnx must be one of int8, int8-dynamic; got 'int4'"):
        convert(folder, tmp_path / "x", to="onnx", weights="int4")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileExistsError, match="overwrite"):
        convert(folder, exported("onnx", "BlipVisionModel", "wide"), to="onnx")
    convert(folder, exported("onnx", "BlipVisionModel", "wide"), to="onnx", overwrite=True)


@pytest.mark.parametrize(("form", "weights"), [("onnx", "int8"), ("onnx", "int8-dynamic"), ("openvino", "int8")])
@pytest.mark.parametrize(("head", "name"), [("BlipForQuestionAnswering", "wide"), ("BlipForNLVR", "deep")])
def test_weights_of_8_bits(head, name, form, weights):
    """Each part is near the float32 one, in a fraction of the size, and what parts share is stored once."""
    if form == "openvino":
        pytest.importorskip("nncf")
    whole, folder = exported(form, head, name), exported(form, head, name, weights=weights)
    assert not (folder / "model.safetensors").exists()
    assert not list(folder.glob("*.onnx" if form == "openvino" else "*.xml"))
    files = {
        path for each in (whole, folder) for name in ("model.safetensors", "weights.bin") for path in each.glob(name)
    }
    sizes = {path.parent: path.stat().st_size for path in files}
    assert sizes[folder] < 0.6 * sizes[whole]
    fixed, functions = axis_sizes(head, head_config(head, CONFIGS_OF[name])), pytorch_parts(head, name)
    for part in parts_of(head):
        if part.loop:
            continue
        given = part_inputs(part, {**fixed, **SIZES[1]}, 3)
        found = FORMS[form](folder, part, given)
        with torch.no_grad():
            expected = functions[part.name](**{key: torch.from_numpy(value) for key, value in given.items()})
        for (key, array), output in zip(expected.items(), found.values(), strict=True):
            assert not array.any() or difference(array, output) < 0.1, (part.name, key)
    report = inspect_checkpoint(folder)
    assert report.complete
    assert (report.format, report.head, report.export["weights"]) == (form, head, weights)
    assert report.total == inspect_checkpoint(source(head, name)).total


def test_what_is_missing_for_an_export_is_told_before_any_work(monkeypatch, tmp_path):
    from blip_core.checkpoints import exported as exports

    monkeypatch.setattr(exports, "find_spec", lambda package: None if package in ("nncf", "onnx") else package)
    with pytest.raises(ImportError, match=r"with weights='int8' needs onnx, .* pip install \"blip-duo\[openvino\]\""):
        convert(source("BlipVisionModel", "wide"), tmp_path / "x", to="openvino", weights="int8")
    monkeypatch.setattr(exports, "find_spec", lambda package: None if package == "nncf" else package)
    with pytest.raises(ImportError, match=r"needs nncf, which is not installed: pip install \"blip-duo\[int8\]\""):
        convert(source("BlipVisionModel", "wide"), tmp_path / "x", to="openvino", weights="int8")
    assert not list(tmp_path.iterdir())
