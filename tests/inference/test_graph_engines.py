"""The engines that run exports find what PyTorch finds, without it, and refuse what they cannot run."""

import json
import shutil
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from blip_core import Answerer, Captioner, Explainer, Matcher
from blip_core.checks import InputError
from blip_core.cli import main
from blip_core.engines import ENGINES
from blip_core.graphs.onnx_files import check_graph
from blip_core.hub import SHIPPED
from conversion import convert
from tests.helpers.exported_models import ROOT, exported, source
from tests.helpers.random_models import CONFIGS_OF, HEADS, difference, inputs

torch = pytest.importorskip("torch")
GRAPHS = ("onnx", "openvino")
SEARCHES = (
    {},
    {"num_beams": 3, "length_penalty": 0.5, "repetition_penalty": 1.2},
    {"num_beams": 4, "num_return_sequences": 2, "min_new_tokens": 3},
    {"do_sample": True, "top_p": 0.9, "num_return_sequences": 3, "seed": 5},
    {"do_sample": True, "num_beams": 2, "seed": 1},
)
CAPTION, ANSWER, MATCH = HEADS[4], HEADS[5], HEADS[6]


@cache
def model(head, engine, name="wide"):
    folder = source(head, name) if engine == "pt" else exported(engine, head, name)
    return ENGINES[engine].model_class(head).from_pretrained(folder)


def ask(head, engine, method, given, **options):
    """Call a method of a model with arrays; return what it gives as arrays."""
    found = model(head, engine)
    call = getattr(found, method)
    values = {key: ENGINES[engine].to_tensor(array, found) for key, array in given.items()}
    with ENGINES[engine].no_gradients(found):
        output = call(**values, **options)
    return output.map(ENGINES[engine].to_numpy) if hasattr(output, "map") else ENGINES[engine].to_numpy(output)


@pytest.mark.parametrize("engine", GRAPHS)
@pytest.mark.parametrize("head", [CAPTION, ANSWER])
def test_the_same_texts_in_every_mode_of_search(head, engine):
    given = {key: value for key, value in inputs(head, CONFIGS_OF["wide"]).items() if key != "labels"}
    streamed = {}
    for options in SEARCHES:
        options = {"max_new_tokens": 9, "return_dict_in_generate": True, **options}
        expected = ask(head, "pt", "generate", given, **options)
        found = ask(head, engine, "generate", given, **options)
        assert np.array_equal(found.sequences, expected.sequences), options
        assert np.allclose(found.token_log_probs, expected.token_log_probs, atol=1e-4, equal_nan=True)
    for name in ("pt", engine):
        tokens = streamed.setdefault(name, [])
        ask(head, name, "generate", given, stream=lambda item, token, tokens=tokens: tokens.append((item, token)))
    assert streamed["pt"] == streamed[engine]


@pytest.mark.parametrize("engine", GRAPHS)
def test_a_picture_s_texts_are_what_they_are_alone(engine):
    given = inputs(CAPTION, CONFIGS_OF["wide"])
    pictures = np.concatenate([given["pixel_values"]] * 2)[:3]
    options = {"num_beams": 3, "max_new_tokens": 8, "early_stopping": True}
    together = ask(CAPTION, engine, "generate", {"pixel_values": pictures}, **options)
    for row, picture in zip(together, pictures, strict=True):
        alone = ask(CAPTION, engine, "generate", {"pixel_values": picture[None]}, **options)[0]
        assert np.array_equal(row[row != 0], alone[alone != 0])


