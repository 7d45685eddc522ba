"""The examples for users say how they are called."""

import importlib

import pytest

from docs.examples.shipped import run

STEPS = ("__main__", "bootstrap", "drawings", "measure", "pack", "prepare", "seeds")


@pytest.mark.parametrize("name", STEPS)
def test_each_step_explains_itself(name, capsys):
    step = importlib.import_module(f"docs.examples.shipped.{name}")
    with pytest.raises(SystemExit) as end:
        run(step.main, ["--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "FOLDER" in printed
    assert step.__doc__.splitlines()[0] in printed


def test_arguments_have_the_types_of_the_function(tmp_path):
    given = []

    def main(folder: str, count: int = 3, more: int = 5) -> None:
        given.append((folder, count, more))

    run(main, ["here", "7"])
    assert given == [("here", 7, 5)]
