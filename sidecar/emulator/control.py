"""The control endpoint `/_emulator/…`: behaviour, quotas, counters, recorded calls.

GET    health                          {"status": "ok"}
GET    counters                        totals, by model, by tenant; calls active; connections open
GET    calls ?last=100 &bodies=1 &tenant= &model= &operation=     recorded calls, oldest first
GET    active, aborted                 calls in flight; calls whose client left, with `aborted_at`
GET    quota                           pools with usage, throttles, utilisation, settled tokens by second
PUT    quota       [rule, …]           replace the quotas; all pools start full
PUT    behaviour   {"behave": "…"}     the default behaviour
POST   rules       rule                add a rule after the others; DELETE removes all rules
PUT    scenario    {…}                 replace everything, as a scenario file would
POST   reset                           forget calls, counters, cache, `times`; keep the scenario
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sidecar.emulator.journal import CallRecord
from sidecar.emulator.scenario import Scenario, make_scenario
from sidecar.emulator.service import BedrockService


class ControlError(Exception):
    """A control call that cannot be done; `status` is for HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Control:
    """Reads and changes a running service."""

    def __init__(self, service: BedrockService, *, count_connections: Callable[[], int]) -> None:
        self._service = service
        self._count_connections = count_connections

    def handle(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Any:
        """JSON-able answer. `path` has no leading part. Raises ControlError."""
        try:
            return self._dispatch(method, path, query, msgspec.json.decode(body) if body else None)
        except (ValueError, TypeError) as e:
            raise ControlError(400, str(e)) from e

    def _dispatch(self, method: str, path: str, query: Mapping[str, str], data: Any) -> Any:
        journal = self._service.journal
        match method, path:
            case "GET", "health":
                return {"status": "ok"}
            case "GET", "counters":
                return {**journal.snapshot(), "open_connections": self._count_connections()}
            case "GET", "calls":
                return self._list_calls(query)
            case "GET", "active":
                return [record.as_dict(with_body=False) for record in journal.active.values()]
            case "GET", "aborted":
                return [r.as_dict(with_body=False) for r in journal.calls if r.aborted_at is not None]
            case "GET", "quota":
                return self._service.quotas.snapshot()
            case _:
                return self._change(method, path, data)

    def _change(self, method: str, path: str, data: Any) -> Any:
        current = self._service.script.scenario
        match method, path:
            case "PUT", "quota":
                self._service.set_quota(make_scenario({"quota": data}).quota)
            case "PUT", "behaviour":
                self._load(current, default=data["behave"])
            case "POST", "rules":
                self._load(current, rule=[*current.rule, *make_scenario({"rule": [data]}).rule])
            case "DELETE", "rules":
                self._load(current, rule=[])
            case "PUT", "scenario":
                self._service.load(make_scenario(data))
            case "POST", "reset":
                self._service.reset()
            case _:
                raise ControlError(404, f"no such control: {method} {path}")
        return {"status": "ok"}

    def _load(self, current: Scenario, **changes: Any) -> None:
        changed = msgspec.structs.replace(current, **changes)
        self._service.script.load(make_scenario(msgspec.to_builtins(changed)))

    def _list_calls(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        calls = [record for record in self._service.journal.calls if _is_wanted(record, query)]
        last = int(query.get("last", "100"))
        return [record.as_dict(with_body=query.get("bodies") == "1") for record in calls[-last:]]


def _is_wanted(record: CallRecord, query: Mapping[str, str]) -> bool:
    return (
        query.get("tenant", record.tenant) == record.tenant
        and query.get("model", "") in record.model_id
        and query.get("operation", record.operation) == record.operation
    )
