"""Bytes from NATS, taken for what the server meant: shared by the sidecar's adapter and the client library.

Strangers choose subjects, reply subjects, headers and payloads, and the server passes nearly every byte. So the
parser separates as the protocol does, each message is checked against the subscription that it came for, and
reply subjects cannot be guessed. `docs/decisions/strict-wire.md` says against what.
"""
