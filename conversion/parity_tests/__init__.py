"""Tests to run on a checkpoint of one's own: `pytest --pyargs conversion.parity_tests --checkpoint FOLDER`."""
