"""`./dev schema`: write what the models say anew (with --check: only say what differs)."""

import sys

from scripts import schema
from scripts.check import ROOT


def main(arguments: list[str]) -> int:
    """Exit code 1 where a check found something, 0 otherwise."""
    lines = schema.check(ROOT) if "--check" in arguments else schema.write(ROOT)
    for line in lines:
        print(line)
    return 1 if lines and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
