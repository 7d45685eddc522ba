"""The job for Kubernetes in docs/scale.md has fields that KubeRay defines, and its command is one of ours."""

import re
import shlex
from pathlib import Path

import pytest

from blip_core.cli.commands import COMMANDS
from blip_core.cli.parser import CommandParser

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


def fields(required=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
SECRET = fields(secretRef=fields(["name"], name=TEXT))
CONTAINER = fields(
    ["name", "image"], name=TEXT, image=TEXT, envFrom={"type": "array", "items": SECRET}, resources=fields(limits=TEXTS)
)
TEMPLATE = fields(
    ["spec"], spec=fields(["containers"], containers={"type": "array", "items": CONTAINER, "minItems": 1})
)
GROUP = {"rayStartParams": TEXTS, "template": TEMPLATE}
WORKERS = fields(
    ["groupName", "minReplicas", "maxReplicas", "template"],
    groupName=TEXT, replicas=NUMBER, minReplicas=NUMBER, maxReplicas=NUMBER, **GROUP,
)  # fmt: skip
CLUSTER = fields(
    ["headGroupSpec"], headGroupSpec=fields(["template"], **GROUP), workerGroupSpecs={"type": "array", "items": WORKERS}
)
JOB = fields(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=fields(["name"], name=TEXT),
    spec=fields(entrypoint=TEXT, shutdownAfterJobFinishes=FLAG, backoffLimit=NUMBER, rayClusterSpec=CLUSTER),
)
"""Of the definition's fields (ray.io/v1, KubeRay 1.2 and later) those that the page uses."""


def parse(words):
    """Whether the command line takes these words."""
    blip, command, *rest = words
    assert blip == "blip"
    parser = CommandParser(prog=f"blip {command}")
    COMMANDS[command].load().add_arguments(parser)
    return parser.parse_args(rest)


def test_the_job_is_one_that_kuberay_takes():
    yaml, jsonschema = pytest.importorskip("yaml"), pytest.importorskip("jsonschema")
    (found,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    job = yaml.safe_load(found)
    jsonschema.validate(job, JOB)
    args = parse(shlex.split(job["spec"]["entrypoint"]))
    assert args.stream
    assert args.ray_address == "auto"


def test_the_job_that_is_submitted_is_a_command():
    (found,) = re.findall(r"^ray job submit --address \S+ -- ((?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
    assert parse(shlex.split(found.replace("\\\n", " "))).output == "s3://boot"
