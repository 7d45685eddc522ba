"""The keywords of `from_pretrained` and `save_pretrained`: one table of what they take and what it means here.

Programs written for transformers pass many of them. Each either does what it says, or says why it cannot; those without
effect have none for a stated reason. Models of both frameworks, configurations and processors read this table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from blip_core.validators import Validator, check_names, choice, flag, require, text

AUTO_DEVICES = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of `device_map` that let us choose: the first GPU, else the CPU."""


def _anything(name: str, value: Any) -> Any:
    return value


def _token(name: str, value: Any) -> Any:
    require(value is None or isinstance(value, bool | str), name, value, "None, True, False or a token of the Hub")
    return value


def _subfolder(name: str, value: Any) -> str:
    parts = value.replace("\\", "/").split("/") if isinstance(value, str) else [".."]
    good = value is None or (isinstance(value, str) and ".." not in parts and (not value or bool(parts[0])))
    require(good and ":" not in str(value), name, value, "a folder inside the model's, such as 'captioner'")
    return (value or "").strip("/")


def _variant(name: str, value: Any) -> Any:
    good = value is None or (isinstance(value, str) and value.isidentifier())
    require(good, name, value, "None or a word such as 'fp16', which stands in the names of weight files")
    return value


def _one_device(name: str, value: Any) -> Any:
    """Return the device that a `device_map` names: "auto" or one of the framework's; None for none."""
    if isinstance(value, Mapping):
        places = list(dict.fromkeys(map(str, value.values())))
        require(places, name, dict(value), "a device, or a dictionary with one device")
        if len(places) > 1:
            raise ValueError(
                f"{name} spreads the model over {', '.join(places)}; a model here lies whole on one device, of which "
                "BLIP needs 1 to 2 GB: name one."
            )
        value = places[0]
    if isinstance(value, bool) or str(value) in ("disk", "meta"):
        require(False, name, value, "a device that computes, such as 'cpu' or 'cuda:0'")
    if isinstance(value, int) or str(value).isdecimal():
        return f"cuda:{value}"
    return None if value is None else "auto" if str(value) in AUTO_DEVICES else str(value)


def _no_quantization(name: str, value: Any) -> None:
    if value:
        raise ValueError(
            f"{name} is of other packages' quantized layers, which are not used here; load the model without it, then "
            "call model.quantize() of the PyTorch model (int8), or pass dtype='bfloat16'."
        )


def _refused(name: str, value: Any, why: str) -> None:
    if value:
        raise ValueError(f"{name} {why}; leave it out.")


@dataclass(frozen=True)
class Keyword:
    """One row: who takes a keyword, its default, its check and its meaning; `also` are other names of it.

    The check gets the name and the value, and returns what the value comes to.
    """

    name: str
    of: str
    meaning: str
    check: Validator = _anything
    default: Any = None
    also: tuple[str, ...] = ()


HUB, MODEL, SETTINGS, ALL, SAVE, PUSH = "hub", "model", "settings", "all", "save", "push"
"""Who takes a keyword: "hub" are options of the download, which all `from_pretrained` take, as they take "all"."""

