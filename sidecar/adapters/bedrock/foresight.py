"""Whether a model takes a request, told before the job is queued: its call is encoded, and not made."""

from collections.abc import Callable, Iterable

import msgspec

from sidecar.adapters.bedrock.families import encode_call
from sidecar.errors import InvalidRequest
from sidecar.models.call import ModelCall, ToolSpec
from sidecar.models.content import Block, DocumentBlock, ImageBlock, Message, Source, ToolResultBlock
from sidecar.models.media import sample
from sidecar.models.profile import Candidate, ModelProfile, Route
from sidecar.models.request import InlineTool, JobRequest

# So many stop sequences every model takes.
FEW_STOPS = 4
_ROUTE = Route(region="", invoke_id="")


def foresight(request: JobRequest) -> Callable[[ModelProfile], InvalidRequest | None] | None:
    """Asks whether a model takes the request in some form; None where every model does, as with most requests.

    Content that lies in the Object Store is looked at when the job runs.
    """
    messages = request.messages
    if not messages or not _is_worth_asking(request, messages):
        return None
    tools = tuple([_spec(tool) for tool in request.tools if isinstance(tool, InlineTool)])
    told = tuple([_with_samples(message) for message in messages])

    def refusal(profile: ModelProfile) -> InvalidRequest | None:
        call = ModelCall(
            candidate=Candidate(profile=profile, route=profile.routes[0] if profile.routes else _ROUTE),
            messages=told,
            params=request.params,
            tools=tools,
            reasoning=request.reasoning,
            # Where the sidecar puts cache points refuses nobody, and looking for the places takes time.
            cache="none",
        )
        try:
            encode_call(call, is_stream=request.stream)
        except InvalidRequest as e:
            return e
        return None

    return refusal


def _is_worth_asking(request: JobRequest, messages: Iterable[Message]) -> bool:
    if len(request.params.stop) > FEW_STOPS or InlineTool in map(type, request.tools):
        return True
    role = ""
    for message in messages:
        role = message.role
        if type(message.content) is not str and _may_be_refused(message.content):
            return True
    return role == "assistant"


def _may_be_refused(content: Iterable[object]) -> bool:
    for block in content:
        if isinstance(block, ImageBlock | DocumentBlock):
            return True
        if isinstance(block, ToolResultBlock) and not isinstance(block.content, str):
            return True
    return False


def _spec(tool: InlineTool) -> ToolSpec:
    return ToolSpec(name=tool.name, description=tool.description, input_schema=tool.input_schema)


def _with_samples(message: Message) -> Message:
    if isinstance(message.content, str):
        return message
    return msgspec.structs.replace(message, content=tuple([_with_sample(block) for block in message.content]))


def _with_sample(block: Block) -> Block:
    if isinstance(block, ImageBlock | DocumentBlock):
        return _sampled(block)
    if isinstance(block, ToolResultBlock) and not isinstance(block.content, str):
        parts = [_sampled(p) if isinstance(p, ImageBlock | DocumentBlock) else p for p in block.content]
        return msgspec.structs.replace(block, content=tuple(parts))
    return block


def _sampled(block: ImageBlock | DocumentBlock) -> ImageBlock | DocumentBlock:
    if block.source.data is not None:
        return block
    return msgspec.structs.replace(block, source=Source(data=sample(block.format)))
