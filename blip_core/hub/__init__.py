"""From the name of a model to a folder on disk: a local path, or a repository of the Hugging Face Hub."""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_core.files import read_json
from blip_core.stores import fetch_folder, is_address

REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
REFUSALS = {
    "GatedRepoError": "is for those who accepted its conditions: do so on its page, and log in with `hf auth login`.",
    "RepositoryNotFoundError": "does not exist on the Hugging Face Hub; check the spelling; if it is private, log in.",
    "RevisionNotFoundError": "has no such branch, tag or commit on the Hugging Face Hub; check the revision.",
    "OfflineModeIsEnabled": "is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hugging Face Hub; unset it.",
    "LocalEntryNotFoundError": "is not in the cache, and the Hugging Face Hub cannot be reached; check the network.",
}
"""By the kind of error of the Hub's library: what is wrong and what to do. A typo is not a dead network."""

ADAPTER = "adapter_config.json"
"""The file that says of what kind an adapter is, and what its base model."""

SHIPPED = Path(__file__).parents[1] / "data" / "shipped"
"""The small model in the package, which knows drawings of emoji: see docs/shipped.md."""


def or_shipped(name_or_path: str | Path | None, weights: str = "") -> str | Path:
    """Return what was named; without a name, or if its folder is named, the shipped model or that file of weights."""
    if name_or_path is None or Path(name_or_path).expanduser().resolve() == SHIPPED.resolve():
        return SHIPPED / weights
    return name_or_path


def resolve_folder(
    name_or_path: str | Path,
    *,
    patterns: Sequence[str],
    subfolder: str = "",
    revision: str | None = None,
    **options: Any,
) -> Path:
    """Return the folder that holds a model's files.

    A folder is returned as it is, a file gives the folder it lies in; of a folder in a store (`s3://bucket/model`) the
    files that match `patterns` are copied into the user's cache. Anything else is taken for a Hub repository
    such as `Salesforce/blip-vqa-base`, of which the files that match `patterns` (shell style) are downloaded into the
    usual cache; `revision` is a branch, tag or commit, `options` are the others of `KEYWORDS` for the Hub.
    `HF_HUB_OFFLINE=1` uses the cache alone.

    Raises `OSError` where there is neither a path nor a repository of this name, or the Hub cannot be reached.
    """
    if is_address(name_or_path):
        return fetch_folder("/".join(filter(None, (str(name_or_path).rstrip("/"), subfolder))), patterns)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if not (path / subfolder).is_dir():
            raise FileNotFoundError(f"{path} has no folder {subfolder!r}; check subfolder=.")
        return path / subfolder
    if path.is_file():
        return path.parent
    name = str(name_or_path)
    if not REPOSITORY.fullmatch(name) or name.startswith("."):
        raise FileNotFoundError(f"There is no file or folder {name!r}; give a path that exists or a Hub repository id.")
    from huggingface_hub import snapshot_download  # imported late: it takes longer than all of blip_core

    given = {option: value for option, value in options.items() if value not in (None, False, {})}
    if "proxies" in given and "proxies" not in inspect.signature(snapshot_download).parameters:
        raise ValueError("proxies is not taken by this version of huggingface_hub; set HTTPS_PROXY in the environment.")
    patterns = [f"{subfolder}/{pattern}" if subfolder else pattern for pattern in patterns]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, **given)) / subfolder
    except Exception as error:  # the library raises its own, httpx's and requests' errors; users need one sentence
        wanted = name if revision is None else f"{name}@{revision}"
        said = refusal(error, "could not be fetched from")
        near = difflib.get_close_matches(path.name, list_names(path.parent), 1)
        advice = f"Is {str(path.with_name(near[0]))!r} meant?" if near else "Or pass the path of a folder."
        raise OSError(f"{wanted!r} is no local path and {said} {advice}") from error


def list_names(folder: Path) -> list[str]:
    """The names in a folder; none for one that cannot be listed."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def refusal(error: Exception, failed: str) -> str:
    """Say in one sentence what the Hub, or its library, refuses."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if said := next((said for kind, said in REFUSALS.items() if kind in kinds), None):
        return said
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{failed} the Hugging Face Hub: {first_line} Check the name and the network."


def base_of_adapter(folder: Path, settings: Mapping[str, Any]) -> tuple[str | Path, str | None] | None:
    """Return the base model that an adapter's settings name, and its revision; None where they name none.

    A path may be relative to the current folder, as PEFT writes it, or to that of the adapter.
    """
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(name, str) or not name:
        return None
    beside = folder / name
    found = beside if beside.exists() and not Path(name).expanduser().exists() else name
    return found, revision if isinstance(revision, str) else None


def resolve_settings(name_or_path: str | Path, *, patterns: Sequence[str], **options: Any) -> Path:
    """As `resolve_folder`, for files of settings, which an adapter without them takes from its base model."""
    folder = resolve_folder(name_or_path, patterns=[*patterns, ADAPTER], **options)
    if (folder / ADAPTER).is_file() and not any((folder / name).is_file() for name in patterns):
        base = base_of_adapter(folder, read_json(folder / ADAPTER))
        if base is not None:
            return resolve_folder(base[0], patterns=patterns, **{**options, "revision": base[1]})
    return folder
