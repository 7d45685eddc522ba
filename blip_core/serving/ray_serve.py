"""The same application as a deployment of Ray Serve: replicas on one machine or many, as many as are needed.

Each replica loads the models, batches and limits by itself; Ray divides requests among them. The page is not there: a
visit to it has a state in one process, and Ray sends each request to any.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from blip_core.serving.application import Service, create_app, guarded
from blip_core.serving.served_models import Models
from blip_core.serving.server_settings import Settings


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """How many replicas there are, and what each takes.

    Args:
        least: Replicas that are always there.
        most: Replicas that there may be; Ray adds them while requests wait.
        cpus: Cores of each.
        gpus: GPUs of each; half a GPU is 0.5.

    Raises:
        ValueError: For fewer at most than at least.
    """

    least: int = 1
    most: int = 1
    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"There must be from 1 to as many replicas as allowed, got {self.least} to {self.most}.")


def application(load: Callable[[], Models], settings: Settings, replicas: Replicas) -> Any:
    """Return the application that `serve.run`, or a configuration file of Ray Serve, deploys.

    Args:
        load: Loads the models in each replica; it is sent there.
        settings: The limits of each replica.
        replicas: How many there are.

    Raises:
        ValueError: Where Ray Serve is not installed.
    """
    if find_spec("ray") is None:
        raise ValueError('Ray is not installed: pip install "blip-duo[ray]".')
    from ray import serve

    def build() -> Any:
        warnings.simplefilter("ignore")  # they are of pictures and texts, which no log should hold
        service = Service(load(), settings)
        return guarded(create_app(service), service)

    # Ray passes on what waits in a replica or not at all: its queue is as long as ours, which then refuses.
    options: dict[str, Any] = {
        "name": "blip",
        "max_ongoing_requests": settings.queue,
        "graceful_shutdown_timeout_s": settings.timeout + 5,
        "ray_actor_options": {"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
    }
    if replicas.least == replicas.most:
        options["num_replicas"] = replicas.least
    else:
        wanted = max(1, settings.batch_size)
        options["autoscaling_config"] = {
            "min_replicas": replicas.least, "max_replicas": replicas.most, "target_ongoing_requests": wanted,
        }  # fmt: skip
    return serve.deployment(serve.ingress(build)(), **options).bind()


def run(app: Any, host: str, port: int, address: str | None, ready: Callable[[str], None]) -> None:
    """Deploy an application and keep it until SIGTERM or Ctrl-C; what is running then is finished.

    Args:
        app: That of `application`.
        host, port: Where to listen.
        address: A Ray cluster; None for this machine alone.
        ready: Called with the address once requests are taken.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray
    from ray import serve

    stop = threading.Event()
    mine = not ray.is_initialized()
    if mine:
        ray.init(address or "local", logging_level=logging.ERROR, include_dashboard=False if address is None else None)
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(app, name="blip", route_prefix="/")
        for number in (signal.SIGINT, signal.SIGTERM):  # after Ray has set handlers of its own
            signal.signal(number, lambda *_: stop.set())
        ready(f"http://{host}:{port}")
        stop.wait()
        serve.shutdown()
    finally:
        if mine:
            ray.shutdown()
