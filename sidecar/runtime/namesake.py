"""Processes of this machine that bore the name that is made up where none is given: host and process id."""

import os


def has_ended_here(name: str, *, own: str) -> bool:
    """Whether `name` is a made-up one of this machine whose process has ended. `own` is this process's name.

    False wherever it cannot be told: a given name, another host, a process id that somebody has now.
    """
    host, _, number = own.rpartition("-")
    other_host, _, other = name.rpartition("-")
    if not host or number != str(os.getpid()) or other_host != host or not (other.isascii() and other.isdecimal()):
        return False
    try:
        os.kill(int(other), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False
