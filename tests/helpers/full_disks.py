"""Stand-ins for file systems that cannot do what others can."""

import errno
import os


def no_room_ahead(*_):
    """A file system that has no call to reserve room."""
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
