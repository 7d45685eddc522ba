"""What is refused before the vision encoder runs, how contrastive training begins, and what can be pickled."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch

from blip_pt import BlipForImageTextRetrieval
from blip_pt.nn import ACTIVATIONS, onednn_can
from tests.helpers.pytorch_models import make, tensors
from tests.helpers.random_models import CONFIGS_OF, difference

CAPTION, ANSWER, MATCH = "BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"
NLVR, PRETRAIN, MODEL = "BlipForNLVR", "BlipForPreTraining", "BlipModel"
LONG, SHORT = torch.ones(2, 42, dtype=torch.long), torch.ones(2, 6, dtype=torch.long)
TEXTS, WIDE = torch.full((3, 4), 7), torch.full((2, 7), 95)
COMMON = [{"input_ids": LONG, "attention_mask": None}, {"input_ids": WIDE}, {"attention_mask": SHORT}]
PAIRED = [*COMMON, {"input_ids": TEXTS, "attention_mask": None, "labels": None}]
IDS = torch.tensor([4, 9])
REFUSED = [
    *((CAPTION, "forward", change) for change in (*PAIRED, {"labels": SHORT})),
    *((CAPTION, "generate", change) for change in (
        *PAIRED, {"num_beams": 0}, {"no_option": 1}, {"prompt_ids": [95], "input_ids": None, "attention_mask": None},
        {"seed": -1, "do_sample": True}, {"seed": [1, 2, 3], "do_sample": True},
        {"stream": print, "num_beams": 2}, {"max_length": 3},
    )),
    *((CAPTION, "score_texts", change) for change in (*COMMON, {"input_ids": None}, {"input_ids": TEXTS[:, :1]})),
    *((CAPTION, "explain", change) for change in (*PAIRED, {"layer": 2}, {"method": "saliency"}, {"grid": (4, 5)})),
    *((ANSWER, "forward", change) for change in (
        *COMMON, {"labels": None}, {"labels": TEXTS}, {"input_ids": None}, {"decoder_input_ids": WIDE},
        {"decoder_input_ids": SHORT}, {"answer_counts": [1]}, {"answer_weights": [0.5]},
        {"decoder_attention_mask": SHORT},
    )),
    *((ANSWER, "generate", change) for change in (*PAIRED, {"num_beams": 0}, {"input_ids": None})),
    *((ANSWER, method, change) for method in ("score_texts", "rank_answers") for change in (
        *({"answer_ids": TEXTS, **common} for common in COMMON), {"answer_ids": None},
        {"answer_ids": TEXTS[:, :1]}, {"answer_ids": WIDE},
    )),
    (ANSWER, "rank_answers", {"answer_ids": TEXTS}),
    (ANSWER, "rank_answers", {"answer_ids": torch.tensor([[7, 8]]), "k": 0}),
    *((MATCH, "forward", change) for change in (
        *PAIRED, {"input_ids": None}, *({"use_itm_head": False, **common} for common in COMMON),
        *({"image_ids": IDS, **common} for common in PAIRED),
        {"image_ids": IDS[:1]}, {"image_ids": torch.tensor([4, 4])},
        {"image_ids": IDS, "noise": torch.rand(2, 3)}, {"image_ids": IDS, "use_itm_head": False},
    )),
    *((MATCH, "explain", change) for change in (*PAIRED, {"layer": 2}, {"grid": (4, 5)})),
    *((MATCH, "get_multimodal_features", change) for change in (*PAIRED, {"input_ids": None})),
    *((MATCH, "extract_features", change) for change in (*PAIRED, {"mode": "none"})),
    (MATCH, "classify", {"label_features": torch.ones(3, 15), "input_ids": None, "attention_mask": None}),
    *((NLVR, "forward", change) for change in (
        *COMMON, {"input_ids": TEXTS, "attention_mask": None}, {"labels": torch.ones(3)},
        {"pixel_values": torch.zeros(2, 3, 32, 32)},
    )),
    *((PRETRAIN, "forward", change) for change in (
        *PAIRED, {"pixel_values": None}, {"noise": torch.rand(2, 3)}, {"image_ids": torch.tensor([4, 4])},
    )),
    *((MODEL, "forward", change) for change in (
        *COMMON, {"return_loss": True, "input_ids": TEXTS, "attention_mask": None},
    )),
    *((MODEL, "get_multimodal_features", change) for change in PAIRED),
]  # fmt: skip


@pytest.fixture(scope="module")
def models():
    """Models by head, with how often their vision encoders ran."""
    made = {}

    def of(head):
        if head not in made:
            model, calls = make(head), []
            if head == MATCH:
                model.start_momentum()
            for part in ("vision_model", "vision_model_m"):
                if hasattr(model, part):
                    getattr(model, part).embeddings.register_forward_hook(lambda *_: calls.append(1))
            made[head] = model, calls
        return made[head]

    return of


@pytest.mark.parametrize(("head", "method", "change"), REFUSED)
def test_wrong_arguments_are_refused_before_pictures_are_encoded(models, head, method, change):
    model, calls = models(head)
    values = tensors(head)
    if method != "forward" or head == MATCH:
        values.pop("labels", None)
    values = {name: value for name, value in (values | change).items() if value is not None}
    calls.clear()
    with pytest.raises((ValueError, TypeError)):
        getattr(model, method)(**values)
    assert not calls


def test_the_calls_are_counted(models):
    model, calls = models(CAPTION)
    calls.clear()
    model.generate(tensors(CAPTION)["pixel_values"], max_new_tokens=2)
    assert calls == [1]


def test_labels_of_texts_that_begin_otherwise_give_one_warning():
    model, values = make(CAPTION), tensors(CAPTION)
    before = model(**{name: value for name, value in values.items() if name != "labels"}).logits
    with pytest.warns(UserWarning, match=r"do not begin with \[DEC\] \(88\)") as seen:
        logits = model(**values).logits
    assert len(seen) == 1
    assert torch.equal(before, logits)  # the first token is left as given
    values["input_ids"][:, 0] = 88
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(**values)
        del values["labels"], values["input_ids"], values["attention_mask"]
        model(**values)


@pytest.mark.parametrize("training", [False, True])
def test_momentum_begins_in_the_mode_and_with_the_parameters_of_the_model(training):
    model = make(MATCH).train(training)
    model.vision_model.eval()
    model.start_momentum()
    modes = {name: getattr(model, name).training for name in ("vision_model_m", "text_encoder_m", "text_proj_m")}
    assert modes == {"vision_model_m": False, "text_encoder_m": training, "text_proj_m": training}
    assert all(module.training == training for module in model.text_encoder_m.modules())
    weights = dict(model.named_parameters())
    optimizer = torch.optim.SGD([model.temp], lr=1.0)
    with torch.no_grad():
        model.temp.fill_(0.3)
        model.image_queue.zero_()
        model.queue_before = model.image_queue
    model.start_momentum()
    assert all(dict(model.named_parameters())[name] is weight for name, weight in weights.items())
    assert optimizer.param_groups[0]["params"][0] is model.temp
    assert float(model.temp) == pytest.approx(0.07)
    assert model.image_queue is model.queue_before
    assert bool(model.image_queue.norm(dim=0).allclose(torch.ones(())))


def test_evaluation_losses_do_not_change_when_momentum_begins():
    values, config = tensors(MATCH), copy.deepcopy(CONFIGS_OF["wide"])
    config.text_config.hidden_dropout_prob = 0.5
    model = BlipForImageTextRetrieval(config).eval()
    model.start_momentum()
    values |= {"image_ids": IDS, "noise": torch.full((2, 2), 0.5)}
    losses = [float(model(**values).loss) for _ in range(3)]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_pickled(name):
    activation = pickle.loads(pickle.dumps(ACTIVATIONS[name]))
    x = torch.linspace(-3, 3, 7)
    assert torch.equal(activation(x), ACTIVATIONS[name](x))


def test_models_with_any_activation_are_pickled_and_copied():
    model, values = make(CAPTION, "deep"), tensors(CAPTION, "deep")  # quick_gelu and gelu_new
    logits = model(**values).logits
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert difference(logits.detach(), other(**values).logits.detach()) < 1e-6


def test_onednn_may_be_forbidden():
    with torch.no_grad():
        allowed = onednn_can(torch.zeros(2))
        with torch.backends.mkldnn.flags(enabled=False):
            assert not onednn_can(torch.zeros(2))
        assert onednn_can(torch.zeros(2)) == allowed
