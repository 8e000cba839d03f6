"""What kind of task a request is, by its shape and its words, where it names neither a task nor a model.

No model is asked: words of the instruction, which stands at the ends of a prompt, and signs of code in the rest.
The vocabulary is `inference_words.py`. Whatever says too little is `chat`, as it would be without this.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from sidecar.coordinator.inference_words import CODE_SIGNS, PHRASES, WORDS
from sidecar.models.content import Message, TextBlock
from sidecar.models.request import JobRequest, Quality, Task, TaskKind

END_CHARS = 8_192
INSTRUCTION_HEAD = 400
INSTRUCTION_TAIL = 240
SYSTEM_HEAD = 300
# Below this a request is chat; a verb that names the kind alone is worth more.
LEAST_SCORE = 2.0
MOST_CODE_SIGNS = 4.0
FIRST_WORDS = 3
FIRST_WORD_WORTH = 1.0
SHORT_CHARS = 8_192
MANY_NUMBERS = 2
# On a tie the one that says more of what is to be done with a text that is given.
_KINDS: tuple[TaskKind, ...] = ("summarize", "classify", "extract", "code", "reason")
_QUALITIES: tuple[Quality, ...] = ("fast", "balanced", "best")
_PUNCTUATION = str.maketrans(dict.fromkeys(".,:;!?()[]{}\"'`<>=*/\\|\n\t-_„“”«»’¿¡", " "))
_SINGLE = frozenset(WORDS)
_ANCHORS = frozenset(PHRASES)
_ASKING = frozenset(("how", "when", "what"))
_QUANTITIES = ("how many", "how much", "how long", "how far", "how fast", "when does", "what is the")

_COMMON = ".,:;!?()\"'-/\n„“«»¿¡`"


class Inferred(NamedTuple):
    """The task, and by what of the request it was told: words of the vocabulary, none of the client's own."""

    task: Task
    signs: tuple[str, ...]

    @property
    def reason(self) -> str:
        return f"inferred from {', '.join(self.signs)}" if self.signs else "inferred: nothing says another kind"


def infer(request: JobRequest, *, up_to: Quality = "balanced") -> Inferred:
    """The task of a request without one. `up_to`: the best quality that may be inferred."""
    scores: dict[str, float] = dict.fromkeys(_KINDS, 0.0)
    signs: list[tuple[str, str]] = []
    _by_shape(request, scores, signs)
    kind: TaskKind = "chat"
    size = 0
    # What goes on ("and the second one?") stays what it began as: a conversation should keep its model.
    for text in _texts(request):
        size = max(size, len(text))
        _by_words(_instruction(request.system, text), scores, signs)
        _by_code(text, scores, signs)
        kind = max(_KINDS, key=scores.__getitem__)
        if scores[kind] >= LEAST_SCORE:
            break
        kind = "chat"
    quality = _quality(kind, request, size, scores)
    if _QUALITIES.index(quality) > _QUALITIES.index(up_to):
        quality = up_to
    told = tuple(dict.fromkeys(sign for sign, of in signs if of == kind))[:3]
    return Inferred(Task(kind=kind, quality=quality), told)


def _texts(request: JobRequest) -> Iterator[str]:
    """Of the last message that is the user's and has text, then of the first; both ends of each."""
    messages = request.messages or ()
    last = next((m for m in reversed(messages) if m.role == "user" and _ends(m)), None)
    yield "" if last is None else _ends(last)
    first = next((m for m in messages if m.role == "user" and _ends(m)), None)
    if first is not None and first is not last:
        yield _ends(first)


def _ends(message: Message) -> str:
    if isinstance(message.content, str):
        text = message.content
    else:
        text = "\n".join([b.text[: 2 * END_CHARS] for b in message.content if isinstance(b, TextBlock)])
    return text if len(text) <= 2 * END_CHARS else text[:END_CHARS] + "\n" + text[-END_CHARS:]


def _instruction(system: str | None, text: str) -> str:
    if len(text) > INSTRUCTION_HEAD + INSTRUCTION_TAIL:
        text = text[:INSTRUCTION_HEAD] + " \n " + text[-INSTRUCTION_TAIL:]
    return text if not system else f"{text} \n {system[:SYSTEM_HEAD]}"


def _by_words(instruction: str, scores: dict[str, float], signs: list[tuple[str, str]]) -> None:
    words = _plain(instruction.lower()).split()
    first = words[:FIRST_WORDS]
    there = set(words)
    for word in _SINGLE & there:
        kind, worth = WORDS[word]
        scores[kind] += worth + (FIRST_WORD_WORTH if worth >= LEAST_SCORE and word in first else 0.0)
        signs.append((word, kind))
    line = f" {' '.join(words)} "
    for anchor in _ANCHORS & there:
        for phrase, kind, worth in PHRASES[anchor]:
            if phrase in line:
                scores[kind] += worth
                signs.append((phrase.strip(), kind))
    asks = not there.isdisjoint(_ASKING) and any(quantity in line for quantity in _QUANTITIES)
    if asks and sum(map(str.isdecimal, words)) >= MANY_NUMBERS:
        scores["reason"] += 2.5
        signs.append(("a question of numbers", "reason"))
    signs.sort()


def _plain(text: str) -> str:
    """Without punctuation. `translate` is quick for ASCII alone: of other text the common marks go one by one."""
    if text.isascii():
        return text.translate(_PUNCTUATION)
    for mark in _COMMON:
        text = text.replace(mark, " ")
    return text


def _by_code(text: str, scores: dict[str, float], signs: list[tuple[str, str]]) -> None:
    found = 0.0
    for rare, group in CODE_SIGNS.items():
        if rare in text:
            found += sum(worth for sign, worth in group if sign in text)
    if found:
        scores["code"] += min(found, MOST_CODE_SIGNS)
        signs.append(("signs of code", "code"))


def _by_shape(request: JobRequest, scores: dict[str, float], signs: list[tuple[str, str]]) -> None:
    if request.output is not None:
        kind = "classify" if _is_choice(request.output.schema) else "extract"
        scores[kind] += 2.0
        signs.append(("its output schema", kind))
    if request.reasoning is not None and request.reasoning.effort not in ("none", "low"):
        scores["reason"] += 2.0
        signs.append(("the reasoning it asks for", "reason"))


def _is_choice(schema: dict[str, Any]) -> bool:
    """Whether an answer of this form is a choice: one or two fields, the first of them an enum."""
    fields = schema.get("properties")
    if not isinstance(fields, dict) or not 1 <= len(fields) <= 2:
        return "enum" in schema
    first = next(iter(fields.values()))
    return isinstance(first, dict) and ("enum" in first or first.get("type") == "boolean")


def _quality(kind: TaskKind, request: JobRequest, size: int, scores: dict[str, float]) -> Quality:
    """Short sorting and reading of plain text is fast work; only long thought is the best's."""
    if kind in ("classify", "extract"):
        is_plain = all(isinstance(message.content, str) for message in request.messages or ())
        return "fast" if is_plain and size <= SHORT_CHARS and not request.tools else "balanced"
    return "best" if kind == "reason" and scores["reason"] >= 6.0 else "balanced"
