"""Configurations and pairs of models, ours and transformers', for the oracle tests."""

from __future__ import annotations

import pytest

from tests.helpers.transformers_pairs import CONFIGS, make_pair


@pytest.fixture(params=CONFIGS)
def config(request) -> dict:
    return CONFIGS[request.param]


@pytest.fixture
def pair(config, tmp_path):
    return lambda name: make_pair(name, config, tmp_path / name)
