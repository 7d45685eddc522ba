"""Using models of any engine: pictures and texts in any form go in, small records come out.

`Captioner`, `Answerer`, `Matcher`, `Classifier` and `Explainer` are loaded by `from_pretrained`, or made of a model and
its processor. Called with one picture they return a result, called with many an iterator of results. The command line,
CapFilt, search and evaluation stand on them: nothing else in `blip_core` calls a model to use it. The names
are imported when they are first used.
"""

from typing import TYPE_CHECKING

from blip_core.lazy import lazy_names

if TYPE_CHECKING:
    from blip_core.inference.answerer import Answerer
    from blip_core.inference.captioner import Captioner
    from blip_core.inference.classifier import Classifier
    from blip_core.inference.explainer import Explainer
    from blip_core.inference.matcher import Matcher
    from blip_core.inference.results import Answer, Caption, Classes, Explanation, Match

__all__ = [
    "Answer",
    "Answerer",
    "Caption",
    "Captioner",
    "Classes",
    "Classifier",
    "Explainer",
    "Explanation",
    "Match",
    "Matcher",
]

# The module of each name; what is not listed is in `results`.
_MODULES = {
    "Answerer": "answerer",
    "Captioner": "captioner",
    "Classifier": "classifier",
    "Explainer": "explainer",
    "Matcher": "matcher",
}

__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{_MODULES.get(name, 'results')}" for name in __all__})
