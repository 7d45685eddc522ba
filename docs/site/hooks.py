"""What MkDocs cannot do by itself: the page of commands, made from their parsers, and links out of `docs`.

MkDocs calls the functions, and mkdocstrings the class, by their names.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

from blip_core.cli.commands import COMMANDS
from blip_core.cli.parser import CommandParser
from blip_core.generation import GenerationConfig


class Examples(griffe.Extension):
    """Show what stands under `Example:` in docstrings as code, as under `Examples:`."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the heading in one docstring."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made of tables in the code."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    files.append(File.generated(config, "reference/generation.md", content=generation_page()))
    for notebook in sorted(Path(config["docs_dir"], "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=notebook_page(notebook)))
    return files


def notebook_page(path: Path) -> str:
    """A notebook as a page: its texts and its code."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    pairs = zip(cells, texts, strict=True)
    parts = [f"```python\n{text}\n```" if cell["cell_type"] == "code" else text for cell, text in pairs]
    parts.insert(1, f"[The notebook]({path.name}) to download.")
    return "\n\n".join([*parts, ""])


def commands_page() -> str:
    """The help of every command, in the order of their table."""
    lines = ["# Commands", "", "What `blip COMMAND --help` prints. [The command line](../cli.md) explains more.", ""]
    for command in COMMANDS.values():
        parser = CommandParser(prog=f"blip {command.name}")
        command.load().add_arguments(parser)
        lines += [f"## blip {command.name}", "", "```text", parser.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


def generation_page() -> str:
    """The options of `generate`, in the order of their table, and the search itself."""
    lines = [
        "# Generation", "", "One search for all engines, on NumPy. [Generation](../generation.md) explains more.", "",
        "## GenerationConfig", "", "`GenerationConfig(...)` and keywords of `generate`; `when` says which search reads "
        "an option.", "", "| Option | Default | When | Meaning |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for option in GenerationConfig.options():
        meaning = option.meaning.replace("|", "\\|")
        lines.append(f"| `{option.name}` | `{option.default}` | {option.when} | {meaning} |")
    return "\n".join([*lines, "", "::: blip_core.generation.generate", ""])


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Keep the text of links to files that are no pages, such as Python files of the examples."""
    return re.sub(r"\[([^\]]+)\]\((?!http)[^)\s]+\.(?:py|toml)\)", r"`\1`", markdown)
