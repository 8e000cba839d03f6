"""Operator, account and user JWTs as `nsc` would make them, for servers that authenticate by credentials files."""

import base64
import hashlib
import json
import secrets
import time
from pathlib import Path
from typing import Any

import nkeys


class Key:
    """An nkey pair of one kind: operator, account or user."""

    def __init__(self, kind: int) -> None:
        self.seed = nkeys.encode_seed(secrets.token_bytes(32), kind)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def sign(self, data: bytes) -> bytes:
        signature: bytes = self._pair.sign(data)
        return signature


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def encode(issuer: Key, subject: str, name: str, nats: dict[str, Any], *, lives_s: int | None = None) -> str:
    """A signed JWT of version 2."""
    now = int(time.time())
    claims: dict[str, Any] = {"iat": now, "iss": issuer.public, "name": name, "sub": subject, "nats": nats}
    if lives_s is not None:
        claims["exp"] = now + lives_s
    digest = hashlib.new("sha512_256", json.dumps(claims).encode()).digest()
    claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
    header = _base64(b'{"typ":"JWT","alg":"ed25519-nkey"}')
    signed = f"{header}.{_base64(json.dumps(claims).encode())}"
    return f"{signed}.{_base64(issuer.sign(signed.encode()))}"


class Operator:
    """One operator with one account; `config` is the server's part, `write_creds` makes users."""

    def __init__(self) -> None:
        self._account = Key(nkeys.PREFIX_BYTE_ACCOUNT)
        operator = Key(nkeys.PREFIX_BYTE_OPERATOR)
        limits = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1}
        jetstream = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        claims = {"type": "account", "version": 2}
        system = Key(nkeys.PREFIX_BYTE_ACCOUNT)
        accounts = "\n".join(
            f"{key.public}: {encode(operator, key.public, name, {**claims, 'limits': given})}"
            for key, name, given in ((self._account, "acme", limits | jetstream), (system, "SYS", limits))
        )
        own = encode(operator, operator.public, "op", {"type": "operator", "version": 2})
        self.config = (
            f"operator: {own}\nsystem_account: {system.public}\n"
            f"resolver: MEMORY\nresolver_preload: {{\n{accounts}\n}}\n"
        )

    def write_creds(self, path: Path, *, lives_s: int | None = None) -> None:
        """A credentials file of a new user, who may do anything within the account."""
        user = Key(nkeys.PREFIX_BYTE_USER)
        claims = {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        jwt = encode(self._account, user.public, "u", claims, lives_s=lives_s)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{bytes(user.seed).decode()}\n------END USER NKEY SEED------\n",
            "ascii",
        )
