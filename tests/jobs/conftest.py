"""A store on loopback."""

from tests.helpers.object_store import served, store  # noqa: F401
