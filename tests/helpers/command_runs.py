"""What the tests of the command line share: its output as objects, its usage errors, and where it runs."""

import json
import os
from pathlib import Path

import pytest

from blip_core.cli import main

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def usage_error(*arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    return capsys.readouterr().err
