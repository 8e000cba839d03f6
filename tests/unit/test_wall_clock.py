"""What is decided about jobs goes by the port's clock: nobody asks this machine for the date by another way."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Each with its reason in docs/decisions/clocks.md. The emulator is a server of its own, with a clock of its own.
ALLOWED = {
    "sidecar/runtime/lifecycle.py": "the machine's clock, which the server's is told apart from",
    "sidecar/adapters/bedrock/aws_time.py": "signatures",
    "sidecar/adapters/bedrock/causes.py": "how far the clock of a refused signature was off",
    "sidecar/adapters/bedrock/errors.py": "a date in an answer that has none of its own",
    "sidecar/adapters/nats/job_store.py": "default for benchmarks",
    "sidecar/adapters/nats/tool_bus.py": "default for the command line",
    "sidecar/adapters/nats/micro.py": "default for the command line",
    "sidecar/cli/jobs_command.py": "how long ago `--since 1h` is",
    "sidecar/cli/tools_view.py": "the command's own call",
    "sidecar/client/tools/context.py": "providers",
}
_CLOCKS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}


def asks_the_machine(path: Path) -> bool:
    return any(map(_is_clock, ast.walk(ast.parse(path.read_text("utf-8")))))


def _is_clock(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return (node.value.id, node.attr) in _CLOCKS
    if isinstance(node, ast.ImportFrom) and node.module == "time":
        return any(alias.name in ("time", "time_ns") for alias in node.names)
    return False


def test_only_those_with_a_reason_ask_this_machine_for_the_date() -> None:
    files = [path for path in (ROOT / "sidecar").rglob("*.py") if "emulator" not in path.parts]
    found = {path.relative_to(ROOT).as_posix() for path in files if asks_the_machine(path)}
    assert found == set(ALLOWED)
