"""A few of the hostile folders and data files of `tests/fuzz/folders_and_data.py`, which makes thousands."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.fuzz.folders_and_data import fuzz
from tests.fuzz.hostile_data import DATA_KINDS


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.needs("pt")
def test_hostile_folders_and_files_end_nothing():
    pytest.importorskip("pyarrow")
    cases = [("folder", seed) for seed in range(12)]
    cases += [(kind, seed) for seed in range(30, 33) for kind in DATA_KINDS]
    cases += [("parquet", 1168)]  # a row group that lacks a column of the schema
    with tempfile.TemporaryDirectory() as folder:  # as the user that the worker becomes cannot enter tmp_path
        counts, failures, _ = fuzz(cases, Path(folder))
    assert failures == []
    assert counts.total() == len(cases)
