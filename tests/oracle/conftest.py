"""Configurations and pairs of models, ours and transformers', for the oracle tests."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["odd", "square", "deep"])
def config(request) -> dict:
    from tests.helpers.transformers_pairs import CONFIGS

    return CONFIGS[request.param]


@pytest.fixture
def pair(config, tmp_path):
    from tests.helpers.transformers_pairs import make_pair

    return lambda name: make_pair(name, config, tmp_path / name)
