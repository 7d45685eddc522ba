"""The two backends are mirror images: the same files, classes, methods and functions in the same order.

Arguments have the same defaults, bodies of functions are the same where they hold no tensor code, and files share as
many lines as they once did.
"""

import ast
from difflib import SequenceMatcher
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTORCH, TENSORFLOW = ({path.name for path in (ROOT / name).glob("*.py")} for name in ("blip_pt", "blip_tf"))
FILES = sorted(PYTORCH & TENSORFLOW)
# Names that differ: Keras's for what a call runs, and the framework's own name in a name of ours.
TWINS = {
    "forward": "call", "torch_dtype": "tf_dtype", "to_torch": "to_tensorflow", "PyTorchSession": "TensorFlowSession",
}  # fmt: skip
# Names that differ in bodies besides.
BODY_TWINS = {**TWINS, "get_tensor": "get_parameter", "mask": "score_mask", "output": "output_"}
# What one side has alone, and why. A file or a class stands for all that is in it.
OWN_LAYERS = "the layers of PyTorch and of Keras begin otherwise; these draw no weights in PyTorch, own them in Keras"
STEP = "a step is written down in PyTorch, and in TensorFlow traced as graphs that replicas run"
ONLY_PYTORCH = {
    "backend.py resize_pixels": "pictures are prepared fast with PyTorch alone",
    "base.py BlipPreTrainedModel.dtype": "Keras layers have it",
    "base.py BlipPreTrainedModel.get_tensor": "get_parameter of TensorFlow gives the queues as well",
    "base.py BlipPreTrainedModel.state_dict": "state dicts are PyTorch's",
    "model_methods.py ModelMethods.enable_input_require_grads": "Keras has no hooks",
    "model_methods.py ModelMethods.disable_input_require_grads": "Keras has no hooks",
    "model_methods.py ModelMethods.set_attn_implementation": "TensorFlow has one way",
    "base.py BlipPreTrainedModel.load_state_dict": "state dicts are PyTorch's",
    "base.py evaluating": "Keras models do not train unless a call says so",
    "base.py evaluated": "the same",
    "distributed.py _Gather": "TensorFlow's all_gather has a gradient",
    "distributed.py Sharded": "FSDP is PyTorch's",
    "distributed.py full": "FSDP is PyTorch's",
    "base.py model_name": "TensorFlow has it in keras_model.py",
    "base.py converted": "threads of TensorFlow start whatever converts",
    "trainer.py Trainer._clip": STEP,
    "trainer.py Trainer._call": STEP,
    "trainer.py choose_device": "in TensorFlow the strategy has the devices",
    "trainer.py _like": "FSDP is PyTorch's",
    "decoding.py TensorFlowSession._logits": "the compiled step of TensorFlow ends with the logits",
    "base.py BlipPreTrainedModel.quantize": "TensorFlow has no int8 product for a CPU; exports to LiteRT have",
    "base.py BlipPreTrainedModel.quantized": "the same",
    "base.py BlipPreTrainedModel.optimize": "TensorFlow has no packed weights that Python can hold",
    "nn.py QuantizedLinear.of": "the same",
    "optimizing.py": "the same",
    "products.py": "TensorFlow multiplies with oneDNN by itself",
    "onnx_export.py": "ONNX is PyTorch's",
    "onnx_int8.py": "the same",
    "onnx_loop.py": "the same",
    "openvino_export.py": "the same, and OpenVINO's graphs are made of it",
    "programs.py": "torch.export is PyTorch's",
    "parts.py FixedCache": "the caches of TensorFlow's graphs are so anyway",
    "parts.py size": "numbers are sizes in TensorFlow's graphs",
    "nn.py QuantizedLinear": "the same",
    "nn.py int8_scale": "the same",
    "nn.py is_tracing": "tensors of TensorFlow tell",
    "nn.py onednn_can": "TensorFlow multiplies with oneDNN by itself",
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
    "nn.py PatchEmbedding": "PyTorch's is that of its convolution, which PEFT makes more of",
    "base.py BlipPreTrainedModel.__call__": "Keras takes only tensors by position",
    "model_methods.py replace_weight": "tensors of PyTorch can change their shape",
    "distributed.py raw": "Keras casts what it reads",
    "distributed.py assign": "the variables of several replicas",
    "classification.py BlipForClassification.get_config": "what .keras files need to know",
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
    "nn.py Sequential": "PyTorch has it",
    "nn.py dropout_seed": "PyTorch's gradient checkpointing repeats dropout by itself",
    "nn.py next_seed": "PyTorch's gradient checkpointing repeats dropout by itself",
    "trainer.py choose_strategy": "PyTorch's processes are torchrun's",
    "trainer.py _sum": "PyTorch's processes sum the gradients by themselves",
    "trainer.py _tensors": STEP,
    **{f"trainer.py Trainer.{name}": STEP for name in (
        "_run", "_everywhere", "_first", "_local", "_gradients", "_add", "_apply", "_losses", "_mean",
    )},
}  # fmt: skip

