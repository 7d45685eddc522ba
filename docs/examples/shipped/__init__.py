"""The recipe of the model in the package, and the experiments around it. `python -m docs.examples.shipped --help`"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable


def run(main: Callable[..., None], arguments: list[str] | None = None) -> None:
    """Call `main` with the arguments of the command line, one for each of its parameters in order.

    `--help` prints the docstring of the module that `main` is in.
    """
    module = sys.modules[main.__module__]
    parser = argparse.ArgumentParser(
        prog="python -m " + module.__spec__.name.removesuffix(".__main__"),
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, parameter in inspect.signature(main, eval_str=True).parameters.items():
        optional = parameter.default is not parameter.empty
        parser.add_argument(
            name, type=parameter.annotation, metavar=name.upper(),
            **({"nargs": "?", "default": parameter.default, "help": "default: %(default)s"} if optional else {}),
        )  # fmt: skip
    main(**vars(parser.parse_args(arguments)))
