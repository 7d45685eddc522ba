"""What all configurations share: reading JSON files, keeping their unknown keys, and writing them back."""

from __future__ import annotations

import copy
import difflib
import errno
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from blip_core.files import read_json, write_json
from blip_core.hub import or_shipped, resolve_settings
from blip_core.hub.keywords import ALL, HUB, SETTINGS, check_rest, read_keywords
from blip_core.hub.sharing import Shared

C = TypeVar("C", bound="ConfigMixin")


class AsJson(Shared):
    """What is written as a JSON object."""

    if TYPE_CHECKING:

        def to_dict(self) -> dict[str, Any]: ...

    def to_json_string(self) -> str:
        """Return `to_dict()` as indented JSON with sorted keys."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | Path) -> None:
        """Write `to_dict()` into a JSON file; an existing one is replaced atomically.

        Args:
            json_file_path: The file.

        Raises:
            OSError: The file cannot be written.
        """
        write_json(Path(json_file_path), self.to_dict())


@dataclass(kw_only=True)
class ConfigMixin(AsJson):
    """A dataclass that is stored as a JSON file in the Hugging Face layout.

    Other keys of a file are kept in `extra`, can be read as attributes, and are written back; so are attributes that
    are set and are not fields.

    Class attributes: `file_names` are the files that may hold the configuration; the first is written, the first that
    exists is read. `constants` are written to every file. `null_is_default` says that null in a file stands for a
    field's default. `unset` are values of attributes that are not fields, where nothing was set.
    """

    file_names: ClassVar[tuple[str, ...]] = ("config.json",)
    constants: ClassVar[Mapping[str, Any]] = {}
    null_is_default: ClassVar[bool] = False
    unset: ClassVar[Mapping[str, Any]] = {}
    extra: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    if not TYPE_CHECKING:  # so that type checkers find misspelt attributes

        def __getattr__(self, name: str) -> Any:
            values = {**type(self).unset, **self.__dict__.get("extra", {})}
            if name not in values:
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
            return values[name]

        def __setattr__(self, name: str, value: Any) -> None:
            if name.startswith("_") or name in self.__dataclass_fields__ or hasattr(type(self), name):
                object.__setattr__(self, name, value)
            else:
                self.extra[name] = value

    def settings(self) -> dict[str, Any]:
        """Return a copy of the fields by name, as the constructor takes them."""
        return {f.name: copy.deepcopy(getattr(self, f.name)) for f in fields(self) if f.init}

    @classmethod
    def from_dict(cls, values: dict[str, Any], **overrides: Any) -> Self:
        """Build a configuration from a dictionary as its JSON file holds it.

        Args:
            values: Fields by name; other keys are kept in `extra`.
            **overrides: Further keywords of the constructor, which win over `values`.

        Returns:
            The configuration.

        Raises:
            ValueError: A value cannot work or is of the wrong type.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{cls.__name__} needs a dictionary of settings, got {type(values).__name__}.")
        names = {f.name for f in fields(cls) if f.init}
        left_out = {k for k, v in values.items() if v is None and cls.null_is_default}
        known = {k: copy.deepcopy(v) for k, v in values.items() if k in names - left_out}
        config = cls(**{**known, **overrides})
        config.extra = {k: copy.deepcopy(v) for k, v in values.items() if k not in names and k not in cls.constants}
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that is ready for JSON: every field, every kept key, and the constants of the file."""
        own = {k: v.to_dict() if isinstance(v, ConfigMixin) else v for k, v in self.settings().items()}
        return {**copy.deepcopy(self.extra), **own, **self.constants}

    @classmethod
    def from_json_file(cls, json_file: str | Path) -> Self:
        """Read a JSON file of any name; errors as of `from_dict`, and `OSError` where it cannot be read."""
        return cls.from_dict(read_json(Path(json_file)))

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path | None = None, *, revision: str | None = None, **keywords: Any
    ) -> Any:
        """Read the configuration of a model.

        Args:
            name_or_path: A folder, a JSON file, any other file of the folder, or a repository of the Hugging Face
                Hub such as `Salesforce/blip-vqa-base`; None for the small model in the package.
            revision: A branch, tag or commit of the repository.
            **keywords: Settings to replace, and further keywords of `blip_core.hub.keywords.KEYWORDS`.

        Returns:
            The configuration; with `return_unused_kwargs=True` also a dictionary of keywords that are no settings.

        Raises:
            OSError: There is no such file, folder or repository.
            TypeError: A keyword is unknown; the message names the nearest.
            ValueError: A file is damaged, or holds settings that cannot work.
        """
        given = read_keywords({"name_or_path": name_or_path, "revision": revision, **keywords}, ALL, SETTINGS)
        file, values = cls._read(or_shipped(given.own["name_or_path"]), given.hub)
        known = {*cls.setting_names(), *values, *cls.unset}
        unused = {name: value for name, value in given.rest.items() if name not in known}
        if not given.own["return_unused_kwargs"]:
            check_rest(unused, sorted(known), f"setting of {cls.__name__} or keyword", ALL, SETTINGS, HUB)
        over = {name: value for name, value in given.rest.items() if name in known}
        try:
            found = cls.from_dict(merged(values, over))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}: {error}") from None
        return (found, unused) if given.own["return_unused_kwargs"] else found

    @classmethod
    def _read(cls, name_or_path: str | Path, hub: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        """Return the first file that describes this class, and what it holds."""
        path = Path(name_or_path).expanduser()
        if path.suffix == ".json" and path.is_file():
            files = [path]
        else:
            folder = resolve_settings(name_or_path, patterns=cls.file_names, **hub)
            files = [folder / name for name in cls.file_names]
        for file in files:
            values = cls._section(file, read_json(file)) if file.is_file() else None
            if values is not None:
                return file, values
        return files[0], cls._without_file(files[0])

    @classmethod
    def setting_names(cls) -> list[str]:
        """Return the names of all settings."""
        return [row.name for row in fields(cls) if row.init]

    def save_pretrained(self, folder: str | Path, **keywords: Any) -> Any:
        """Write the JSON file; an existing one is replaced atomically.

        Args:
            folder: Created if needed.
            **keywords: `push_to_hub=True` uploads it, too, with further keywords as of `push_to_hub`.

        Returns:
            A list of the file's path.

        Raises:
            OSError: The file cannot be written.
        """
        path = Path(folder) / self.file_names[0]
        write_json(path, self.to_dict())
        self.pushed(folder, keywords)
        return [str(path)]

    @classmethod
    def _section(cls, file: Path, values: dict[str, Any]) -> dict[str, Any] | None:
        """Return the part of a file that describes this class; None where it has none."""
        return values

    @classmethod
    def _without_file(cls, file: Path) -> dict[str, Any]:
        """Return the settings of a folder without any of the files; raises by default."""
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))


def keep_unknown(cls: type[C]) -> type[C]:
    """Let the constructor of a dataclass keep keywords that are no fields, as attributes, like transformers' do.

    One that looks like a misspelt field gets a warning.
    """
    create, names = cls.__init__, [row.name for row in fields(cls) if row.init]

    @wraps(create)
    def initialize(self: C, *args: Any, **settings: Any) -> None:
        more = {name: settings.pop(name) for name in list(settings) if name not in names}
        create(self, *args, **settings)
        for name, value in more.items():
            if close := difflib.get_close_matches(name, names, n=1, cutoff=0.9):
                warnings.warn(f"{cls.__name__} keeps {name!r} unread; is it {close[0]!r}?", stacklevel=2)
            if name not in cls.constants:
                setattr(self, name, value)

    cls.__init__ = initialize  # type: ignore[method-assign,assignment]
    return cls


def json_object(file: Path, values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object that a JSON file holds under a key, {} where it is missing; `ValueError` for anything else."""
    found = values.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{file}: {name} must be an object, got {found!r:.80}.")
    return found


def merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of which some are replaced, in nested dictionaries as well."""
    nested = {k: merged(values.get(k) or {}, v) for k, v in over.items() if isinstance(v, Mapping)}
    return {**values, **over, **nested}
