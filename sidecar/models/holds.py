"""Why calls are held, in words: for clients, for the log, for `doctor` and the dashboard."""

from collections.abc import Mapping

from sidecar.errors import HoldCause

# For tenants: whose trouble it is, and nothing about accounts.
SAID: Mapping[str, str] = {
    "no_credentials": "the sidecar has no AWS credentials",
    "credentials_expired": "the sidecar's AWS credentials have expired",
    "credentials_invalid": "AWS does not take the sidecar's credentials",
    "signature_refused": "AWS refuses the sidecar's signature",
    "clock_skewed": "AWS refuses the time of the sidecar's signature",
    "unreachable": "Bedrock cannot be reached",
    "model_unavailable": "every model that the job may use has failed lately",
}
# For operators.
REMEDIES: Mapping[str, str] = {
    "no_credentials": "give some: AWS_BEARER_TOKEN_BEDROCK, AWS_ACCESS_KEY_ID, a profile, or a role of the pod",
    "credentials_expired": "renew them (aws sso login, a new session or API key): a changed file is noticed",
    "credentials_invalid": "check that the access key exists and is active, and that its secret and session token"
    " belong to it",
    "signature_refused": "check the secret access key, the region, and that no proxy changes requests",
    "clock_skewed": "set this machine's clock right (NTP): AWS takes five minutes of difference",
    "unreachable": "check DNS, routes, proxy and firewall to the endpoint (443), and bedrock.endpoint_url",
    "model_unavailable": "see AWS Health for the region; another region or model in the chain helps",
}


def said_of(cause: str) -> str:
    """A cause in words, also one of a newer version."""
    return SAID.get(cause, "no model can be called")


def remedy_of(cause: HoldCause | str) -> str:
    """What an operator does about it."""
    return REMEDIES.get(cause, "see the log")
