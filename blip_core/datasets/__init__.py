"""Data for training and evaluation: examples from files, augmentation, batches for the models."""

from blip_core.datasets.augmentation import Augmentation
from blip_core.datasets.batches import Batch, Batches
from blip_core.datasets.cleaning import clean_caption, clean_question
from blip_core.datasets.examples import Dataset, Example, Picture
from blip_core.datasets.sources import open_dataset

__all__ = [
    "Augmentation",
    "Batch",
    "Batches",
    "Dataset",
    "Example",
    "Picture",
    "clean_caption",
    "clean_question",
    "open_dataset",
]
