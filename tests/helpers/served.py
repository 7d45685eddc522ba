"""`blip serve` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@contextmanager
def served(*options: Any) -> Iterator[str]:
    """The address of a server in a process of its own, which must end well."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "blip_core.cli", "serve", "--port", "0", "--engine", "pt", *map(str, options)]
    with tempfile.NamedTemporaryFile(prefix="blip-serve-") as file:  # a pipe would be full after some requests
        log = Path(file.name)
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "PYTHONPATH": paths})
        try:
            while not (found := re.search(r"serving at (http://127\.0\.0\.1:\d+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield found[1]
            process.terminate()
            assert (process.wait(60), "Traceback" in log.read_text()) == (0, False), log.read_text()
        finally:
            process.kill()
            process.wait()
