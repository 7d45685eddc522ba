"""A run in TensorFlow on two devices of one process; run by `test_training_parallel.py`.

`python -m tests.helpers.training_processes ARGUMENTS` takes the arguments of `train` as JSON.
"""

from __future__ import annotations

import json
import sys

import tensorflow as tf

from blip_core.training import train

if __name__ == "__main__":
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    train(**json.loads(sys.argv[1]), device="CPU:0,CPU:1")
