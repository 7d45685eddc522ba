"""The two backends are mirror images: the same files, classes, methods and functions in the same order."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path.name for path in (ROOT / "blip_pt").glob("*.py"))
# Names that differ: Keras's for what a call runs, and the framework's own name in a name of ours.
TWINS = {
    "forward": "call", "torch_dtype": "tf_dtype", "to_torch": "to_tensorflow", "PyTorchSession": "TensorFlowSession",
}  # fmt: skip
# What one side has alone, and why. A file or a class stands for all that is in it.
OWN_LAYERS = "the layers of PyTorch and of Keras begin otherwise; these draw no weights in PyTorch, own them in Keras"
STEP = "a step is written down in PyTorch, and in TensorFlow traced as graphs that replicas run"
ONLY_PYTORCH = {
    "base.py BlipPreTrainedModel.dtype": "Keras layers have it",
    "base.py BlipPreTrainedModel.get_tensor": "get_parameter of TensorFlow gives the queues as well",
    "base.py BlipPreTrainedModel.tie_weights": "layers of TensorFlow that share weights keep doing so when they are loaded",
    "base.py BlipPreTrainedModel.load_state_dict": "state dicts are PyTorch's",
    "base.py evaluating": "Keras models do not train unless a call says so",
    "distributed.py _Gather": "TensorFlow's all_gather has a gradient",
    "distributed.py Sharded": "FSDP is PyTorch's",
    "distributed.py full": "FSDP is PyTorch's",
    "base.py model_name": "TensorFlow has it in keras_model.py",
    "trainer.py Trainer._clip": STEP,
    "trainer.py Trainer._call": STEP,
    "trainer.py choose_device": "in TensorFlow the strategy has the devices",
    "trainer.py _like": "FSDP is PyTorch's",
    "decoding.py TensorFlowSession._logits": "the compiled step of TensorFlow ends with the logits",
    "base.py BlipPreTrainedModel.quantize": "TensorFlow has no int8 product for a CPU; `export_litert` quantizes",
    "nn.py QuantizedLinear": "the same",
    "nn.py int8_scale": "the same",
    "nn.py onednn_can": "TensorFlow multiplies with oneDNN by itself",
    "nn.py onednn_linear": "the same",
    "nn.py onednn_attention": "the same",
    "nn.py slow_to_train": "TensorFlow has no fused attention on a CPU",
    "nn.py Linear": OWN_LAYERS,
    "nn.py LayerNorm": OWN_LAYERS,
    "nn.py Embedding": OWN_LAYERS,
    "nn.py PatchEmbedding": OWN_LAYERS,
}
ONLY_TENSORFLOW = {
    "keras_model.py": "compile, fit and .keras files are Keras's",
    "export.py": "SavedModel and LiteRT are TensorFlow's",
    "adamw.py": "PyTorch has it; Keras's own counts epsilon otherwise",
    "base.py BlipPreTrainedModel.get_parameter": "PyTorch modules have it",
    "distributed.py raw": "Keras casts what it reads",
    "distributed.py assign": "the variables of several replicas",
    "retrieval.py BlipForImageTextRetrieval.get_config": "what .keras files need to know",
    "base.py tf_device": "device names are TensorFlow's, PyTorch's are understood",
    "base.py random_seed": "one line in PyTorch",
    "decoding.py DecodingGraphs": "TensorFlow is fast only when compiled",
    "decoding.py TensorFlowSession._extend": "prefill and step are one compiled function",
    "vision.py BlipVisionModel.encoding_graph": "the compiled encoder",
    "text.py BlipTextModel.get_config": "what .keras files need to know",
    "nn.py Layer": OWN_LAYERS,
    "nn.py Linear": OWN_LAYERS,
    "nn.py LayerNorm": OWN_LAYERS,
    "nn.py Embedding": OWN_LAYERS,
    "nn.py lookup": "PyTorch's gradient of an embedding is dense",
    "nn.py sizes": "sizes may be unknown while TensorFlow traces a graph",
    "nn.py normalize": "PyTorch has it",
    "nn.py mish": "PyTorch has it",
    "nn.py TiedLinear": "a parameter of PyTorch may belong to two modules",
    "nn.py dropout_seed": "PyTorch's gradient checkpointing repeats dropout by itself",
    "nn.py next_seed": "PyTorch's gradient checkpointing repeats dropout by itself",
    "trainer.py choose_strategy": "PyTorch's processes are torchrun's",
    "trainer.py _sum": "PyTorch's processes sum the gradients by themselves",
    "trainer.py _tensors": STEP,
    **{f"trainer.py Trainer.{name}": STEP for name in (
        "_run", "_everywhere", "_first", "_local", "_gradients", "_add", "_apply", "_losses", "_mean",
    )},
    "nn.py dropout": "PyTorch has it",
}  # fmt: skip


def functions(parent: ast.AST) -> dict[str, list[str]]:
    """The arguments of each function or method, in order, but Keras's `training`."""
    return {
        TWINS.get(node.name, node.name): [
            argument.arg for argument in (*node.args.args, *node.args.kwonlyargs) if argument.arg != "training"
        ]
        for node in ast.iter_child_nodes(parent)
        if isinstance(node, ast.FunctionDef)
    }


def outline(package: str, file: str) -> dict[str, list[str]]:
    """The classes, methods and functions of a file in their order, with their arguments."""
    tree = ast.parse((ROOT / package / file).read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            name = TWINS.get(node.name, node.name.removeprefix("TF"))
            found |= {name: [], **{f"{name}.{method}": given for method, given in functions(node).items()}}
        elif isinstance(node, ast.FunctionDef):
            found |= functions(ast.Module([node], []))
    return {f"{file} {name}": arguments for name, arguments in found.items()}


def without(names: dict[str, list[str]], other: dict[str, list[str]], exceptions: dict[str, str]) -> list[str]:
    """The names in order but for those that the other side lacks with a reason."""

    def excused(name: str) -> bool:
        return name not in other and any(name == e or name.startswith(e + ".") for e in exceptions)

    return [name for name in names if not excused(name)]


def test_the_same_files():
    tensorflow = {path.name for path in (ROOT / "blip_tf").glob("*.py")}
    assert tensorflow - set(FILES) == {name for name in ONLY_TENSORFLOW if " " not in name}
    assert set(FILES) <= tensorflow


@pytest.mark.parametrize("file", FILES)
def test_the_same_classes_methods_and_functions_in_order(file):
    pytorch, tensorflow = outline("blip_pt", file), outline("blip_tf", file)
    assert without(pytorch, tensorflow, ONLY_PYTORCH) == without(tensorflow, pytorch, ONLY_TENSORFLOW)


@pytest.mark.parametrize("file", FILES)
def test_models_take_the_same_arguments(file):
    pytorch, tensorflow = outline("blip_pt", file), outline("blip_tf", file)
    for name in pytorch.keys() & tensorflow.keys():
        if name.startswith(f"{file} Blip"):
            assert pytorch[name] == tensorflow[name], name


def test_no_exception_is_stale():
    for exceptions, package, other in (
        (ONLY_PYTORCH, "blip_pt", "blip_tf"),
        (ONLY_TENSORFLOW, "blip_tf", "blip_pt"),
    ):
        for exception in exceptions:
            file, _, name = exception.partition(" ")
            if name:
                alone = outline(package, file).keys() - outline(other, file).keys()
                assert any(found == exception or found.startswith(exception + ".") for found in alone), exception
