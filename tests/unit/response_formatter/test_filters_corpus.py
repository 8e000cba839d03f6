"""What filters find on the corpus, and what they leave: floors, so that no change makes them worse unseen."""

import pytest

from tests.corpus.generate import corpus
from tests.corpus.score import Score, scores

FLOORS = {
    "pii.email": (0.99, 0.99),
    "pii.phone": (0.97, 0.97),
    "pii.iban": (0.99, 0.99),
    "pii.card": (0.95, 0.97),
    "pii.national_id": (0.98, 0.97),
    "secrets.secret": (0.98, 0.99),
}


@pytest.fixture(scope="module")
def scored() -> dict[str, Score]:
    return scores()


def test_the_corpus_is_large_and_the_same_every_time() -> None:
    texts = [case.text for case in corpus()]
    assert len(texts) >= 500
    assert len({case.name for case in corpus()}) == len(texts)
    corpus.cache_clear()
    assert [case.text for case in corpus()] == texts


@pytest.mark.parametrize("kind", FLOORS)
def test_each_kind_is_found_and_little_else(kind: str, scored: dict[str, Score]) -> None:
    score = scored[kind]
    recall, precision = FLOORS[kind]
    assert score.wanted >= 30
    assert score.recall >= recall, score.missed
    assert score.precision >= precision, score.wrong
