"""A checkpoint computes the same in PyTorch and in TensorFlow: one test for each kind of row."""

from __future__ import annotations

import pytest

from conversion import ParityReport


@pytest.mark.parametrize("kind", ["settings", "weights", "values", "gradients", "tokens"])
def test_both_frameworks_agree(parity_report: ParityReport, kind: str) -> None:
    wrong = [row for row in parity_report.rows if row.kind == kind and not row.passed]
    assert not wrong, f"first in {wrong[0].stage}: {wrong[0].relative:.1e} of {wrong[0].tolerance:.0e} {wrong[0].note}"
