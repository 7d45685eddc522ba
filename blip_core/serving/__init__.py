"""Models behind an address: an API and a page, from the same classes as the command line."""

from blip_core.serving.served_models import Models
from blip_core.serving.server_settings import Settings

__all__ = ["Models", "Settings"]
