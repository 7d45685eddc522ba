"""`blip serve`: a page to look at and an API to build on, behind one port."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from blip_core.cli.arguments import add_model_arguments, positive, whole
from blip_core.cli.load_model import for_workers, load
from blip_core.cli.parser import CommandParser
from blip_core.hub import SHIPPED, or_shipped
from blip_core.inference import Answerer, Captioner, Explainer
from blip_core.search import Searcher
from blip_core.serving import Models, Settings

KINDS: dict[str, Any] = {"captioner": Captioner, "answerer": Answerer, "matcher": Explainer}
LIMITS = {
    "batch_size": (whole(1), "N", "requests that the model gets at once"),
    "queue": (whole(1), "N", "requests in work or waiting; beyond, 503 at once"),
    "timeout": (positive, "S", "seconds until an answer"),
    "max_body": (positive, "MB", "megabytes of a request"),
    "max_pixels": (positive, "N", "million pixels of a picture"),
    "body_timeout": (positive, "S", "seconds that a client may take to send a request"),
    "connections": (whole(1), "N", "connections at once"),
}


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "[options]",
        "Serve a page and an API: captions, answers, matches, features and search. Nothing is sent elsewhere.",
        "blip serve",
        "blip serve --model Salesforce/blip-vqa-base --port 8000",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=whole(0), default=7860, help="the port (7860; 0: any that is free)")
    parser.add_argument("--search-index", metavar="FOLDER", help="an index that blip search --index FOLDER has made")
    parser.add_argument("--no-page", action="store_true", help="serve the API alone")
    add_model_arguments(parser)
    group = parser.add_argument_group(
        "several models", "In place of --model, or beside it; what is not named is not there."
    )
    for role in KINDS:
        group.add_argument(f"--{role}", metavar="MODEL", help=f"the {role}")
    group = parser.add_argument_group("who may ask")
    group.add_argument("--api-key", metavar="FILE", help="a file with the key that clients must show, or env:NAME")
    group.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name of this server")
    group.add_argument("--allow-urls", action="store_true", help="fetch pictures by their address, if it is public")
    group.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="let scripts of this site ask")
    group = parser.add_argument_group(
        "more processes and machines", "Ray Serve runs replicas of the API, not the page."
    )
    group.add_argument("--ray", action="store_true", help="let Ray Serve do it, on this machine")
    group.add_argument("--ray-address", metavar="ADDRESS", help="let a Ray cluster do it: auto, or where it is")
    group.add_argument("--replicas", type=replicas, metavar="N", help="load the models N times, or from N to M (1)")
    group.add_argument("--ray-cpus", type=positive, metavar="N", help="cores for each replica (1)")
    group.add_argument("--ray-gpus", type=positive, metavar="N", help="GPUs for each replica (0)")
    group = parser.add_argument_group("limits")
    for name, (kind, metavar, text) in LIMITS.items():
        default = getattr(Settings, name)
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, type=kind, default=default, metavar=metavar, help=f"{text} ({default})")


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit code."""
    from blip_core.serving import server
    from blip_core.serving.application import Service, create_app, guarded

    if args.port > 65535:
        parser.error(f"argument --port: must be at most 65535, got {args.port}")
    # Read when a framework is loaded: its idle threads sleep, and leave the cores to those that read and answer.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    settings = settings_of(args, server.allowed_hosts(args.host, args.allow_host))
    if settings.api_key is None and not server.is_loopback(args.host):
        print("blip: warning: whoever reaches this port may ask; --api-key keeps strangers out", file=sys.stderr)
    if on_ray(args, parser):
        return run_on_ray(args, settings)
    with server.bind(args.host, args.port) as opened:
        service = Service(load_models(args), settings)
        app = create_app(service) if args.no_page else with_page(create_app(service), service)
        warnings.simplefilter("ignore")  # they are of pictures and texts, which no log should hold
        server.run(guarded(app, service), service, opened, partial(tell_ready, service.models))
    return 0


def with_page(app: Any, service: Any) -> Any:
    """Mount the page, whose library is imported only where there is one."""
    from blip_core.serving.page import mount_page

    return mount_page(app, service)


def on_ray(args: argparse.Namespace, parser: CommandParser) -> bool:
    """Say whether Ray runs the server; ends the command with exit code 2 for options that need Ray."""
    if args.ray or args.ray_address:
        return True
    for name in ("replicas", "ray_cpus", "ray_gpus"):
        if getattr(args, name) is not None:
            parser.error(f"argument --{name.replace('_', '-')}: needs --ray or --ray-address")
    return False


