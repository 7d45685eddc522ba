"""Tiny random models, pictures, and a server in this process that answers with them."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTextConfig, BlipTokenizer, BlipVisionConfig
from blip_core.checkpoints.saving import write_pretrained
from blip_core.parameters.models import parameters

HEADS = {
    "captioner": "BlipForConditionalGeneration",
    "answerer": "BlipForQuestionAnswering",
    "matcher": "BlipForImageTextRetrieval",
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A folder for each role."""
    root = tmp_path_factory.mktemp("served")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    text = BlipTextConfig(**sizes, num_hidden_layers=2, max_position_embeddings=40)
    vision = BlipVisionConfig.base(**sizes, num_hidden_layers=1, image_size=32)
    config = BlipConfig.from_text_vision_configs(text, vision, image_text_hidden_size=8)
    noise = np.random.default_rng(0)
    for role, head in HEADS.items():
        rows = parameters(head, config)
        values = {row.name: noise.normal(0, 0.5, row.shape).astype(np.float32) for row in rows}
        write_pretrained(root / role, head, config, rows, lambda row, values=values: values[row.name])
        BlipProcessor(BlipImageProcessor(size=32), BlipTokenizer()).save_pretrained(root / role)
    return root


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder of six pictures."""
    root = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(1)
    for number in range(6):
        Image.fromarray(noise.integers(0, 256, (40, 30, 3), np.uint8)).save(root / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def files(folder):
    """The bytes of these pictures."""
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@pytest.fixture(scope="session")
def models_of(checkpoints, folder, tmp_path_factory):
    """A function from an engine to its models, which are loaded once."""
    from blip_core.inference import Answerer, Captioner, Explainer
    from blip_core.search import Searcher
    from blip_core.serving import Models

    loaded = {}

    def load(engine="pt"):
        if engine not in loaded:
            kinds = {"captioner": Captioner, "answerer": Answerer, "matcher": Explainer}
            folders = {role: checkpoints / role for role in kinds}
            if engine in ("onnx", "openvino"):
                from conversion import convert

                for role, source in folders.items():
                    folders[role] = tmp_path_factory.mktemp("exports") / role
                    convert(source, folders[role], to=engine)
            found = {
                role: kind.from_pretrained(folders[role], engine=engine, device="cpu" if engine == "pt" else None)
                for role, kind in kinds.items()
            }
            index = tmp_path_factory.mktemp("index")
            with Searcher(found["matcher"], folder, index=index) as searcher:
                assert not [error for _, error in searcher.update() if error]
            loaded[engine] = Models(**found, searcher=Searcher.of_index(found["matcher"], index), about="Tiny.")
        return loaded[engine]

    return load


@pytest.fixture
def serving(models_of):
    """A function that starts a server with settings; it returns a client. `engine=`, `models=` choose the models."""
    from starlette.testclient import TestClient

    from blip_core.serving import Settings
    from blip_core.serving.application import Service, create_app, guarded

    opened = []

    def start(engine="pt", models=None, **settings):
        service = Service(models or models_of(engine), Settings(**settings))
        client = TestClient(guarded(create_app(service), service), raise_server_exceptions=True)
        client.service = service
        opened.append(client.__enter__())
        return client

    yield start
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def log():
    """What the server writes to its log."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("blip.serve")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
