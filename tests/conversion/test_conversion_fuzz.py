"""A few of the damaged files of `tests/fuzz/checkpoint_readers.py`, which opens ten thousand."""

import pytest

from tests.fuzz.checkpoint_readers import fuzz, make_sources


@pytest.mark.needs("pt")
def test_damaged_files_give_what_they_hold_or_one_clear_error(tmp_path):
    outcomes, failures = fuzz(200, 7, make_sources(tmp_path), tmp_path)
    assert failures == []
    kinds = {kind for kind in outcomes if kind.endswith("refused")}
    assert len(kinds) == 7, outcomes  # of every file
    assert sum(outcomes.values()) == 200
