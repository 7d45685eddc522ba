"""A server that loads a model and then forks its workers (gunicorn with preload, say) gets workers that work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, torch
from blip_pt import BlipTextModel
assert torch.get_num_threads() > 1
models = [BlipTextModel.from_pretrained(sys.argv[1], dtype=dtype) for dtype in ("float32", "bfloat16")]
worker = os.fork()
if not worker:
    states = [model(torch.randint(3000, (64, 16))).last_hidden_state for model in models]  # large enough for threads
    os._exit(0 if all(x.isfinite().all() for x in states) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_process_can_fork_after_loading_another_type(tmp_path):
    import torch

    from blip_core import BlipTextConfig
    from blip_pt import BlipTextModel

    config = BlipTextConfig(
        vocab_size=3000, hidden_size=40, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=7,
    )  # fmt: skip
    BlipTextModel(config).to(torch.float16).save_pretrained(tmp_path)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "2"}, start_new_session=True) as process:
        try:
            assert process.wait(60) == 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # the worker that hangs, too
            raise
