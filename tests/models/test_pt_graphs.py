"""Graphs of the PyTorch models: torch.export, torch.jit.trace and torch.compile see sizes, not numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.helpers.pytorch_models import make, tensors
from tests.helpers.random_models import HEADS, difference

CAPTION, MATCH, ANSWER = "BlipForConditionalGeneration", "BlipForImageTextRetrieval", "BlipForQuestionAnswering"
BATCH, LENGTH = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=2, max=30)
PICTURES, TEXTS = {0: BATCH}, {0: BATCH, 1: LENGTH}
PAIRS = (PICTURES, TEXTS, TEXTS)
PREDICTED = {0: BATCH, 1: torch.export.Dim("length", min=3, max=30)}  # two tokens or more are predicted


class Call(torch.nn.Module):
    """A call of a model as a module, which is what exporters take."""

    def __init__(self, model: torch.nn.Module, call: Callable[..., Any]):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self.call(self.model, *given)


def given(batch: int, length: int) -> dict[Any, torch.Tensor]:
    noise = torch.Generator().manual_seed(batch)
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, length // 2 :] = 0
    texts = {0: torch.randint(6, 80, (batch, length), generator=noise), 1: mask}
    return texts | {"pixels": torch.randn(batch, 3, 32, 32, generator=noise)}


CALLS = {
    "vision": (CAPTION, lambda m, p: m.vision_model(p).last_hidden_state, (PICTURES,)),
    "text": (MATCH, lambda m, i, a: m.text_encoder(i, a).last_hidden_state, (TEXTS, TEXTS)),
    "decoder": (CAPTION, lambda m, i, a: m.text_decoder(i, a, is_decoder=True).logits, (TEXTS, TEXTS)),
    "caption": (CAPTION, lambda m, p, i, a: m(p, i, a).logits, PAIRS),
    "loss": (CAPTION, lambda m, p, i, a: m(p, i, a, labels=i).loss, (PICTURES, PREDICTED, PREDICTED)),
    "match": (MATCH, lambda m, p, i, a: m(i, p, attention_mask=a).itm_score, PAIRS),
    "compare": (MATCH, lambda m, p, i, a: m(i, p, attention_mask=a, use_itm_head=False).itm_score, PAIRS),
    "answer": (ANSWER, lambda m, p, i, a: m(i, p, i, a, a).logits, PAIRS),
    "nlvr": ("BlipForNLVR", lambda m, p, i, a: m(torch.stack([p, p.flip(0)], 1), i, a).logits, PAIRS),
}


def module_and_inputs(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    head, call, shapes = CALLS[name]
    names = (["pixels"] if shapes[0] is PICTURES else []) + ([0, 1] if len(shapes) > 1 else [])
    first, other = (tuple(given(*size)[part] for part in names) for size in ((3, 7), (5, 9)))
    return Call(make(head).requires_grad_(False), call), first, other


@pytest.mark.parametrize("name", CALLS)
def test_exported_models_take_any_size(name):
    module, first, other = module_and_inputs(name)
    graph = torch.export.export(module, first, dynamic_shapes=(CALLS[name][2],), strict=False).module()
    for values in (first, other):
        assert difference(module(*values), graph(*values)) < 1e-5


@pytest.mark.filterwarnings("ignore:Converting a tensor", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CALLS)
def test_traced_models_take_any_batch(name):
    module, first, _ = module_and_inputs(name)
    graph = torch.jit.trace(module, first, check_trace=False)
    for values in (first, tuple(torch.cat([value, value.flip(0)]) for value in first)):
        assert difference(module(*values), graph(*values)) < 1e-5


@pytest.mark.parametrize("name", ["caption", "match", "answer", "nlvr"])
def test_compiled_models_have_two_graphs_at_most(name):
    module, *_ = module_and_inputs(name)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(module, dynamic=True, backend=backend)
    for batch in (2, 3, 1, 4):  # PyTorch makes a graph of its own for one
        for length in (5, 8, 11):
            values = tuple(given(batch, length)[part] for part in ("pixels", 0, 1))
            assert difference(module(*values), compiled(*values)) < 1e-5
    torch._dynamo.reset()
    assert len(graphs) <= 2


@pytest.mark.parametrize("head", [CAPTION, ANSWER])
def test_generate_works_with_compiled_parts(head):
    model, values = make(head).eval(), tensors(head)
    del values["labels"]
    options = [{"max_new_tokens": 4}, {"max_new_tokens": 6, "num_beams": 2}]
    expected = [model.generate(**values, **option) for option in options]
    torch._dynamo.reset()
    model.vision_model.compile(dynamic=True, backend="eager")
    model.text_decoder.bert.compile(dynamic=True, backend="eager")
    found = [model.generate(**values, **option) for option in options]
    torch._dynamo.reset()
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize("backend", ["eager", "inductor"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.slow
def test_each_model_compiles_as_one_graph(head, backend):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    model, given = make(head).requires_grad_(False), tensors(head)
    torch._dynamo.reset()
    with torch.no_grad():
        expected, found = model(**given), torch.compile(model, fullgraph=True, backend=backend)(**given)
    torch._dynamo.reset()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert difference(value, found[name]) < 1e-5, name
