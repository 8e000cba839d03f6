"""AWS's clock, as its answers tell it: a signature is good for five minutes of that, not of this machine's."""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

log = logging.getLogger(__name__)

# AWS takes what was signed up to 300 s before or after. Above this a refused signature is put down to the clock:
# answers take their time and name whole seconds.
SUSPECT_S = 240.0
OF_SIGNATURES = frozenset(
    {"invalidsignature", "signaturedoesnotmatch", "requestexpired", "requesttimetooskewed", "incompletesignature"}
)


def date_of(headers: Mapping[str, str], name: str = "Date") -> float | None:
    """An HTTP date in seconds since 1970; None where there is none that can be read."""
    try:
        moment = parsedate_to_datetime(headers.get(name) or headers.get(name.lower()) or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


class AwsTime:
    """The time to sign with: this machine's, until AWS refuses a signature and its clock shows another."""

    def __init__(self, local: Callable[[], float] = time.time) -> None:
        self._local = local
        self._behind_s = 0.0

    def now(self) -> float:
        return self._local() + self._behind_s

    def learns(self, kind: str, headers: Mapping[str, str]) -> bool:
        """Whether a refusal of this kind is put down to the clock, so that the call is worth signing anew."""
        said = date_of(headers) if kind in OF_SIGNATURES else None
        if said is None or abs(said - self.now()) < SUSPECT_S:
            return False
        self._behind_s = said - self._local()
        log.warning(
            "AWS refused a signature for its time: signing by AWS's clock", extra={"behind_s": self._behind_s}
        )
        return True
