"""What must hold before TensorFlow and Keras are loaded; imported first for that reason."""

from __future__ import annotations

import os
from importlib.util import find_spec

CLEAR = "blip_tf needs Keras 3 on TensorFlow, but {}; set KERAS_BACKEND=tensorflow before Python starts."

if find_spec("tensorflow") is None:
    raise ImportError("blip_tf needs TensorFlow, which is not installed: pip install tensorflow")
if (chosen := os.environ.get("KERAS_BACKEND") or "tensorflow") != "tensorflow":
    raise ImportError(CLEAR.format(f"KERAS_BACKEND is {chosen!r}"))
# TensorFlow's remarks on the machine are no errors; whoever wants them sets another level.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402

if keras.backend.backend() != "tensorflow":
    raise ImportError(CLEAR.format(f"keras.json or an earlier import chose {keras.backend.backend()!r}"))
