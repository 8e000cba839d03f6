"""nats-server configuration that keeps tenants apart, as text. Pure.

`accounts` (preferred): each tenant is an account of its own. The export's `account_token_position` lets an
account import only subjects that carry its own name, and the server maps every reply back into the account that
asked, so no reply subject can reach another tenant or the sidecar's streams.
`users`: users of one account with subject permissions. A client's reply subject is not checked by the server, so
JetStream's acknowledgement of a request can be aimed at any subject of the account. The sidecar believes none;
JetStream's API does before 2.12, unless it is strict.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from sidecar.cli.invocation import OPERATOR_INBOX
from sidecar.errors import StartupError
from sidecar.models.subjects import (
    CANCEL_BUCKET,
    CONFIG_BUCKET,
    CONTROL_BUCKET,
    JOB_BUCKET,
    PROMPT_BUCKET,
    SHARED_SCOPE,
    TOOL_BUCKET,
    Subjects,
    call_cancelled,
    is_name,
)

Mode = Literal["accounts", "users"]
# Users that only look, as the dashboard does, and what they may ask with how many tokens.
WATCHER = "dashboard"
WATCHER_INBOX = "_INBOX.dashboard"
OPERATOR = "operator"
_READS = {"get": 2, "replay": 2, "jobs": 1, "models": 1, "spend": 1}

SIDECAR = "SIDECAR"
"""The account of the sidecar and its streams, where there are accounts."""
_SERVICES = {
    "request": "*.*",
    "ask": "*.*",
    "cancel": "*.*",
    "get": "*.*",
    "replay": "*.*",
    "jobs": "*",
    "models": "*",
    "spend": "*",
    "retry": "*.*",
    "tools": "*.*",
    "objects": "*.*",
}
# A later answer is lost on its way between accounts: the server forgets who asked. `ask` waits for a whole job.
_ANSWER_WITHIN = {"ask": "1h"}
_ANSWER_WITHIN_ELSE = "2m"
_MANY_ANSWERS = ("replay", "objects", "spend")
# A tool's heartbeats are answers, too. Between accounts the server forgets who asked when so much time has passed
# without any; it remembers each call so long, at about 1 KB.
_CALL_QUIET = "10m"
# Among users it lets so many answers through, for so long.
_MOST_HEARTBEATS, _CALL_WITHIN = 1_000, "15m"
_CALL_ANSWERS = f'allow_responses: {{ max: {_MOST_HEARTBEATS}, expires: "{_CALL_WITHIN}" }}'
_BUCKETS = (JOB_BUCKET, CANCEL_BUCKET, CONTROL_BUCKET, TOOL_BUCKET, CONFIG_BUCKET, PROMPT_BUCKET)
_RESERVED = ("default", "shared", "sidecar", "operator", "sys")


class Watchers(NamedTuple):
    """Which users there are to be beside tenants: one that looks at all, one for each tenant that looks at it, one
    that provides tools for all, and one that pauses, cancels and runs again what is anybody's.
    """

    all_tenants: bool = False
    each_tenant: bool = False
    shared_tools: bool = False
    operator: bool = False

    def names(self, tenants: Iterable[str]) -> list[str]:
        return [WATCHER] * self.all_tenants + [watcher_of(tenant) for tenant in tenants if self.each_tenant]

    @property
    def flags(self) -> str:
        given = " --dashboard" * self.all_tenants + " --tenant-dashboards" * self.each_tenant
        return given + " --shared-tools" * self.shared_tools + " --operator" * self.operator


NOBODY = Watchers()


def render(tenants: Sequence[str], *, mode: Mode, prefix: str = "llm", watchers: Watchers = NOBODY) -> str:
    """The configuration for these tenants. Raises StartupError for names that cannot be kept apart."""
    _check(tenants, watchers)
    subjects = Subjects(prefix)
    make = _accounts if mode == "accounts" else _users
    lines = make(tenants, subjects, watchers)
    head = [
        f"# Made by: sidecar nats-config --mode {mode} --tenants {','.join(tenants)}{watchers.flags}",
        "# Each $NAME is read from the server's environment. Let a password begin with a letter.",
    ]
    return "\n".join([*head, *lines])


def password_variable(user: str) -> str:
    """The environment variable that holds a user's password."""
    return "LLM_PASSWORD_" + re.sub(r"[^A-Z0-9]", "_", user.upper())