@pytest.mark.parametrize("engine", GRAPHS)
def test_the_same_scores_of_given_texts(engine):
    given = {key: value for key, value in inputs(ANSWER, CONFIGS_OF["wide"]).items() if key != "labels"}
    answers = np.array([[88, 7, 8, 9, 5], [88, 7, 8, 5, 0], [88, 7, 30, 31, 5], [88, 40, 5, 0, 0], [88, 41, 42, 5, 0]])
    listed = {"answer_ids": answers, "answer_attention_mask": (answers != 0).astype(np.int64)}
    expected, found = (ask(ANSWER, name, "score_texts", {**given, **listed}) for name in ("pt", engine))
    assert np.allclose(expected.token_log_probs, found.token_log_probs, atol=1e-4, equal_nan=True)
    expected, found = (ask(ANSWER, name, "rank_answers", {**given, **listed}, k=4) for name in ("pt", engine))
    assert np.array_equal(expected.indices, found.indices)
    texts = {
        "pixel_values": given["pixel_values"],
        "input_ids": answers,
        "attention_mask": listed["answer_attention_mask"],
    }
    expected, found = (ask(CAPTION, name, "score_texts", texts) for name in ("pt", engine))
    assert np.allclose(expected.log_probs, found.log_probs, atol=1e-4)


@pytest.mark.parametrize("engine", GRAPHS)
def test_the_same_matches_features_and_judgements(engine):
    given = inputs(MATCH, CONFIGS_OF["wide"])
    pixels, texts = {"pixel_values": given.pop("pixel_values")}, given
    one = {"pixel_values": pixels["pixel_values"][:1], **texts}
    calls = [
        ("__call__", {**pixels, **texts}, {}),
        ("__call__", one, {}),
        ("__call__", {**pixels, **texts}, {"use_itm_head": False}),
        ("get_text_features", texts, {}),
        ("get_label_features", texts, {"templates": 2}),
        ("get_image_features", pixels, {}),
        ("classify", {**pixels, "label_features": ask(MATCH, "pt", "get_text_features", texts)}, {}),
    ]
    for method, values, options in calls:
        expected, found = (ask(MATCH, name, method, values, **options) for name in ("pt", engine))
        expected, found = (getattr(value, "itm_score", value) for value in (expected, found))
        assert difference(expected, found) < 1e-4, method
    sentences = {key: value for key, value in inputs("BlipForNLVR", CONFIGS_OF["wide"]).items() if key != "labels"}
    expected, found = (ask("BlipForNLVR", name, "__call__", sentences).logits for name in ("pt", engine))
    assert difference(expected, found) < 1e-4


@pytest.mark.parametrize("engine", GRAPHS)
@pytest.mark.parametrize("head", [CAPTION, pytest.param(ANSWER, marks=pytest.mark.slow)])
def test_weights_of_8_bits_write_texts(head, engine):
    """Rounded weights may choose other words, but the same texts again, alone or beside others."""
    if engine == "openvino":
        pytest.importorskip("nncf")
    given = {key: value for key, value in inputs(head, CONFIGS_OF["wide"]).items() if key != "labels"}
    found = ENGINES[engine].model_class(head).from_pretrained(exported(engine, head, "wide", weights="int8"))
    assert ENGINES[engine].precision(found) == "int8 weights"
    assert dict(ENGINES[engine].weights(found))
    texts = found.generate(**given, num_beams=3, max_new_tokens=6)
    assert np.array_equal(texts, found.generate(**given, num_beams=3, max_new_tokens=6))
    alone = found.generate(**{key: value[:1] for key, value in given.items()}, num_beams=3, max_new_tokens=6)[0]
    assert np.array_equal(alone[alone != 0], texts[0][texts[0] != 0])


def test_openvino_runs_exports_to_onnx():
    given = {"pixel_values": inputs(CAPTION, CONFIGS_OF["wide"])["pixel_values"]}
    other = ENGINES["openvino"].model_class(CAPTION).from_pretrained(exported("onnx", CAPTION, "wide"))
    for options in SEARCHES:
        expected = ask(CAPTION, "pt", "generate", given, max_new_tokens=9, **options)
        assert np.array_equal(other.generate(**given, max_new_tokens=9, **options), expected)
    with pytest.raises(ValueError, match="is an export to openvino, and ONNX Runtime runs exports to onnx: make one"):
        ENGINES["onnx"].model_class(CAPTION).from_pretrained(exported("openvino", CAPTION, "wide"))
    with pytest.raises(ValueError, match=r"is no export, .* or TensorFlow, pip install \"blip-duo\[tf\]\"\.?$"):
        Captioner.from_pretrained(engine="onnx")


