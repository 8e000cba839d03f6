"""How well filters do on the corpus, by kind. `python -m tests.corpus.score` prints the table."""

from collections import Counter
from collections.abc import Iterator

from sidecar.config.filters import PiiOptions, SecretsOptions
from sidecar.response_formatter.filters.pii import PiiDetector
from sidecar.response_formatter.filters.scanner import FilterRule, Match, Scanner
from sidecar.response_formatter.filters.secrets import SecretDetector
from tests.corpus.generate import Case, Label, corpus

DETECTORS = {"pii": PiiDetector(PiiOptions()), "secrets": SecretDetector(SecretsOptions())}


class Score:
    """Counts of one kind. A value is found when nothing of it stays; a find is right when it touches a value."""

    def __init__(self) -> None:
        self.wanted = 0
        self.found = 0
        self.finds = 0
        self.right = 0
        self.missed: list[str] = []
        self.wrong: list[str] = []

    @property
    def recall(self) -> float:
        return self.found / self.wanted if self.wanted else 1.0

    @property
    def precision(self) -> float:
        return self.right / self.finds if self.finds else 1.0


def scores() -> dict[str, Score]:
    """By filter, and by filter and kind."""
    made: dict[str, Score] = {}
    for case in corpus():
        for name in DETECTORS:
            if case.filter in (name, "all"):
                _score(case, name, made)
    return made


def _score(case: Case, name: str, made: dict[str, Score]) -> None:
    finds = _merged(name, case.text)
    for label in case.labels:
        start = case.text.index(label.value)
        is_found = any(
            f.start <= start and start + len(label.value) <= f.end and _fits(name, label, f) for f in finds
        )
        for key in (name, f"{name}.{label.kind}"):
            score = made.setdefault(key, Score())
            score.wanted += 1
            score.found += is_found
            if not is_found:
                score.missed.append(f"{label.kind}: {case.text!r}")
    spans = [(case.text.index(x.value), case.text.index(x.value) + len(x.value), x) for x in case.labels]
    for find in finds:
        is_right = any(find.start < end and start < find.end and _fits(name, x, find) for start, end, x in spans)
        for key in (name, f"{name}.{_group(name, find.kind)}"):
            score = made.setdefault(key, Score())
            score.finds += 1
            score.right += is_right
            if not is_right:
                score.wrong.append(f"{find.kind} {case.text[find.start : find.end]!r} in {case.text!r}")


def _merged(name: str, text: str) -> list[Match]:
    """What a redaction would replace, as stretches of the text."""
    rule = FilterRule(name, "redact", DETECTORS[name])
    kinds: list[str] = []
    scanner = Scanner((rule,), lambda _, kind: kinds.append(kind))
    pieces = scanner.feed(text, is_end=True)
    finds = []
    for at, piece in enumerate(pieces):
        if piece.is_own:
            after = next((p.at for p in pieces[at + 1 :] if p.at > piece.at), len(text))
            finds.append(Match(piece.at, after, kinds[len(finds)]))
    return finds


def _group(name: str, kind: str) -> str:
    if name == "secrets":
        return "secret"
    return "national_id" if kind.startswith("national_id") else kind


def _fits(name: str, label: Label, find: Match) -> bool:
    return _group(name, find.kind) == label.kind


def lines() -> Iterator[str]:
    found = scores()
    yield "| filter | values | recall | finds | precision |"
    yield "| --- | --- | --- | --- | --- |"
    for key in sorted(found):
        score = found[key]
        yield f"| {key} | {score.wanted} | {score.recall:.3f} | {score.finds} | {score.precision:.3f} |"


if __name__ == "__main__":
    print("\n".join(lines()))
    sizes = Counter(case.filter for case in corpus())
    print(f"\n{sum(sizes.values())} texts: {dict(sizes)}\n")
    for key, score in scores().items():
        if "." not in key:
            print("\n".join([f"missed {one}" for one in score.missed] + [f"wrong {one}" for one in score.wrong]))