def _check(tenants: Sequence[str], watchers: Watchers) -> None:
    if not tenants:
        raise StartupError("no tenant was named: give --tenants acme,globex")
    seen = {password_variable(name): name for name in watchers.names(tenants)}
    for tenant in tenants:
        if not is_name(tenant):
            raise StartupError(f"{tenant!r} is no tenant's name: use 1 to 64 of A-Z a-z 0-9 _ -")
        if tenant.lower() in _RESERVED:
            raise StartupError(f"{tenant!r} is reserved: choose another name for the tenant")
        variable = password_variable(tenant)
        if variable in seen:
            raise StartupError(f"{tenant!r} and {seen[variable]!r} would share {variable}: rename one")
        seen[variable] = tenant


def _accounts(tenants: Sequence[str], subjects: Subjects, watchers: Watchers) -> list[str]:
    position = subjects.root.count(".") + 3
    exports = [_service_export(subjects, verb, rest, position) for verb, rest in _SERVICES.items()]
    exports.append(f'{{ stream: "{subjects.endpoint("job", "*", ">")}", account_token_position: {position} }}')
    imports = [
        f'{{ service: {{ account: "{tenant}", subject: "{subjects.endpoint("call", tenant, ">")}" }} }}'
        for tenant in tenants
    ]
    lines = ["accounts {", f"  {SIDECAR}: {{", "    jetstream: enabled"]
    users = [f"{{ user: sidecar, password: ${password_variable('sidecar')} }}"]
    users += [_watcher(subjects)] * watchers.all_tenants
    users += [_provider(subjects)] * watchers.shared_tools
    users += [_operator(subjects)] * watchers.operator
    lines += _users_of_account(users)
    lines += [*_list("exports", exports), *_list("imports", imports), "  }"]
    for tenant in tenants:
        lines += _tenant_account(tenant, subjects, watchers)
    return [*lines, "}"]


def _service_export(subjects: Subjects, verb: str, rest: str, position: int) -> str:
    response = "stream" if verb in _MANY_ANSWERS else "singleton"
    return (
        f'{{ service: "{subjects.endpoint(verb, rest)}", account_token_position: {position}, '
        f'response: {response}, threshold: "{_ANSWER_WITHIN.get(verb, _ANSWER_WITHIN_ELSE)}" }}'
    )


def _users_of_account(users: Sequence[str]) -> list[str]:
    return [f"    users: [{users[0]}]"] if len(users) == 1 else _list("users", users)


def _watcher(subjects: Subjects, tenant: str | None = None) -> str:
    name = WATCHER if tenant is None else watcher_of(tenant)
    publish, subscribe = watching(subjects, tenant=tenant)
    return (
        f'{{ user: "{name}", password: ${password_variable(name)}, permissions: {{ '
        f"publish: {_quoted(publish)}, subscribe: {_quoted(subscribe)} }} }}"
    )


def _tenant_account(tenant: str, subjects: Subjects, watchers: Watchers) -> list[str]:
    def imported(kind: str, subject: str) -> str:
        return f'{{ {kind}: {{ account: {SIDECAR}, subject: "{subject}" }} }}'

    imports = [
        imported("service", subjects.endpoint(verb, tenant, *rest.split(".")[1:]))
        for verb, rest in _SERVICES.items()
    ]
    imports.append(imported("stream", subjects.endpoint("job", tenant, ">")))
    calls = (
        f'{{ service: "{subjects.endpoint("call", tenant, ">")}", accounts: [{SIDECAR}], '
        f'response: stream, threshold: "{_CALL_QUIET}" }}'
    )
    users = [f'{{ user: "{tenant}", password: ${password_variable(tenant)} }}']
    users += [_watcher(subjects, tenant)] * watchers.each_tenant
    return [
        f'  "{tenant}": {{',
        *_users_of_account(users),
        *_list("imports", imports),
        *_list("exports", [calls]),
        "  }",
    ]