@cache
def shipped(form, weights=None):
    """The model in the package as an export, its pictures' weights in half precision."""
    convert(SHIPPED, ROOT / f"shipped-{form}-{weights}", to=form, weights=weights)
    return ROOT / f"shipped-{form}-{weights}"


@pytest.mark.parametrize("engine", GRAPHS)
def test_commands_without_any_framework(engine, tmp_path):
    """The command line captions and matches where neither PyTorch nor TensorFlow can be imported."""
    (tmp_path / "labels.txt").write_text("car\nfox\n")
    folder = shipped(engine)  # each in its own form
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'tensorflow', 'keras', 'onnx')))\n"
        "from blip_core.cli import main\n"
        f"how = ['--model', {str(folder)!r}, '--engine', {engine!r}]\n"
        "fox = 'tests/data/emoji/1f98a.png'\n"
        "assert main(['caption', fox, '--beams', '3', *how]) == 0\n"
        "assert main(['match', fox, 'red car', 'fox', '--framework', *how[3:], *how[:2]]) == 0\n"
        f"assert main(['classify', fox, '--labels', {str(tmp_path / 'labels.txt')!r}, *how]) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "fox" in done.stdout


@pytest.mark.parametrize("engine", ["pt", "tf"])
def test_the_shipped_model_s_export_captions_in_a_framework(engine, capsys):
    for folder in (SHIPPED, shipped("onnx")):
        pictures = [f"tests/data/emoji/{name}.png" for name in ("1f98a", "1f34e")]
        assert main(["caption", *pictures, "--model", str(folder), "--engine", engine, "--beams", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "fox" in lines[0]
    assert lines[:2] == lines[2:]


@pytest.mark.parametrize("engine", GRAPHS)
def test_what_is_found_depends_on_the_same_as_in_every_engine(engine):
    graph, pytorch = (Matcher.from_pretrained(shipped("onnx"), engine=name) for name in (engine, "pt"))
    assert graph.identity == pytorch.identity
    fox = "tests/data/emoji/1f98a.png"
    frames = [np.stack([graph.read(fox), graph.read("tests/data/emoji/1f34e.png")])]
    expected, found = (matcher.item_features(frames) for matcher in (pytorch, graph))
    assert difference(expected, found) < 1e-4


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(exported("onnx", CAPTION, "wide"), tmp_path / "copy")


@pytest.mark.parametrize("engine", GRAPHS)
def test_what_is_no_export_of_that_head(engine, copy):
    captioner, matcher = (ENGINES[engine].model_class(head) for head in (CAPTION, MATCH))
    with pytest.raises(ValueError, match=r"no export, and .* blip convert MODEL FOLDER --to"):
        captioner.from_pretrained(source(CAPTION, "wide"))
    with pytest.raises(ValueError, match="no export"):
        Captioner.from_pretrained(engine=engine)
    with pytest.raises(ValueError, match="holds a BlipForConditionalGeneration, not a BlipForImageTextRetrieval"):
        matcher.from_pretrained(copy)
    with pytest.raises(ValueError, match="computes in float32, got dtype 'float16'"):
        captioner.from_pretrained(copy, dtype="float16")
    with pytest.raises(ValueError, match=r"device 'cuda:7' does not work in .* it has .*cpu"):
        Captioner.from_pretrained(shipped("onnx"), engine=engine, device="cuda:7")
    with pytest.raises(ValueError, match="has no gradients"):
        Explainer.from_pretrained(shipped("onnx"), engine=engine)("tests/data/emoji/1f98a.png", "fox")
    (copy / "step.onnx").unlink()
    with pytest.raises(ValueError, match=r"lacks the part step \(step.onnx\)"):
        captioner.from_pretrained(copy).generate(inputs(CAPTION, CONFIGS_OF["wide"])["pixel_values"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "an export of version 2, this program reads version 1"),
        ({"parts": {"begin": "../begin.onnx"}}, "does not describe an export"),
        ({"head": "os.system"}, "does not describe an export"),
        ({"weights": None}, "does not describe an export"),
    ],
)
def test_an_export_that_says_something_else(copy, change, said):
    about = json.loads((copy / "export.json").read_text())
    (copy / "export.json").write_text(json.dumps(about | change))
    with pytest.raises(ValueError, match=said):
        ENGINES["onnx"].model_class(CAPTION).from_pretrained(copy)


def hostile(path, **external):
    """Change where the first weight of a graph is."""
    import onnx

    graph = onnx.load_model(path, load_external_data=False)
    for entry in graph.graph.initializer[0].external_data:
        entry.value = external.get(entry.key, entry.value)
    onnx.save_model(graph, path)


@pytest.mark.parametrize("engine", GRAPHS)
@pytest.mark.parametrize(
    "change",
    [
        {"location": "../secret"},
        {"location": "/etc/passwd"},
        {"offset": "99999999999"},
        {"length": str(2**60)},
        {"length": "-4"},
        {"offset": "x"},
    ],
    ids=str,
)
def test_a_graph_reads_nothing_but_its_weights(engine, change, copy):
    (copy.parent / "secret").write_bytes(bytes(10**6))
    hostile(copy / "image_features.onnx", **change)
    captioner = ENGINES[engine].model_class(CAPTION).from_pretrained(copy)
    with pytest.raises(ValueError, match=r"image_features.onnx is no graph of ours .* export the model again"):
        captioner.vision_model(inputs(CAPTION, CONFIGS_OF["wide"])["pixel_values"])


@pytest.mark.parametrize("dims", [[2**40], [2**62, 2**62], [2**33, 2**31], [-5], [0], []], ids=str)
def test_weights_of_absurd_sizes(dims, copy):
    import onnx

    path = copy / "image_features.onnx"
    graph = onnx.load_model(path, load_external_data=False)
    graph.graph.initializer[1].dims[:] = dims
    onnx.save_model(graph, path)
    with pytest.raises(ValueError, match=r"image_features.onnx is no graph of ours .* export the model again"):
        check_graph(path)


@pytest.mark.parametrize("engine", GRAPHS)
def test_damaged_graphs_and_weights(engine, copy):
    pixels = inputs(CAPTION, CONFIGS_OF["wide"])["pixel_values"]
    captioner = ENGINES[engine].model_class(CAPTION)
    path = copy / "image_features.onnx"
    whole = path.read_bytes()
    for damaged in (whole[:5000], b"", whole[:300] + bytes(300) + whole[600:], b"\x08" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="export the model again"):
            captioner.from_pretrained(copy).vision_model(pixels)
    path.write_bytes(whole)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="export the model again"):
        captioner.from_pretrained(copy).vision_model(pixels)


