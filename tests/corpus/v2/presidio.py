"""Microsoft Presidio's recognisers over the same corpus, where the package `presidio-analyzer` is installed."""

from collections.abc import Callable
from typing import Any

TYPES = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip_address",
}
OTHERS = {"PERSON", "LOCATION", "DATE_TIME", "NRP", "URL", "ORGANIZATION"}  # not in the corpus


def finder() -> Callable[[str], list[tuple[int, int, str]]]:
    """Raises ImportError where the package is missing. No language model: patterns and checksums alone."""
    from presidio_analyzer import RecognizerRegistry  # type: ignore[import-not-found, unused-ignore]

    registry = RecognizerRegistry()
    registry.load_predefined_recognizers()
    recognisers: list[Any] = [r for r in registry.recognizers if not set(r.supported_entities) <= OTHERS]

    def find(text: str) -> list[tuple[int, int, str]]:
        finds = []
        for recogniser in recognisers:
            for hit in recogniser.analyze(text, recogniser.supported_entities, None) or []:
                if hit.score >= 0.4:
                    finds.append((hit.start, hit.end, TYPES.get(hit.entity_type, "national_id")))
        return finds

    return find
