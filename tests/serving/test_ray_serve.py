"""The application as two replicas of Ray Serve, started as a command, asked, and stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import uvicorn  # noqa: F401  # skipped as a whole without it

from blip_core.cli import serve
from blip_core.cli.parser import CommandParser
from blip_core.serving.ray_serve import Replicas

ROOT = Path(__file__).parents[2]


def test_replicas_are_a_number_or_two():
    assert (serve.replicas("2"), serve.replicas("1-4")) == ((2, 2), (1, 4))
    for wrong in ("0", "3-2", "many", "1-"):
        with pytest.raises(Exception, match="must be a number such as 2, or two such as 1-4"):
            serve.replicas(wrong)
    with pytest.raises(ValueError, match="from 1 to as many"):
        Replicas(least=3, most=2)
    parser = CommandParser(prog="blip serve")
    serve.add_arguments(parser)
    with pytest.raises(SystemExit):
        serve.on_ray(parser.parse_args(["--replicas", "2"]), parser)


@pytest.mark.slow
@pytest.mark.needs("pt")
def test_two_replicas_answer(checkpoints, files, unused_port, tmp_path):
    pytest.importorskip("ray.serve")
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "blip_core.cli", "serve", "--ray", "--replicas", "2", "--port", str(unused_port)]
    command += ["--captioner", str(checkpoints / "captioner"), "--engine", "pt", "--ray-cpus", "0.5"]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=log, text=True, env=environment)
    try:
        address = next(
            found[1] for line in process.stderr if (found := re.search(r"serving at (http://127\.0\.0\.1:\d+)", line))
        )
        import base64

        body = {"image": base64.b64encode(files[0]).decode(), "max_new_tokens": 4}
        request = urllib.request.Request(
            f"{address}/v1/caption", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        answers = [json.load(urllib.request.urlopen(request, timeout=60)) for _ in range(20)]
        assert len({answer["caption"] for answer in answers}) == 1
        # Each replica counts for itself, and none has answered them all.
        counts = [urllib.request.urlopen(f"{address}/metrics", timeout=60).read() for _ in range(10)]
        found = [re.search(rb'blip_requests_total\{status="200",[^}]*\} (\S+)', one) for one in counts]
        assert all(one is None or 0 < float(one[1]) < 20 for one in found)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def unused_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as opened:
        return opened.getsockname()[1]


FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"serveConfigV2", "rayClusterConfig"},
    "spec.rayClusterConfig": {"enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"},
    "spec.rayClusterConfig.headGroupSpec": {"rayStartParams", "template"},
    "spec.rayClusterConfig.workerGroupSpecs.0": {
        "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template",
    },
}  # fmt: skip
"""Fields of KubeRay's RayService, and of what is in it, that the documentation uses."""


@pytest.mark.slow
def test_the_documented_rayservice_is_one_of_kuberay_and_ray():
    pytest.importorskip("ray.serve")
    import yaml
    from ray.serve.schema import ServeDeploySchema

    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(apiVersion.*?)```", page, re.DOTALL)
    service = yaml.safe_load(text)
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    for path, fields in FIELDS.items():
        found = service
        for name in filter(None, path.split(".")):
            found = found[int(name) if name.isdigit() else name]
        assert set(found) == fields
    cluster = service["spec"]["rayClusterConfig"]
    (worker,) = cluster["workerGroupSpecs"]
    assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
    for group in (cluster["headGroupSpec"], worker):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert set(container) <= {"name", "image", "resources"}
    (app,) = ServeDeploySchema(**yaml.safe_load(service["spec"]["serveConfigV2"])).applications
    module, _, name = app.import_path.partition(":")
    (code,) = re.findall(r"```python\n([^`]*ray_serve import[^`]*)```", page)
    assert f"as the module `{module}`" in page
    values: dict[str, object] = {}
    exec(code, values)
    assert type(values[name]).__name__ == "Application"
    # Each replica takes a whole GPU, so that a worker for each is what there must be.
    assert (worker["minReplicas"], worker["maxReplicas"]) == (1, 8)
    assert "least=1, most=8, gpus=1" in code