@pytest.mark.parametrize("engine", GRAPHS)
def test_pictures_and_texts_that_do_not_fit(engine):
    captioner, matcher = model(CAPTION, engine), model(MATCH, engine)
    given = inputs(MATCH, CONFIGS_OF["wide"])
    with pytest.raises(InputError, match="40 x 40 pixels but the model was made for 32 x 32"):
        captioner.generate(np.zeros((1, 3, 40, 40), np.float32))
    with pytest.raises(ValueError, match="gives neither attentions nor hidden states"):
        captioner.generate(np.zeros((1, 3, 32, 32), np.float32), output_attentions=True, return_dict_in_generate=True)
    with pytest.raises(InputError, match="takes at most 40"):
        matcher.get_text_features(np.ones((1, 41), int))
    with pytest.raises(InputError, match="between 0 and 89"):
        matcher.get_text_features(np.full((1, 4), 90))
    with pytest.raises(InputError, match="3 pictures do not go with 2 texts"):
        matcher(**given | {"pixel_values": np.zeros((3, 3, 32, 32), np.float32)})


@pytest.mark.parametrize("engine", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_weights_of_8_bits_in_use(engine, monkeypatch):
    """The shipped model names the fox, and a processor that cannot run such weights is told what to do."""
    if engine == "openvino":
        pytest.importorskip("nncf")
    captioner = Captioner.from_pretrained(shipped(engine, "int8"), engine=engine)
    assert "fox" in captioner("tests/data/emoji/1f98a.png").text
    assert captioner.identity != Captioner.from_pretrained(shipped("onnx"), engine=engine).identity
    with pytest.raises(ValueError, match=r"The model does not fit an? Answerer: .* use Captioner"):
        Answerer.from_pretrained(exported(engine, CAPTION, "wide", weights="int8"), engine=engine)

    def fails(path, device):
        raise ValueError(f"{path} cannot be run (no such instruction); export the model again.")

    monkeypatch.setattr(type(captioner.model), "open_graph", staticmethod(fails))
    with pytest.raises(
        ValueError, match=r"export the model again, or without --weights int8, which not every proc.*\.$"
    ):
        Captioner.from_pretrained(shipped(engine, "int8"), engine=engine)("tests/data/emoji/1f98a.png")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('offset="0"', 'offset="99999999"'),
        ('offset="0"', 'offset="-8"'),
        ('offset="0"', f'offset="{2**64}"'),
        ('element_type="f32" shape="', f'element_type="f32" shape="{2**32},{2**32},'),
        ("<net", '<!DOCTYPE x [<!ENTITY y SYSTEM "/etc/passwd">]><net'),
        ("</net>", ""),
        ('type="Const"', 'type="Strange"'),
    ],
)
def test_a_graph_of_openvino_reads_nothing_but_its_weights(tmp_path, old, new):
    folder = shutil.copytree(exported("openvino", CAPTION, "wide"), tmp_path / "copy")
    path = folder / "image_features.xml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    captioner = ENGINES["openvino"].model_class(CAPTION).from_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"image_features.xml (is no graph of ours|cannot be run) .*export the model again"
    ):
        captioner.vision_model(inputs(CAPTION, CONFIGS_OF["wide"])["pixel_values"])


