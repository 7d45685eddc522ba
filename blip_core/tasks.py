"""The registry of tasks: what a model can be trained for and evaluated on, a row each.

Datasets, training, evaluation and the command line read these rows and never compare a task's name. To add a task,
`register` a row of it; its functions may stand in one new file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from blip_core.lazy import Function

PRESETS = Path(__file__).parent / "training" / "presets"
IGNORED = -100
"""The label of a position that does not count in the loss."""
_CLEAN_CAPTION = Function("blip_core.datasets.cleaning:clean_caption")


def count_examples(inputs: Mapping[str, np.ndarray]) -> int:
    """Return how many examples a batch has."""
    return len(inputs["pixel_values"])


def count_tokens(inputs: Mapping[str, np.ndarray]) -> int:
    """Return how many tokens the language-modelling loss of a batch predicts: logits are shifted by one."""
    return int((inputs["labels"][:, 1:] != IGNORED).sum())


@dataclass(frozen=True)
class Task:
    """One task. Functions are callables, or a `Function` where they stand in another room.

    Attributes:
        name: As in `blip train NAME`.
        head: The model class, without "TF".
        description: What an evaluation measures, in a few words.
        parse: `(key, pictures, entry) -> Example`; raises `ValueError` with what is wrong with the entry. Tasks with
            the same function share their datasets.
        inputs: `(examples, texts, tokenize, prompt, with_targets) -> arrays` by the model's argument names, but for
            `pixel_values`. `texts` are cleaned, one for each example; `tokenize` is the processor with its options.
        target: The field of an `Example` that training learns and evaluation compares with, and its name in messages.
        clean: How a text is cleaned before it is tokenized.
        max_length: The original's number of tokens of a text, special ones included; None does not cut.
        needs_text: Whether the model is given the text, so that batches without targets have it, too.
        pictures: Pictures of an example.
        swap: Changes the text of an example with two pictures when training swaps them, as it then does half of the
            time.
        image_ids: Whether batches tell which examples have the same picture: "always", "given" (where the data do),
            or "never".
        crop_scale: The share of a picture's area that the original's random crop leaves.
        takes_prompt: Whether texts begin with the prompt of the settings, which is stored with the model.
        contrastive: Whether the loss compares the pairs of a batch, so that it needs two and noise for negatives.
        distils: Whether momentum encoders soften the labels, with the share alpha.
        loss_count: How many things the loss of a batch is the mean over.
        rows_per_example: The inputs with several rows for an example, and the input that says how many.
        evaluate: `(model, processor, dataset, **options) -> Evaluation`; None where the loss is all there is.
        metric: The metric that finds the best epoch, higher being better; or the sum of several, joined by "+".
        evaluation_options: The keywords of `evaluate` beside the common ones; "generation" stands for those of
            `generate`.
        official: The fields of an entry of the evaluation that the official form of predictions has.
        seen: What the names of pictures begin with that the original's checkpoints of the task were trained with,
            though data sets have them for evaluation.
        said: The field of an evaluation's entries that holds what the model said of an example, or what it said first;
            "" where it says nothing.
        use: A command that uses what was trained, with `{model}` for its folder.
        preset: A TOML file of training settings; None leaves the defaults.
        unused: Parts of the model that its loss does not reach, which training leaves as they are.
        trains: Whether a model can be trained for it, too.
    """

    name: str
    head: str
    description: str
    parse: Callable[..., Any]
    inputs: Callable[..., dict[str, np.ndarray]]
    target: tuple[str, str] = ("texts", "caption")
    clean: Callable[[str], str] = _CLEAN_CAPTION
    max_length: int | None = None
    needs_text: bool = False
    pictures: int = 1
    swap: Callable[[str], str] | None = None
    image_ids: Literal["never", "given", "always"] = "never"
    crop_scale: tuple[float, float] = (0.5, 1.0)
    takes_prompt: bool = False
    contrastive: bool = False
    distils: bool = False
    loss_count: Callable[[Mapping[str, np.ndarray]], int] = count_examples
    rows_per_example: Mapping[str, str] = field(default_factory=dict)
    evaluate: Callable[..., Any] | None = None
    metric: str = ""
    evaluation_options: tuple[str, ...] = ()
    official: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    said: str = ""
    use: str = "blip inspect {model}"
    preset: Path | None = None
    unused: tuple[str, ...] = ()
    trains: bool = True

    def lacks(self, example: Any) -> str:
        """Return the name of the target if an example has none, else ""."""
        name, word = self.target
        return word if getattr(example, name) in (None, ()) else ""


TASKS: dict[str, Task] = {}
"""The rows by name."""


def register(task: Task) -> None:
    """Add a task.

    Raises:
        ValueError: If there is another task of that name.
    """
    if TASKS.setdefault(task.name, task) is not task:
        raise ValueError(f"There is a task {task.name!r} already; choose another name.")


def get_task(name: str) -> Task:
    """Return the task of a name.

    Raises:
        ValueError: If there is none, naming those that there are.
    """
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {name!r}.")
    return TASKS[name]


def recipes(task: str) -> list[str]:
    """Return the names of the presets for a task, of a base model first."""
    return sorted(path.stem for path in PRESETS.glob("*.toml") if path.stem.partition("-")[0] == task)


_CAPTIONED = Function("blip_core.datasets.entries:parse_captions")
_TEXTS = Function("blip_core.datasets.text_inputs:plain_texts")
_ANSWERS = ("labels", "decoder_input_ids", "decoder_attention_mask", "answer_weights")

for _task in (
    Task(
        name="caption",
        head="BlipForConditionalGeneration",
        description="captions of pictures: BLEU, ROUGE-L and CIDEr",
        parse=_CAPTIONED,
        inputs=Function("blip_core.datasets.text_inputs:captions"),
        max_length=40,
        takes_prompt=True,
        loss_count=count_tokens,
        evaluate=Function("blip_core.evaluation:evaluate_captions"),
        metric="cider+bleu_4",
        evaluation_options=("prompt", "frames", "matcher", "generation"),
        official=("image_id", "caption"),
        said="caption",
        use="blip caption picture.jpg --model {model}",
        preset=PRESETS / "caption.toml",
    ),
    Task(
        name="retrieval",
        head="BlipForImageTextRetrieval",
        description="captions found by pictures and pictures by captions: recall and median rank",
        parse=_CAPTIONED,
        inputs=_TEXTS,
        max_length=35,
        image_ids="always",
        contrastive=True,
        evaluate=Function("blip_core.evaluation:evaluate_retrieval"),
        metric="mean_recall",
        evaluation_options=("rerank", "frames", "max_words"),
        official=("image", "text", "rank", "best"),
        said="best",
        use="blip match picture.jpg 'a text' 'another' --model {model}",
        preset=PRESETS / "retrieval-coco.toml",
    ),
    Task(
        name="vqa",
        head="BlipForQuestionAnswering",
        description="answers to questions: the accuracy of the VQA challenge",
        parse=Function("blip_core.datasets.entries:parse_question"),
        inputs=Function("blip_core.datasets.text_inputs:questions"),
        target=("answers", "answer"),
        clean=Function("blip_core.datasets.cleaning:clean_question"),
        max_length=35,
        needs_text=True,
        rows_per_example=dict.fromkeys(_ANSWERS, "answer_counts"),
        evaluate=Function("blip_core.evaluation:evaluate_answers"),
        metric="accuracy",
        evaluation_options=("choices", "candidates", "frames", "generation"),
        official=("question_id", "answer"),
        seen=("COCO_train2014_", "COCO_val2014_"),
        said="answer",
        use="blip answer picture.jpg 'a question?' --model {model}",
        preset=PRESETS / "vqa.toml",
    ),
    Task(
        name="nlvr",
        head="BlipForNLVR",
        description="sentences about two pictures: accuracy",
        parse=Function("blip_core.datasets.entries:parse_sentence"),
        inputs=Function("blip_core.datasets.text_inputs:sentences"),
        target=("label", "label"),
        clean=Function("blip_core.datasets.cleaning:clean_sentence"),
        needs_text=True,
        pictures=2,
        swap=Function("blip_core.datasets.cleaning:swap_sides"),
        evaluate=Function("blip_core.evaluation:evaluate_nlvr"),
        metric="accuracy",
        said="judged",
        use="blip evaluate nlvr --data pairs.json --model {model}",
        preset=PRESETS / "nlvr.toml",
    ),
    Task(
        name="match",
        head="BlipForImageTextRetrieval",
        description="pairs of pictures and texts that match or not: accuracy",
        parse=Function("blip_core.datasets.entries:parse_pair"),
        inputs=Function("blip_core.datasets.text_inputs:sentences"),
        target=("label", "label"),
        max_length=35,
        needs_text=True,
        evaluate=Function("blip_core.evaluation:evaluate_matches"),
        metric="accuracy",
        preset=PRESETS / "match.toml",
        unused=("vision_proj", "text_proj", "temp"),
    ),
    Task(
        name="classification",
        head="BlipForClassification",
        description="classes of pictures with sentences, such as entailment: accuracy",
        parse=Function("blip_core.datasets.entries:parse_class"),
        inputs=Function("blip_core.datasets.text_inputs:sentences"),
        target=("label", "label"),
        clean=Function("blip_core.datasets.cleaning:clean_sentence"),
        max_length=40,
        needs_text=True,
        distils=True,
        evaluate=Function("blip_core.evaluation:evaluate_classes"),
        metric="accuracy",
        said="judged",
        use="blip evaluate classification --data pairs.json --model {model}",
        preset=PRESETS / "classification.toml",
    ),
    Task(
        name="grounding",
        head="BlipForImageTextRetrieval",
        description="boxes that expressions mean, found by maps of a matching model: pointing game and box accuracy",
        parse=Function("blip_core.datasets.entries:parse_grounding"),
        inputs=_TEXTS,
        target=("box", "box"),
        max_length=35,
        evaluate=Function("blip_core.evaluation:evaluate_grounding"),
        metric="box_accuracy",
        evaluation_options=("method", "layer", "detections"),
        trains=False,
    ),
    Task(
        name="pretrain",
        head="BlipForPreTraining",
        description="pictures with captions: the loss",
        parse=_CAPTIONED,
        inputs=_TEXTS,
        max_length=30,
        image_ids="given",
        crop_scale=(0.2, 1.0),
        contrastive=True,
        use="blip caption picture.jpg --model {model}",
        preset=PRESETS / "pretrain.toml",
    ),
):
    register(_task)
