"""Configurations, pairs of models, ours and transformers', and small checkpoints for the oracle tests."""

from __future__ import annotations

import copy

import pytest


@pytest.fixture(params=["odd", "square", "deep"])
def config(request) -> dict:
    from tests.helpers.transformers_pairs import CONFIGS

    return CONFIGS[request.param]


@pytest.fixture
def pair(config, tmp_path):
    from tests.helpers.transformers_pairs import make_pair

    return lambda name: make_pair(name, config, tmp_path / name)


@pytest.fixture(scope="session")
def at(tmp_path_factory):
    """Small checkpoints of each head with their processors, as transformers saves them."""
    import transformers

    from blip_core.processing.vocabulary import VOCABULARY
    from tests.helpers.transformers_pairs import PROGRAM_CONFIG, PROGRAM_HEADS, randomize

    folder = tmp_path_factory.mktemp("checkpoints")
    processor = transformers.BlipProcessor(
        transformers.BlipImageProcessor(size={"height": 32, "width": 32}),
        transformers.BertTokenizerFast(vocab_file=str(VOCABULARY), model_max_length=512),
    )
    for name, head in PROGRAM_HEADS.items():
        model = getattr(transformers, head)(transformers.BlipConfig(**copy.deepcopy(PROGRAM_CONFIG)))
        randomize(model)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder
