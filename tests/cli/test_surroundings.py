"""The command where something around it is missing: streams, a home, a framework; and where it is interrupted."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blip_core.cli import describe_error, missing_package
from tests.helpers.command_runs import ENVIRONMENT

EMOJI = Path(__file__).parents[1] / "data" / "emoji" / "1f98a.png"
COMMAND = [sys.executable, "-m", "blip_core.cli"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(pictures, models, closed):
    """Nothing that is written to a closed stream goes into a file that was opened under its number."""
    words = " ".join([*COMMAND, "caption", "red.png", "-", "--output", "all.jsonl", "--model", str(models / "caption")])
    done = subprocess.run(
        f"{words} {closed}", shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert "Traceback" not in done.stderr
    (line,) = Path("all.jsonl").read_text().splitlines()
    assert list(json.loads(line)) == ["image", "caption"]


def test_no_home_and_no_name():
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in ("HOME", "USER", "LOGNAME")}
    code = (
        "import pwd, sys\n"
        "def nobody(number): raise KeyError(number)\n"
        "pwd.getpwuid = nobody\n"
        "from blip_core.cli import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "caption", EMOJI], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1)
    assert done.stdout.endswith(": fox\n")


@pytest.mark.parametrize("seconds", [0.1, 0.5, 2])
def test_ctrl_c_ends_at_once_even_while_importing(pictures, models, seconds):
    start = "import sys; from blip_core.cli import main; print('ready', file=sys.stderr, flush=True); sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", start, "caption", "red.png", "-", "--model", str(models / "caption"),
         "--min-tokens", "400", "--max-tokens", "400", "--beams", "8"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # not as in a background job
    )  # fmt: skip
    assert process.stderr.readline() == "ready\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    code, err = process.wait(10), process.stderr.read()
    assert time.monotonic() - begin < 2.5
    assert (code, err) == (130, "blip: interrupted\n")


def test_a_pipe_in_a_folder_is_reported_and_does_not_block(pictures, models, blip):
    os.mkfifo("pipe.png")
    code, out, err = blip("caption", ".")
    assert code == 1
    assert "pipe.png" in err
    assert len(out.splitlines()) == 3


def test_errors_of_the_system_are_sentences(blip, pictures):
    code, _, err = blip("caption", "missing.jpg")
    assert (code, err) == (1, "blip: missing.jpg: no such file or directory\n")
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", "list.txt")
    assert describe_error(error) == "list.txt: no such file or directory"
    error = OSError(errno.ENOSPC, "No space left on device", "a.csv")
    assert describe_error(error).startswith("a.csv: no space left on device; make room")


def test_a_missing_package_is_named_with_its_extra():
    assert missing_package("torch") == 'this needs torch, which is not installed: pip install "blip-duo[pt]"'
    assert missing_package("scipy") == "this needs scipy, which is not installed: pip install scipy"


def test_a_model_that_is_not_there_is_told_before_a_framework_is_imported(pictures):
    code = (
        "import sys\nfrom blip_core.cli import main\n"
        "code = main(['caption', 'red.png', '--model', './nowhere'])\n"
        "print(code, sorted({'torch', 'tensorflow'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout == "1 []\n"
    assert done.stderr.startswith("blip: error: ")
    assert "'./nowhere'" in done.stderr


def test_file_names_are_escaped_on_the_terminal(blip, pictures):
    os.rename("red.png", "a\x1b[31m\n.png")
    code, out, _ = blip("caption", "a\x1b[31m\n.png")
    assert code == 0
    assert out.startswith("a\\x1b[31m\\x0a.png: ")
    assert blip("caption", "b\x1b[31m.png")[2].startswith("blip: b\\x1b[31m.png: no picture matches")