def run_on_ray(args: argparse.Namespace, settings: Settings) -> int:
    """Serve by replicas until Ctrl-C or SIGTERM; returns the exit code."""
    from blip_core.serving import ray_serve, server

    server.bind(args.host, args.port).close()  # a port in use is told at once
    least, most = args.replicas or (1, 1)
    replicas = ray_serve.Replicas(least=least, most=most, cpus=args.ray_cpus or 1, gpus=args.ray_gpus or 0)
    load_here = for_workers(args)
    for name in (*KINDS, "search_index"):
        if (path := getattr(args, name)) and os.path.exists(path):
            setattr(load_here, name, os.path.abspath(path))
    models = load_models(load_here)  # what cannot be loaded is told here, not in a replica
    app = ray_serve.application(partial(load_models, load_here), settings, replicas)
    ray_serve.run(app, args.host, args.port, args.ray_address, partial(tell_ready, models))
    return 0


def replicas(text: str) -> tuple[int, int]:
    """Parse N, or N-M."""
    least, dash, most = text.partition("-")
    try:
        found = int(least), int(most if dash else least)
    except ValueError:
        found = (0, 0)
    if not 1 <= found[0] <= found[1]:
        raise argparse.ArgumentTypeError(f"must be a number such as 2, or two such as 1-4, got {text!r}")
    return found


def tell_ready(models: Models, address: str) -> None:
    """Say where the server is."""
    print(f"blip: serving at {address} (API: {address}/docs); Ctrl-C stops", file=sys.stderr, flush=True)


def settings_of(args: argparse.Namespace, hosts: tuple[str, ...]) -> Settings:
    """The settings that the arguments make."""
    limits = {name: getattr(args, name) for name in LIMITS}
    key = read_key(args.api_key) if args.api_key else None
    return Settings(**limits, allow_urls=args.allow_urls, api_key=key, cors=tuple(args.cors), hosts=hosts)


def read_key(source: str) -> str:
    """Read the key from a file, or for env:NAME from the environment."""
    kind, _, name = source.partition("env:")
    if not kind and name:
        key = os.environ.get(name)
        if key is None:
            raise ValueError(f"--api-key {source}: there is no variable {name} in the environment.")
    else:
        key = Path(source).read_text(encoding="utf-8")
    if not key.strip():
        raise ValueError(f"--api-key {source}: the key is empty.")
    return key.strip()


def load_models(args: argparse.Namespace) -> Models:
    """Load what the arguments name: of `--model` the heads that it has, and the others each for its role."""
    named = [role for role in KINDS if getattr(args, role)]
    found: dict[str, Any] = {}
    if args.model or not named:
        if shipped := or_shipped(args.model) == SHIPPED:
            print(
                "blip: the model in the package knows drawings of emoji alone; for others name a --model.",
                file=sys.stderr,
            )
        whole_model = argparse.Namespace(**vars(args) | {"model": str(SHIPPED) if shipped else args.model})
        problems = []
        for role, kind in KINDS.items():
            try:
                found |= {} if role in named else {role: load(kind, whole_model)}
            except ValueError as error:
                problems.append(error)
        if not found and not named:
            raise problems[0]
    for role in named:
        found[role] = load(KINDS[role], argparse.Namespace(**vars(args) | {"revision": None}), role)
    if args.search_index:
        if "matcher" not in found:
            raise ValueError("--search-index needs a model that matches; name the one of the index with --matcher.")
        found["searcher"] = Searcher.of_index(found["matcher"], args.search_index)
    return Models(**found, about=describe(args, list(found)))


def load_named(**options: Any) -> Models:
    """Load models as `blip serve` does: `load_named(model="folder", engine="pt")`, with options as there."""
    parser = CommandParser(prog="blip serve")
    add_arguments(parser)
    return load_models(argparse.Namespace(**vars(parser.parse_args([])) | options))


def describe(args: argparse.Namespace, roles: list[str]) -> str:
    """One sentence for people: what the models are, and what they are not."""
    names = [str(getattr(args, role)) for role in ("model", *KINDS) if getattr(args, role)]
    if all(or_shipped(name) == SHIPPED for name in names):
        return "A small model that knows drawings of emoji by their names; any other picture gets the name of an emoji."
    listed = ", ".join(dict.fromkeys(Path(name).name for name in names))
    return f"{listed}: says what is likely, which need not be true; it is no judge of people."
