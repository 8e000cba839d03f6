"""What the subcommands of `sidecar prompts` do."""

from collections.abc import Sequence

from sidecar.adapters.nats.prompts import NatsPromptStore
from sidecar.cli import exits
from sidecar.cli.bus import connected
from sidecar.cli.invocation import Invocation
from sidecar.cli.tables import table
from sidecar.errors import Conflict, InvalidRequest, Permanent
from sidecar.models.base import FieldError
from sidecar.models.codec import decode
from sidecar.models.prompt import PromptTemplate, describe, key_of, parts_of, version_order
from sidecar.ports.bus import StoredPrompt


async def put_template(invocation: Invocation, scope: str, name: str, version: str | None, document: bytes) -> int:
    template = decode(document, PromptTemplate)
    async with connected(invocation, name="prompts") as mux:
        store = NatsPromptStore(mux, is_replicated=True)
        if version is None:
            known = _of((await store.load()).prompts, scope, name)
            version = str(max((version_order(found)[0] for found in known), default=0) + 1)
        try:
            await store.create(_key(scope, name, version), document)
        except Conflict as e:
            raise Permanent(f"{name} {version} is stored already, and never changes: store a new version") from e
    if invocation.is_json:
        invocation.json({"scope": scope, "name": name, "version": version, "variables": describe(template)})
    else:
        invocation.data(version)
    return exits.OK


async def list_templates(invocation: Invocation, scopes: Sequence[str] | None) -> int:
    async with connected(invocation, name="prompts") as mux:
        stored = (await NatsPromptStore(mux, is_replicated=True).load()).prompts
    rows = []
    for prompt in stored:
        found = parts_of(prompt.key)
        if found is None or (scopes is not None and found[0] not in scopes):
            continue
        rows.append((*found, *_about(prompt)))
    rows.sort(key=lambda row: (scopes.index(row[0]) if scopes else 0, row[0], row[1], version_order(row[2])))
    names = ("scope", "name", "version", "variables", "about")
    if invocation.is_json:
        for row in rows:
            invocation.json(dict(zip(names, row, strict=True)))
    else:
        table(names, rows)
    return exits.OK


async def show_template(invocation: Invocation, scope: str, name: str, version: str | None) -> int:
    async with connected(invocation, name="prompts") as mux:
        store = NatsPromptStore(mux, is_replicated=True)
        known = _of((await store.load()).prompts, scope, name)
    wanted = version or max(known, key=version_order, default="")
    prompt = known.get(wanted)
    if prompt is None:
        raise _unknown(scope, name, version)
    invocation.data(prompt.document.decode("utf-8", "replace").rstrip("\n"))
    return exits.OK


async def remove_template(invocation: Invocation, scope: str, name: str, version: str | None) -> int:
    async with connected(invocation, name="prompts") as mux:
        store = NatsPromptStore(mux, is_replicated=True)
        known = _of((await store.load()).prompts, scope, name)
        wanted = list(known) if version is None else [found for found in known if found == version]
        if not wanted:
            raise _unknown(scope, name, version)
        for found in wanted:
            await store.delete(known[found].key)
            invocation.note(f"{name} {found} is taken away")
    return exits.OK


def _of(stored: Sequence[StoredPrompt], scope: str, name: str) -> dict[str, StoredPrompt]:
    """The versions of one template."""
    found = ((parts_of(prompt.key), prompt) for prompt in stored)
    return {parts[2]: prompt for parts, prompt in found if parts is not None and parts[:2] == (scope, name)}


def _about(prompt: StoredPrompt) -> tuple[str, str]:
    try:
        template = decode(prompt.document, PromptTemplate)
    except InvalidRequest as e:
        return "", f"is no template: {e.message}"
    variables = ", ".join(f"{name}: {kind}" for name, kind in describe(template).items())
    return variables, template.description


def _key(scope: str, name: str, version: str) -> str:
    try:
        return key_of(scope, name, version)
    except FieldError as e:
        raise InvalidRequest(e.message, path=e.path) from e


def _unknown(scope: str, name: str, version: str | None) -> Permanent:
    return Permanent(
        f"{scope} has no template {name!r}" + (f" of version {version}" if version else ""), code="not_found"
    )