def _users(tenants: Sequence[str], subjects: Subjects, watchers: Watchers) -> list[str]:
    own = [f"{subjects.root}.>", "$JS.API.>", *(f"$KV.{bucket}.>" for bucket in _BUCKETS), "$O.>", "$SRV.INFO"]
    own += ["_INBOX.>", *[f"_INBOX_{SHARED_SCOPE}.>"] * watchers.shared_tools]
    replies = [f"_INBOX_{tenant}.>" for tenant in tenants]
    lines = [
        "# A tenant's client must use the inbox prefix _INBOX_<tenant>; SidecarClient does.",
        "# Tenants of one account must not be hostile to each other. The server must be 2.12 or newer, or have",
        "# jetstream { strict: true }: else it hands on what they aim at JetStream's API (docs/security.md).",
        "authorization {",
        "  users: [",
        f"    {{ user: sidecar, password: ${password_variable('sidecar')}, permissions: {{",
        f"        publish: {_quoted([*own, *replies])}",
        f"        subscribe: {_quoted([f'{subjects.root}.>', '$SRV.>', '$KV.>', '_INBOX.>'])} }} }}",
    ]
    watching_users = [_watcher(subjects)] * watchers.all_tenants
    watching_users += [_provider(subjects)] * watchers.shared_tools
    watching_users += [_operator(subjects)] * watchers.operator
    for tenant in tenants:
        lines += _tenant_user(tenant, subjects)
        watching_users += [_watcher(subjects, tenant)] * watchers.each_tenant
    return [*lines, *(f"    {user}" for user in watching_users), "  ]", "}"]


def _tenant_user(tenant: str, subjects: Subjects) -> list[str]:
    publish = [subjects.endpoint(verb, tenant, *rest.split(".")[1:]) for verb, rest in _SERVICES.items()]
    publish.append(_cancelled_calls(tenant, subjects))
    events, calls = subjects.endpoint("job", tenant, ">"), subjects.endpoint("call", tenant, ">")
    return [
        f'    {{ user: "{tenant}", password: ${password_variable(tenant)}, permissions: {{',
        f"        publish: {_quoted(publish)}",
        f"        subscribe: {_quoted([events, calls, f'_INBOX_{tenant}.>'])}",
        # A tool's answer goes to the inbox of the sidecar that called it.
        f"        {_CALL_ANSWERS} }} }}",
    ]


def _provider(subjects: Subjects) -> str:
    """A user for tools of the scope `shared`: it registers them, answers calls, and may be a micro service."""
    publish = [subjects.endpoint("tools", SHARED_SCOPE, "*"), _cancelled_calls(SHARED_SCOPE, subjects)]
    subscribe = [subjects.endpoint("call", SHARED_SCOPE, ">"), f"_INBOX_{SHARED_SCOPE}.>", "$SRV.>"]
    return (
        f'{{ user: "{SHARED_SCOPE}", password: ${password_variable(SHARED_SCOPE)}, permissions: {{ '
        f"publish: {_quoted(publish)}, subscribe: {_quoted(subscribe)}, {_CALL_ANSWERS} }} }}"
    )


def _operator(subjects: Subjects) -> str:
    """A user for `sidecar cancel|retry --where`, `pause`, `resume` and `spend --all`, who may look at all, too."""
    looks, hears = watching(subjects)
    publish = [subjects.endpoint("admin", "*"), *looks]
    subscribe = [subject for subject in hears if not subject.startswith(WATCHER_INBOX)]
    subscribe.append(f"{OPERATOR_INBOX}.>")
    return (
        f'{{ user: "{OPERATOR}", password: ${password_variable(OPERATOR)}, permissions: {{ '
        f"publish: {_quoted(publish)}, subscribe: {_quoted(subscribe)} }} }}"
    )


def _cancelled_calls(scope: str, subjects: Subjects) -> str:
    """Where a provider that stops asks whether another one serves its tool."""
    return call_cancelled(subjects.endpoint("call", scope, "*", "*"))


def _list(name: str, items: Sequence[str]) -> list[str]:
    return [f"    {name}: [", *(f"      {item}" for item in items), "    ]"]


def _quoted(subjects: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{subject}"' for subject in subjects) + "]"


def watcher_of(tenant: str) -> str:
    """The name of the user that sees this tenant's jobs and nothing else."""
    return f"{tenant}-{WATCHER}"


def watching(subjects: Subjects, *, tenant: str | None = None) -> tuple[list[str], list[str]]:
    """What a watcher may publish and subscribe to: of all tenants and the statistics, or of one tenant alone.

    The requests it may make change nothing. Its answers come to an inbox prefix of its own.
    """
    publish = [subjects.endpoint(verb, tenant or "*", *["*"] * (tokens - 1)) for verb, tokens in _READS.items()]
    if tenant is None:
        publish += [subjects.endpoint("admin", "spend"), subjects.endpoint("admin", "jobs")]
        return publish, [subjects.sys("stats"), subjects.endpoint("job", ">"), f"{WATCHER_INBOX}.>"]
    return publish, [subjects.endpoint("job", tenant, ">"), f"_INBOX_{tenant}.{WATCHER}.>"]
