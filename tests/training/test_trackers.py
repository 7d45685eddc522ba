"""Trackers of accelerate get the numbers of a run."""

from __future__ import annotations

import accelerate.tracking
import pytest

from blip_core.training import train
from tests.helpers.training_runs import losses, make_world, of


class Notes(accelerate.tracking.GeneralTracker):
    """A tracker that keeps what it gets."""

    name = "notes"
    requires_logging_directory = False
    config, scalars = {}, []

    def __init__(self, run_name, **options):
        super().__init__()

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.config.update(values)

    def log(self, values, step=None, **options):
        self.scalars.append((step, values))


def test_a_tracker_gets_losses_and_settings(tmp_path, monkeypatch):
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "notes", Notes)
    make_world(tmp_path)
    run = of(tmp_path, "caption", "noted", engine="pt", max_steps=2, report_to="notes")
    train(**run, validation=run["data"])
    assert Notes.config["batch_size"] == 4
    assert [step for step, values in Notes.scalars if "train/loss" in values] == [1, 2]
    assert [step for step, values in Notes.scalars if "validation/cider" in values] == [2]


def test_tensorboard_reads_what_its_own_writer_wrote(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    make_world(tmp_path)
    run = of(tmp_path, "caption", "drawn", engine="pt", report_to="tensorboard")
    run |= {"validation": run["data"]}
    train(**run, max_steps=3, save_every=2)
    train(**run, resume=True)
    found = accumulator.EventAccumulator(str(tmp_path / "drawn" / "blip")).Reload()
    values = {event.step: event.value for event in found.Scalars("train/loss")}
    assert sorted(values) == [1, 2, 3, 4]
    assert list(values.values()) == pytest.approx(losses(tmp_path / "drawn"))
    assert [event.step for event in found.Scalars("validation/loss")][-1] == 4


def test_what_is_not_there_is_told_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match=r"report_to must be of .*wandb.*, got 'paper'"):
        train("caption", "nowhere", "nowhere", tmp_path, report_to="paper")
    with pytest.raises(ValueError, match="report_to: aim is not installed; pip install aim"):
        train("caption", "nowhere", "nowhere", tmp_path, report_to="aim")
