"""The stored numbers of the official caption metrics against pycocoevalcap itself, which needs Java."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.oracle
CAPTIONS = Path(__file__).parents[1] / "data" / "metrics" / "captions.json"


def test_pycocoevalcap_gives_the_stored_numbers():
    pytest.importorskip("pycocoevalcap", reason="needs pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    stored = json.loads(CAPTIONS.read_text(encoding="utf-8"))
    examples = dict(enumerate(stored["examples"]))
    tokenizer = PTBTokenizer()
    captions = tokenizer.tokenize({i: [{"caption": e["caption"]}] for i, e in examples.items()})
    references = tokenizer.tokenize({i: [{"caption": text} for text in e["references"]] for i, e in examples.items()})
    for i, example in examples.items():
        assert [text.split() for text in captions[i] + references[i]] == example["tokens"]
    bleu, _ = Bleu(4).compute_score(references, captions, verbose=0)
    cider, ciders = Cider().compute_score(references, captions)
    rouge, _ = Rouge().compute_score(references, captions)
    np.testing.assert_allclose([*bleu, rouge, cider], [*stored["bleu"], stored["rouge_l"], stored["cider"]], rtol=1e-12)
    np.testing.assert_allclose(ciders, [e["cider"] for e in examples.values()], rtol=1e-12, atol=1e-12)
