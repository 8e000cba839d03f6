"""How much of the corpus the filters hide, and how much that is nothing they take for something.

    python -m tests.corpus.v2.score [--frozen] [--types] [--kinds] [--presidio]

A value counts as found when each letter and digit of it is hidden, by a find of any kind. A find is right when it
touches a value; its type is the type of its own kind. Negatives are counted by line, with the kinds on by default.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sidecar.config.filters import PiiOptions, SecretsOptions
from sidecar.response_formatter.filters.pii import PiiDetector
from sidecar.response_formatter.filters.scanner import Detector, FilterRule, Scanner
from sidecar.response_formatter.filters.secrets import SecretDetector
from tests.corpus.v2.corpus import Example, Span, load

Find = tuple[int, int, str]
Finder = Callable[[str], list[Find]]
PERSONAL = ("email", "phone", "card", "iban", "national_id", "ip_address")


def scanned(detector: Detector, text: str) -> list[Find]:
    """What one filter takes out of a whole text, as the product applies it."""
    kinds: list[str] = []
    scanner = Scanner((FilterRule("v2", "redact", detector),), lambda _, kind: kinds.append(kind))
    pieces = scanner.feed(text, is_end=True)
    ends = [piece.at for piece in pieces[1:]] + [len(text)]
    own = [(piece.at, end) for piece, end in zip(pieces, ends, strict=True) if piece.is_own]
    return [(start, end, kind) for (start, end), kind in zip(own, kinds, strict=True)]


def type_of(kind: str) -> str:
    return next((name for name in PERSONAL if kind.startswith(name)), "secret")


def ours(*, addresses: bool) -> Finder:
    """Both filters as by default; `addresses` adds IP addresses, which are not looked for by default."""
    detectors: list[Detector] = [PiiDetector(PiiOptions()), SecretDetector(SecretsOptions())]
    if addresses:
        detectors.append(PiiDetector(PiiOptions(kinds=("ip_address",))))
    return lambda text: [(a, b, type_of(k)) for detector in detectors for a, b, k in scanned(detector, text)]


def hidden(example: Example, span: Span, finds: Iterable[Find]) -> bool:
    shown = set(range(span.start, span.end))
    for start, end, _ in finds:
        shown -= set(range(start, end))
    return not any(example.text[i].isalnum() for i in shown)


@dataclass
class Score:
    values: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    lines: int = 0
    false_lines: int = 0
    missed: dict[str, list[tuple[Example, Span]]] = field(default_factory=lambda: defaultdict(list))
    false: list[tuple[Example, Find]] = field(default_factory=list)

    def recall(self, name: str | None = None) -> float:
        return self._share(self.found, self.values, name)

    def precision(self, name: str | None = None) -> float:
        return self._share(self.right, self.right + self.wrong, name)

    @property
    def false_share(self) -> float:
        return self.false_lines / self.lines if self.lines else 0.0

    @staticmethod
    def _share(part: Counter[str], whole: Counter[str], name: str | None) -> float:
        total = whole[name] if name else whole.total()
        return (part[name] if name else part.total()) / total if total else 1.0


def score(half: str, positive: Finder, negative: Finder) -> Score:
    result = Score()
    for example in load(half, "positives"):
        finds = positive(example.text)
        for span in example.spans:
            result.values[span.type] += 1
            if hidden(example, span, finds):
                result.found[span.type] += 1
            else:
                result.missed[span.type].append((example, span))
        for find in finds:
            touches = any(find[0] < span.end and span.start < find[1] for span in example.spans)
            (result.right if touches else result.wrong)[find[2]] += 1
            if not touches:
                result.false.append((example, find))
    for example in load(half, "negatives"):
        finds = negative(example.text)
        result.lines += 1
        result.false_lines += bool(finds)
        for find in finds:
            result.wrong[find[2]] += 1
            result.false.append((example, find))
    return result


def shown(title: str, result: Score, *, types: bool, kinds: bool) -> None:
    print(
        f"{title}: {result.values.total()} values, recall {result.recall():.3f}, "
        f"precision {result.precision():.3f}; "
        f"{result.false_lines} of {result.lines} technical lines have a find ({result.false_share:.2%})"
    )
    if types:
        print("| type | values | recall |\n| --- | --- | --- |")
        for name in sorted(result.values):
            print(f"| {name} | {result.values[name]} | {result.recall(name):.3f} |")
        print("| type | finds | precision |\n| --- | --- | --- |")
        for name in sorted(result.right + result.wrong):
            print(f"| {name} | {result.right[name] + result.wrong[name]} | {result.precision(name):.3f} |")
    if kinds:
        for name, missed in sorted(result.missed.items()):
            print(name, dict(Counter(example.kind for example, _ in missed)))
        print("false", dict(Counter(f"{example.kind} as {find[2]}" for example, find in result.false)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frozen", action="store_true", help="the half that nobody tunes to")
    parser.add_argument("--types", action="store_true", help="by type")
    parser.add_argument("--kinds", action="store_true", help="templates that miss, not the lines")
    parser.add_argument("--presidio", action="store_true", help="Microsoft Presidio's recognisers too")
    wanted = parser.parse_args()
    half = "frozen" if wanted.frozen else "open"
    result = score(half, ours(addresses=True), ours(addresses=False))
    shown(f"filters, {half}", result, types=wanted.types, kinds=wanted.kinds)
    if wanted.presidio:
        try:
            from tests.corpus.v2.presidio import finder

            find = finder()
        except ImportError as error:
            print(f"presidio: skipped, {error}")
        else:
            shown(f"presidio, {half}", score(half, find, find), types=wanted.types, kinds=wanted.kinds)


if __name__ == "__main__":
    main()
