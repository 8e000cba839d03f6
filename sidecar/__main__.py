"""The process's first moments: signal handlers before anything heavy is imported, then the command line.

As process 1 of a container Python ignores SIGTERM until a handler stands, and imports take half a second. `run`
replaces this handler by its own once it can drain; before that there is nothing to drain.
"""

import os
import signal
import sys
from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0 if _is_service() else 128 + number)


def _is_service() -> bool:
    """Whether this process is one that an orchestrator stops by SIGTERM: an orderly end is exit 0."""
    return any(word in ("run", "emulator") for word in sys.argv[1:3])


def main() -> int:
    """Exit codes: 0 ok, 1 failed job, 2 usage, 3 unreachable, 4 timeout, 5 quota or budget, 130 interrupted."""
    signal.signal(signal.SIGTERM, _leave)
    from sidecar.cli.main import main as run_command

    return run_command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
