"""AWS credentials by botocore's own chain, loaded and refreshed off the event loop.

botocore blocks while it asks a metadata service, STS or SSO. Here one thread does that for everybody: callers
get what is valid at once, a refresh near expiry runs beside them, and only expired keys make them wait.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from sidecar.adapters.bedrock.foreign import closed
from sidecar.adapters.bedrock.sigv4 import Keys
from sidecar.errors import AccountRefused, HoldCause, ModelUnavailable, SidecarError
from sidecar.runtime.redaction import without_credentials

if TYPE_CHECKING:
    from botocore.session import Session

log = logging.getLogger(__name__)

CHECK_EVERY_S = 5.0
_MANDATORY_S = 60
_REMEDY = "give credentials: AWS_BEARER_TOKEN_BEDROCK, AWS_ACCESS_KEY_ID, a profile, or a role of the pod"


class Bearer(NamedTuple):
    """A Bedrock API key; wins over access keys."""

    token: str


Auth = Keys | Bearer

# An endpoint on this machine, such as the emulator, checks no signature but wants to see one.
LOCAL_KEYS = Keys("local", "local")


class CredentialSource:
    """Hands out `Auth` for signing. `is_local`: the endpoint is on this machine, so missing keys do no harm.

    `clock` is a monotonic clock in seconds; `has_profile`: the settings name a profile, which then comes first.
    """

    def __init__(
        self,
        open_session: Callable[[], "Session"],
        *,
        is_local: bool,
        clock: Callable[[], float],
        has_profile: bool = False,
    ) -> None:
        self._open_session = open_session
        self._is_local = is_local
        self._has_profile = has_profile
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="aws-credentials")
        self._chain: Any = None
        self._auth: Auth | None = None
        self._refused: Auth | None = None
        self._check_at = 0.0
        self._refreshing: asyncio.Task[Auth] | None = None

    async def get(self) -> Auth:
        """Valid credentials, from memory in all but the first call and after expiry.

        Raises AccountRefused when there are none, ModelUnavailable when their source did not answer.
        """
        auth = self._auth
        now = self._clock()
        if auth is not None and now < self._check_at:
            return auth
        self._check_at = now + CHECK_EVERY_S
        if auth is not None and not self._is_due():
            return auth
        if auth is None or self._is_expired():
            # One caller that is cancelled must not end the lookup for all who wait for it.
            return await asyncio.shield(self._refresh())
        self._refresh()
        return auth

    async def is_mended(self) -> bool:
        """Whether the chain has credentials now, others than those that were refused last. Asks it anew."""
        self.invalidate()
        try:
            return await self.get() != self._refused
        except SidecarError:
            return False

    def invalidate(self) -> None:
        """Ask the chain again when credentials are needed next."""
        self._auth = None
        self._chain = None

    async def renewed(self, *, is_late: bool) -> bool:
        """Ask the chain again after AWS refused what `get` gave. Whether a call is worth signing anew: there are
        other keys now, or (`is_late`) the refused ones were good until a moment ago.

        Raises like `get`.
        """
        before, refused_before = self._auth, self._refused
        self._refused = before
        self.invalidate()
        # The same keys are tried once more, not each time that they are refused.
        return await self.get() != before or (is_late and before != refused_before)

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _is_due(self) -> bool:
        is_needed = getattr(self._chain, "refresh_needed", None)
        return bool(is_needed()) if is_needed else False

    def _is_expired(self) -> bool:
        is_needed = getattr(self._chain, "refresh_needed", None)
        return bool(is_needed(_MANDATORY_S)) if is_needed else False

    def _refresh(self) -> "asyncio.Task[Auth]":
        if self._refreshing is None or self._refreshing.done():
            # One look-up for all who ask meanwhile, and owned by none of them: a cancelled job must not end it.
            self._refreshing = asyncio.get_running_loop().create_task(self._load(), name="aws-credentials")
            self._refreshing.add_done_callback(_report)
        return self._refreshing

    async def _load(self) -> Auth:
        loop = asyncio.get_running_loop()
        auth = await loop.run_in_executor(self._executor, self._load_blocking)
        self._auth = auth
        self._check_at = self._clock() + CHECK_EVERY_S
        return auth

    def _load_blocking(self) -> Auth:
        plain = plain_auth(os.environ, has_profile=self._has_profile)
        if plain is not None:
            return plain
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.utils import get_token_from_environment

        try:
            token = get_token_from_environment("bedrock")
            if token:
                return Bearer(token)
            if self._chain is None:
                self._chain = self._open_chain()
            if self._chain is None:
                return self._none_found()
            frozen = self._chain.get_frozen_credentials()
        except (BotoCoreError, ClientError, RuntimeError, OSError) as e:
            raise credential_error(e) from e
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)

    def _open_chain(self) -> Any:
        # Not by `Session.get_credentials`, which would give what was found first again.
        chain = self._open_session().get_component("credential_provider")
        if self._is_local:
            # The metadata service of a machine that is none answers after seconds, by a timeout.
            chain.remove("iam-role")
        return chain.load_credentials()

    def _none_found(self) -> Auth:
        if self._is_local:
            return LOCAL_KEYS
        details = {"provider_code": "NoCredentials"}
        found = AccountRefused("the sidecar has no AWS credentials", cause="no_credentials", details=details)
        raise closed(found, f"none were found: {_REMEDY}")


def plain_auth(environment: Mapping[str, str], *, has_profile: bool) -> Auth | None:
    """What botocore's chain would find in the environment, where that needs no more than a look.

    Spares ten megabytes and half a second of imports. None: ask the chain.
    """
    if token := environment.get("AWS_BEARER_TOKEN_BEDROCK"):
        return Bearer(token)
    access, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if has_profile or not access or not secret or "AWS_CREDENTIAL_EXPIRATION" in environment:
        return None
    session_token = environment.get("AWS_SECURITY_TOKEN") or environment.get("AWS_SESSION_TOKEN")
    return Keys(access, secret, session_token or None)


def _report(task: "asyncio.Task[Auth]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        said = error.for_operator if isinstance(error, SidecarError) else str(error)
        log.warning("AWS credentials could not be refreshed", extra={"error": without_credentials(said)})


# A session that somebody has to begin again.
_OUTLIVED = frozenset(
    {"UnauthorizedSSOTokenError", "SSOTokenLoadError", "TokenRetrievalError", "LoginRefreshRequired"}
)
_LASTING = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "ConfigParseError",
        "ConfigNotFound",
        "InvalidConfigError",
        "UnauthorizedSSOTokenError",
        "SSOTokenLoadError",
        "TokenRetrievalError",
        "LoginRefreshRequired",
        "LoginTokenLoadError",
        "LoginInsufficientPermissions",
        "InfiniteLoopConfigError",
        "MissingDependencyException",
    }
)


def credential_error(error: Exception) -> SidecarError:
    """A failure of the credential chain: for somebody to mend, or of a source that may answer later."""
    name = type(error).__name__
    details = {"provider_code": name}
    response = getattr(error, "response", None)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if isinstance(response, dict) else 0
    if name in _LASTING or (400 <= status < 500 and status != 429):
        cause: HoldCause = "credentials_expired" if name in _OUTLIVED else "no_credentials"
        lasting = AccountRefused("the sidecar's AWS credentials cannot be had", cause=cause, details=details)
        return closed(lasting, f"{error}: {_REMEDY}")
    found = ModelUnavailable("the source of the sidecar's AWS credentials did not answer", details=details)
    found.hold = "no_credentials"
    return closed(found, str(error))
