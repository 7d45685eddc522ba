"""CapFilt: write captions for pictures from the web, and keep those, written and found, that match their picture."""

from blip_core.capfilt.cap_filter import CapFilter, Captioning
from blip_core.capfilt.pipeline import CapFiltResult, capfilt
from blip_core.capfilt.streaming import Stream

__all__ = ["CapFiltResult", "CapFilter", "Captioning", "Stream", "capfilt"]
