"""Ctrl-C ends the command within two seconds, whatever it is doing: importing, computing, waiting for a file."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

PATIENCE = 1.5
"""Seconds that an interrupted command has to end by itself."""
INTERRUPTED = threading.Event()
"""Set once Ctrl-C was pressed: an import that it broke off may raise an error of its own afterwards."""
CODE = 130
"""The exit code of what Ctrl-C has ended."""


def end_on_interrupt() -> None:
    """Watch for Ctrl-C from a thread, as Python tells the main one only when native code has returned.

    Commands that handle Ctrl-C themselves, as training does to save what it has learned, are left to it.
    """
    told = sys.unraisablehook
    # An interrupt within a callback of an import cannot be raised; it is not to be told as a fault, either.
    sys.unraisablehook = lambda fault: None if issubclass(fault.exc_type, KeyboardInterrupt) else told(fault)
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(receiver,), daemon=True, name="blip-interrupts").start()


def _watch(receiver: int) -> None:
    while received := os.read(receiver, 1):
        if received[0] == signal.SIGINT and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            INTERRUPTED.set()
            time.sleep(PATIENCE)
            sys.stderr.flush()
            os.write(2, b"blip: interrupted\n")
            os._exit(CODE)