FRAMEWORKS = {"torch", "nn", "F", "dist", "pytree", "tf", "keras", "optree", "raw", "sizes"}
"""A function that uses one of these names holds tensor code."""
# Bodies that differ without tensor code of that kind, and why.
OWN_STATE = "where the weights are kept"
BY_NAME = "layers of Keras take only tensors by position"
OTHER_BODIES = {
    "base.py BlipPreTrainedModel.__init__": "Keras builds layers when they are first called, unless told otherwise",
    "base.py BlipPreTrainedModel.device": OWN_STATE,
    "base.py BlipPreTrainedModel.tie_weights": OWN_STATE,
    "model_methods.py ModelMethods._every_layer": OWN_STATE,
    "model_methods.py ModelMethods._from_config": "PyTorch has two ways of attention",
    "model_methods.py ModelMethods.gradient_checkpointing_enable": "the options are PyTorch's",
    "captioning.py BlipForConditionalGeneration.__init__": "TensorFlow warns wherever it knows the values",
    "contrastive.py BlipModel.get_image_features": BY_NAME,
    "decoding.py LayerCache.__init__": "graphs of TensorFlow are given the length",
    "language_model.py BlipTextLMHeadModel.__init__": "TensorFlow is fast only when compiled",
    "classification.py BlipForClassification.make_momentum": "Keras makes layers under a policy of types",
    "momentum.py BlipFollowedModel.make_momentum": OWN_STATE,
    "momentum.py BlipFollowedModel.momentum_pairs": OWN_STATE,
    "nn.py LoraLinear.__init__": "weights of Keras lie the other way, (in, out)",
    "nn.py activated": "layers with packed weights fuse it, too",
    "nn.py to_array": "PyTorch's arrays may lie on another device",
    "retrieval.py BlipForImageTextRetrieval.explain": "autograd keeps no tensors of inference_mode",
    "scoring.py token_lists": "the same",
    "text.py TextLayer.call": BY_NAME,
    "text.py TextEncoder.call": BY_NAME,
    "text_attention.py TextAttention.call": BY_NAME,
    **{f"trainer.py Trainer.{name}": STEP for name in ("evaluate", "read", "optimizer_state")},
    "trainer.py load_old": "modules of PyTorch know whether they are trained",
}
LIKENESS = {"answering.py": 0.82, "retrieval.py": 0.82, "all": 0.63}
"""The least share of lines in common where both are written with the names of one backend."""


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


def definitions(package: str, file: str) -> dict[str, ast.FunctionDef]:
    """The functions and methods of a file by the names that they have in TensorFlow."""
    found = {}
    for node in ast.parse((ROOT / package / file).read_text(encoding="utf-8")).body:
        owner = f"{TWINS.get(node.name, node.name.removeprefix('TF'))}." if isinstance(node, ast.ClassDef) else ""
        for function in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(function, ast.FunctionDef):
                found[f"{file} {owner}{TWINS.get(function.name, function.name)}"] = function
    return found


def defaults(function: ast.FunctionDef) -> dict[str, str]:
    """The default values of the arguments that have one."""
    arguments = function.args
    last = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    values = [*arguments.defaults, *arguments.kw_defaults]
    pairs = zip([*last, *arguments.kwonlyargs], values, strict=True)
    return {argument.arg: ast.unparse(value) for argument, value in pairs if value is not None}


