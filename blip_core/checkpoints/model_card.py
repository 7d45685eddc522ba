"""The page of a model on the Hugging Face Hub: its base model, what it is for, and how it is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from blip_core.engines import ENGINES
from blip_core.hub import REPOSITORY
from blip_core.parameters.heads import HEADS

CARD = """---
{front}
---

# {title}

A BLIP model for {task}{origin}.

## How to load it

{code}
In other programs that know BLIP, such as transformers, the class is `{head}`, too.
"""
LOAD = """With {title} (`pip install "blip-duo[{extra}]"`):

```python
from {module} import BlipProcessor, {prefix}{head}

processor = BlipProcessor.from_pretrained("{name}")
model = {prefix}{head}.from_pretrained("{name}")
```

"""


def model_card(head: str, name: str, base: str, tags: Sequence[str] = ()) -> str:
    """Return the page of a model of a class in the repository `name`, which was loaded from `base` ("" for nothing)."""
    row = HEADS[head]
    is_repository = bool(REPOSITORY.fullmatch(base)) and base.count("/") == 1
    front = ["library_name: blip-duo", *([f"pipeline_tag: {row.pipeline}"] if row.pipeline else [])]
    front += [f"base_model: {base}"] * is_repository
    front += ["tags:", *(f"- {tag}" for tag in ("blip", *tags))]
    link = f"[{base}](https://huggingface.co/{base})" if is_repository else ""
    engines = [engine for engine in ENGINES.values() if engine.trainer]
    return CARD.format(
        front="\n".join(front),
        title=name.rpartition("/")[2],
        task=row.task,
        origin=f", trained from {link}" if link else "",
        code="".join(
            LOAD.format(title=e.title, extra=e.extra, module=e.module, prefix=e.prefix, head=head, name=name)
            for e in engines
        ),
        head=head,
    )