def test_providers_of_onnx_runtime_by_their_names(monkeypatch):
    """A build with more providers gives them the graphs, with the processor for what they cannot do."""
    import onnxruntime

    class Session:
        started = True

        def __init__(self, path, options, providers):
            asked.append((options.intra_op_num_threads, providers))
            self.providers = [name for name, _ in providers][not self.started :]

        def get_providers(self):
            return self.providers

        def get_outputs(self):
            return []

    asked, ending = [], "ExecutionProvider"
    names = [f"{name}{ending}" for name in ("CUDA", "Dml", "CoreML", "CPU")]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    engine, folder = ENGINES["onnx"], exported("onnx", CAPTION, "wide")
    assert engine.default_device() == "cuda"
    for device, own in (("cuda:1", {"device_id": "1"}), ("dml", {}), ("coreml", {}), ("cpu", {})):
        engine.check_device(device)
        engine.backend.OnnxGraph(folder / "step.onnx", device)
        name = names[["cuda", "dml", "coreml", "cpu"].index(device.partition(":")[0])]
        assert asked[-1] == (3, [(name, own), (names[-1], {})][: 1 + (device != "cpu")])
    for device in ("cpu:1", "cuda:x", "cuda:", "rocm"):
        with pytest.raises(ValueError, match=r"does not work in ONNX Runtime here; it has cuda, dml, coreml, cpu\."):
            engine.check_device(device)
    Session.started = False
    with pytest.raises(ValueError, match="device 'dml' is in this build of ONNX Runtime but does not start"):
        engine.backend.OnnxGraph(folder / "step.onnx", "dml")


def test_openvino_takes_the_threads_that_it_is_given(monkeypatch):
    openvino = pytest.importorskip("openvino")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    backend = ENGINES["openvino"].backend
    graph = backend.OpenVINOGraph(exported("openvino", CAPTION, "wide") / "step.xml", "cpu").graph
    assert graph.get_property("INFERENCE_NUM_THREADS") == 1
    assert graph.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32


def test_threads_are_those_that_are_asked_for(monkeypatch):
    from blip_core.graphs.arrays import threads

    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads() >= 1
