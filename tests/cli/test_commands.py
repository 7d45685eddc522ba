"""The table of commands: what is imported when, help, and mistakes in arguments."""

import shlex
import subprocess
import sys
import types

import pytest

from blip_core.cli import commands, main, parser
from blip_core.engines import ENGINES, Engine, register
from tests.helpers.command_runs import ENVIRONMENT

HELP = [
    [],
    *([name] for name in commands.COMMANDS),
    *(["evaluate", task] for task in ("caption", "vqa", "retrieval", "nlvr")),
]


OURS = [name for name, row in commands.COMMANDS.items() if row.module.startswith("blip_core.")]


def shown_help(words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def refused(words, capsys):
    """What a command says on standard error when it refuses its arguments."""
    with pytest.raises(SystemExit) as end:
        main(words)
    out, err = capsys.readouterr()
    assert (end.value.code, out, len(err.splitlines())) == (2, "", 1)
    return err.rstrip("\n")


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_help_fits_80_columns_and_ends_with_an_example(words, monkeypatch, capsys):
    lines = shown_help(words, monkeypatch, capsys).splitlines()
    assert max(map(len, lines)) <= 80
    start = max(i for i, line in enumerate(lines) if line in ("example:", "examples:"))
    assert all(line.startswith("  blip ") for line in lines[start + 1 :])
    assert len(lines) > start + 1


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_examples_are_arguments_that_the_command_takes(name):
    module, found = commands.COMMANDS[name].load(), parser.CommandParser(prog=f"blip {name}")
    module.add_arguments(found)
    for example in found.examples:
        blip, command, *words = shlex.split(example)
        assert (blip, command) == ("blip", name)
        found.parse_args(words)


def test_every_command_is_listed_and_described_by_itself(monkeypatch, capsys):
    listed = shown_help([], monkeypatch, capsys)
    assert all(f"  {row.name:10}{row.text}\n" in listed for row in commands.COMMANDS.values())
    descriptions = {shown_help([name], monkeypatch, capsys).split("\n\n")[1] for name in commands.COMMANDS}
    assert len(descriptions) == len(commands.COMMANDS)


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["capton"]])
def test_what_needs_no_command_imports_none(words):
    code = (
        "import sys\nfrom blip_core.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print('modules', sorted({'numpy', 'PIL', 'huggingface_hub', 'tqdm', 'conversion'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout.endswith("modules []\n"), done.stderr


def test_a_command_is_a_row_and_a_module(monkeypatch, capsys):
    module = types.ModuleType("blip_hello")

    def add_arguments(parser):
        parser.describe("NAME", "Say hello.", "blip hello Ada")
        parser.add_argument("name", metavar="NAME")

    def run(args, parser):
        print(f"hello {args.name}")
        return 3

    module.add_arguments, module.run = add_arguments, run
    monkeypatch.setitem(sys.modules, "blip_hello", module)
    monkeypatch.setattr(commands, "COMMANDS", commands.COMMANDS)
    monkeypatch.delitem(commands.COMMANDS, "hello", raising=False)
    commands.register(commands.Command("hello", "blip_hello", "say hello", "greetings"))
    try:
        assert main(["hello", "Ada"]) == 3
        assert capsys.readouterr().out == "hello Ada\n"
        assert "greetings:\n  hello     say hello\n" in shown_help([], monkeypatch, capsys)
        assert refused(["hello"], capsys).endswith("arguments are required: NAME; blip hello --help explains")
    finally:
        del commands.COMMANDS["hello"]


def test_without_the_package_conversion_the_others_work(tmp_path):
    start = "import sys; sys.modules['conversion'] = None; from blip_core.cli import main; "
    for name in ("inspect", "convert", "parity"):
        done = subprocess.run(
            [sys.executable, "-c", f"{start}sys.exit(main(['{name}', 'x', 'y']))"],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        )
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert f"`blip {name}` needs the package 'conversion', which is not installed" in done.stderr
    code = f"{start}from blip_core.cli.commands import COMMANDS as rows; [rows[name].load() for name in {OURS}]"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a command; blip --help explains"),
        (["capton"], "there is no command 'capton', the nearest is caption; blip --help explains"),
        (["zzz"], "there is no command 'zzz'; blip --help explains"),
        (["--versoin"], "there is no option --versoin, the nearest is --version; blip --help explains"),
        (["caption", "a.png", "--beems", "3"], "there is no option --beems, the nearest is --beams; blip caption"),
        (["caption", "--promt=a b", "a.png"], "there is no option --promt, the nearest is --prompt"),
        (["train", "caption", "--dada", "x"], "there is no option --dada, the nearest is --data; blip train --help"),
        (["evaluate", "vqa", "--dada", "x"], "there is no option --dada, the nearest is --data; blip evaluate vqa"),
        (["caption", "a.png", "--beams", "0"], "argument --beams: must be a whole number of at least 1, got '0'; blip"),
        (["convert", "a"], "the following arguments are required: DESTINATION; blip convert --help explains"),
    ],
)  # fmt: skip
def test_a_mistake_costs_one_line_that_names_the_nearest(words, said, capsys):
    assert refused(words, capsys).startswith(f"blip: error: {said}")


def test_words_that_begin_with_dashes_are_taken_as_words():
    found = parser.CommandParser(prog="blip x")
    found.add_argument("words", nargs="+")
    assert found.parse_args(["--an odd text", "--", "--name"]).words == ["--an odd text", "--name"]


def test_engines_are_those_of_the_registry(monkeypatch, capsys):
    register(Engine("numpy", "NumPy", "numpy", "nowhere", "none"))
    try:
        found = parser.CommandParser(prog="blip caption")
        commands.COMMANDS["caption"].load().add_arguments(found)
        assert found.parse_args(["a.png", "--engine", "numpy"]).engine == "numpy"
        assert found.parse_args(["a.png", "--framework", "tf"]).engine == "tf"  # its name of version 0.1
    finally:
        del ENGINES["numpy"]
    assert "argument --engine: invalid choice: 'jax'" in refused(["caption", "a.png", "--engine", "jax"], capsys)
    assert "--framework" not in shown_help(["caption"], monkeypatch, capsys)


def test_the_home_folder_is_known_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    found = parser.CommandParser(prog="blip x")
    found.add_argument("text", metavar="TEXT")
    found.add_argument("--font", metavar="FILE.ttf")
    commands.COMMANDS["search"].load().add_arguments(other := parser.CommandParser(prog="blip search"))
    assert vars(found.parse_args(["~/a", "--font=~/b"])) == {"text": "~/a", "font": "/home/ada/b"}
    args = other.parse_args(["red", "~/photos", "--model=~/m", "--index", "~"])
    assert (args.folder, args.model, args.index) == ("/home/ada/photos", "/home/ada/m", "/home/ada")
