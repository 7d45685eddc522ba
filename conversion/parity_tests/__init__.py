"""Parity tests for your own checkpoint.

pytest -p conversion.parity_tests.plugin --pyargs conversion.parity_tests --checkpoint FOLDER
"""