class Neutral(ast.NodeTransformer):
    """Rewrites code as it might stand in either backend: without modes of training, arguments of calls by position."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(BODY_TWINS.get(node.id, node.id.removeprefix("TF")))

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if ast.unparse(node) == "self.training":
            return ast.Name("training")
        return ast.Attribute(self.visit(node.value), BODY_TWINS.get(node.attr, node.attr))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        values = [*node.args, *(word.value for word in node.keywords if word.arg)]
        values = [value for value in values if ast.unparse(value) != "training"]
        return ast.Call(node.func, values, [word for word in node.keywords if word.arg is None])

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        self.generic_visit(node)
        kept = [(k, v) for k, v in zip(node.keys, node.values, strict=True) if ast.unparse(v) != "training"]
        return ast.Dict([key for key, _ in kept], [value for _, value in kept])


def body(function: ast.FunctionDef) -> str:
    """The code of a function without its docstring, as it might stand in either backend."""
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    return ast.unparse(Neutral().visit(ast.Module(statements, [])))


def holds_tensor_code(function: ast.FunctionDef) -> bool:
    names = {node.id for statement in function.body for node in ast.walk(statement) if isinstance(node, ast.Name)}
    return bool(names & FRAMEWORKS)


def lines(package: str, file: str) -> list[str]:
    """The lines of a file, by the names of PyTorch's backend."""
    text = (ROOT / package / file).read_text(encoding="utf-8")
    names = {"TFBlip": "Blip", "blip_tf": "blip_pt", "def call(": "def forward(", "TensorFlowSession": "PyTorchSession"}
    for name, twin in names.items():
        text = text.replace(name, twin)
    return text.splitlines()


def without(names: dict[str, list[str]], other: dict[str, list[str]], exceptions: dict[str, str]) -> list[str]:
    """The names in order but for those that the other side lacks with a reason."""

    def excused(name: str) -> bool:
        return name not in other and any(name == e or name.startswith(e + ".") for e in exceptions)

    return [name for name in names if not excused(name)]


def test_the_same_files():
    assert {name for name in ONLY_TENSORFLOW if " " not in name} == TENSORFLOW - PYTORCH
    assert {name for name in ONLY_PYTORCH if " " not in name} == PYTORCH - TENSORFLOW


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


@pytest.mark.parametrize("file", FILES)
def test_arguments_have_the_same_defaults(file):
    pytorch, tensorflow = definitions("blip_pt", file), definitions("blip_tf", file)
    for name in pytorch.keys() & tensorflow.keys():
        ours, theirs = defaults(pytorch[name]), defaults(tensorflow[name])
        theirs.pop("training", None)
        if name.startswith(f"{file} Blip"):
            assert ours == theirs, name
        assert all(theirs[argument] == ours[argument] for argument in ours.keys() & theirs.keys()), name


@pytest.mark.parametrize("file", sorted({*FILES} - {"backend.py"}))  # which holds what differs
def test_bodies_without_tensor_code_are_the_same(file):
    pytorch, tensorflow = definitions("blip_pt", file), definitions("blip_tf", file)
    shared = [name for name in pytorch if name in tensorflow]
    neutral = [n for n in shared if not holds_tensor_code(pytorch[n]) and not holds_tensor_code(tensorflow[n])]
    assert [n for n in neutral if body(pytorch[n]) != body(tensorflow[n])] == [
        name for name in shared if name in OTHER_BODIES
    ]


def test_files_are_as_alike_as_they_were():
    shared, whole = {}, {}
    for file in FILES:
        one, other = lines("blip_pt", file), lines("blip_tf", file)
        blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
        shared[file], whole[file] = 2 * sum(block.size for block in blocks), len(one) + len(other)
    found = {file: shared[file] / whole[file] for file in FILES} | {"all": sum(shared.values()) / sum(whole.values())}
    print({name: round(share, 3) for name, share in found.items()})
    assert {name: found[name] >= least for name, least in LIKENESS.items()} == dict.fromkeys(LIKENESS, True), found


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