KEYWORDS = (
    Keyword("name_or_path", ALL, "where to load from", also=("pretrained_model_name_or_path",)),
    Keyword("revision", HUB, "branch, tag or commit of the Hub repository", partial(text, optional=True)),
    Keyword("token", HUB, "access token of the Hub; True: the stored one", _token, also=("use_auth_token",)),
    Keyword("cache_dir", HUB, "folder for downloads in place of the usual cache"),
    Keyword("force_download", HUB, "download again what is in the cache", flag, False),
    Keyword("local_files_only", HUB, "take what is in the cache, and ask nothing of the Hub", flag, False),
    Keyword("subfolder", HUB, "folder inside the repository or folder", _subfolder, ""),
    Keyword("proxies", HUB, "proxies by protocol, for versions of huggingface_hub that take them"),
    Keyword("resume_download", ALL, "no effect: downloads are always resumed"),
    Keyword("trust_remote_code", ALL, "no effect: code from a repository is never run"),
    Keyword("dtype", MODEL, "type of the weights; \"auto\" for the stored one", also=("torch_dtype",)),
    Keyword("device", MODEL, "one device", _one_device, also=("device_map",)),
    Keyword("base_model", MODEL, "base of an adapter, in place of the one that the adapter names"),
    Keyword("use_safetensors", MODEL, "True: read safetensors only; False: none", partial(flag, optional=True)),
    Keyword("from_pt", MODEL, "read weights of PyTorch only", flag, False),
    Keyword("from_tf", MODEL, "read weights of TensorFlow only", flag, False),
    Keyword("from_flax", MODEL, "refused", partial(_refused, why="asks for weights of Flax, which are not read")),
    Keyword("variant", MODEL, "a word in the names of weight files, as in model.fp16.safetensors", _variant),
    Keyword("state_dict", MODEL, "weights by name, in place of those of the file"),
    Keyword("ignore_mismatched_sizes", MODEL, "draw tensors of another shape anew, with a warning", flag, False),
    Keyword("output_loading_info", MODEL, "return the model and a dictionary of what did not match", flag, False),
    Keyword("generation_config", MODEL, "options of generation in place of the file's"),
    Keyword(
        "attn_implementation", MODEL, "\"eager\" or \"sdpa\": the same numbers, and the faster that can is used",
        partial(choice, choices=(None, "eager", "sdpa")),
    ),
    Keyword("quantization_config", MODEL, "refused: see quantize()", _no_quantization, also=("load_in_8bit",)),
    Keyword("load_in_4bit", MODEL, "refused: see quantize()", _no_quantization),
    Keyword("tp_plan", MODEL, "refused", partial(_refused, why="divides a model over devices, which is not done here")),
    Keyword("low_cpu_mem_usage", MODEL, "no effect: weights are always read one at a time, into the model itself"),
    Keyword("weights_only", MODEL, "no effect: nothing in a weight file is ever run"),
    Keyword("max_memory", MODEL, "no effect: the model lies on one device"),
    Keyword("offload_folder", MODEL, "no effect: the model lies on one device"),
    Keyword("offload_state_dict", MODEL, "no effect: the model lies on one device"),
    Keyword("offload_buffers", MODEL, "no effect: the model lies on one device"),
    Keyword("return_unused_kwargs", SETTINGS, "return the settings and the keywords that are none", flag, False),
    Keyword("use_fast", SETTINGS, "no effect: there is one tokenizer and one image processor, which are fast"),
    Keyword("max_shard_size", SAVE, "size of a file, as 5000 or \"5GB\", above which there are several", default="5GB"),
    Keyword("safe_serialization", SAVE, "False: write the framework's older format, not safetensors", flag, True),
    Keyword("variant", SAVE, "a word in the names of weight files, as in model.fp16.safetensors", _variant),
    Keyword("state_dict", SAVE, "weights by name, in place of the model's"),
    Keyword("is_main_process", SAVE, "False: write nothing, as another process does", flag, True),
    Keyword("save_function", SAVE, "called with tensors by name and a path, if safe_serialization is False"),
    Keyword("legacy_serialization", SAVE, "no effect: processors write all forms of their settings, old and new"),
    Keyword("save_peft_format", SAVE, "no effect: adapters are saved by PEFT"),
    Keyword("push_to_hub", SAVE, "upload the folder, too, to repo_id or a repository of its name", flag, False),
    Keyword("repo_id", PUSH, "the repository, such as \"me/my-captioner\"", partial(text, optional=True)),
    Keyword("commit_message", PUSH, "what has changed", partial(text, optional=True)),
    Keyword("commit_description", PUSH, "more about it", partial(text, optional=True)),
    Keyword("private", PUSH, "make a new repository private", partial(flag, optional=True)),
    Keyword("token", PUSH, "access token of the Hub; True: the stored one", _token, also=("use_auth_token",)),
    Keyword("revision", PUSH, "branch to upload to", partial(text, optional=True)),
    Keyword("create_pr", PUSH, "open a pull request in place of changing the branch", flag, False),
    Keyword("tags", PUSH, "tags of the model card"),
    Keyword("use_temp_dir", PUSH, "no effect: files are always written to a temporary folder first"),
)  # fmt: skip
"""Every keyword, in groups by who takes it."""


@dataclass
class Given:
    """Keywords that were read: those of the table by who takes them, with defaults, and the rest, which are fields."""

    hub: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)


def rows_of(*groups: str) -> list[Keyword]:
    """Return the rows of some groups."""
    return [row for row in KEYWORDS if row.of in groups]


def read_keywords(given: Mapping[str, Any], *groups: str, hub: Iterable[str] = (HUB,)) -> Given:
    """Sort and check keywords. Those of groups in `hub` come apart from the others.

    Raises `ValueError` for a value that cannot work, and for a keyword that is given by two of its names.
    """
    rest, found = dict(given), Given()
    for row in rows_of(*groups, *hub):
        names = [name for name in (row.name, *row.also) if rest.get(name) is not None]
        if len(names) > 1:
            raise ValueError(f"{' and '.join(names)} are the same keyword here; give one of them.")
        values = {name: rest.pop(name) for name in (row.name, *row.also) if name in rest}
        name = names[0] if names else row.name
        value = values.get(name)
        place = found.hub if row.of in hub else found.own
        place[row.name] = row.default if value is None else row.check(name, value)
    found.rest = rest
    return found


def joined(named: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a call with those arguments of it that were given, as None stands for left out."""
    return {**others, **{name: value for name, value in named.items() if value is not None}}


def check_rest(rest: Iterable[str], fields: Iterable[str], what: str, *groups: str) -> None:
    """Refuse keywords that are neither in the table nor fields, naming the nearest. Raises `TypeError`."""
    rows = [name for row in rows_of(*groups) for name in (row.name, *row.also)]
    check_names(rest, [*fields, *rows], what)
