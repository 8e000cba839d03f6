"""Secrets for the corpus: made by chance in the forms their issuers publish; none of them opens anything."""

import base64
import json
import random
import string
import zlib
from collections.abc import Callable

Maker = Callable[[random.Random], str]
ALNUM = string.ascii_letters + string.digits
URL = ALNUM + "-_"
HEX = "0123456789abcdef"
UPPER32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def some(rng: random.Random, alphabet: str, count: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(count))


def b64(rng: random.Random, count: int) -> str:
    return base64.b64encode(rng.randbytes(count)).decode()


def github(rng: random.Random) -> str:
    body, check = some(rng, ALNUM, 30), ""
    rest = zlib.crc32(body.encode())
    base62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
    while rest:
        rest, digit = divmod(rest, 62)
        check = base62[digit] + check
    return f"{rng.choice(('ghp', 'gho', 'ghs', 'ghu'))}_{body}{check.rjust(6, '0')}"


def jwt(rng: random.Random) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")

    head = {"alg": rng.choice(("HS256", "RS256", "ES256")), "typ": "JWT"}
    body = {"sub": some(rng, string.digits, 10), "iat": rng.randrange(1_600_000_000, 1_800_000_000)}
    return f"{part(head)}.{part(body)}.{some(rng, URL, 43)}"


def pem(rng: random.Random) -> str:
    name = rng.choice(
        ("RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY")
    )
    body = b64(rng, rng.randrange(120, 400))
    lines = "\n".join(body[i : i + 64] for i in range(0, len(body), 64))
    return f"-----BEGIN {name}-----\n{lines}\n-----END {name}-----"


def password(rng: random.Random) -> str:
    """As a manager makes it: four kinds of characters, nothing that ends a value in usual syntaxes."""
    while True:
        text = some(rng, ALNUM + "!*+-.^~", rng.randrange(12, 20))
        if (
            text[0].isalnum()
            and text[-1].isalnum()
            and sum(c.isdigit() for c in text) > 1
            and text.lower() != text
        ):
            return text


def password_sign(rng: random.Random) -> str:
    return rng.choice("$%{!#^*") + password(rng)


def words(rng: random.Random) -> str:
    parts = [
        "Winter",
        "Tiger",
        "Coffee",
        "Summer",
        "Dragon",
        "Castle",
        "Purple",
        "Monkey",
        "River",
        "Falcon",
        "Garden",
        "Rocket",
    ]
    return f"{rng.choice(parts)}{rng.choice(parts)}{rng.randrange(10, 9999)}{rng.choice('!?#*')}"


def basic(rng: random.Random) -> str:
    return base64.b64encode(f"svc-{some(rng, HEX, 4)}:{password(rng)}".encode()).decode()


KEYS: dict[str, Maker] = {
    "aws_id": lambda r: r.choice(("AKIA", "ASIA")) + some(r, UPPER32, 16),
    "google": lambda r: "AIza" + some(r, URL, 34) + r.choice(ALNUM),
    "google_oauth": lambda r: "GOCSPX-" + some(r, ALNUM, 28),
    "github": github,
    "github_fine": lambda r: f"github_pat_{some(r, ALNUM, 22)}_{some(r, ALNUM, 59)}",
    "gitlab": lambda r: "glpat-" + some(r, ALNUM, 20),
    "slack": lambda r: f"xoxb-{some(r, '123456789', 12)}-{some(r, '123456789', 12)}-{some(r, ALNUM, 24)}",
    "stripe": lambda r: r.choice(("sk_live_", "rk_live_", "sk_test_")) + some(r, ALNUM, 24),
    "openai": lambda r: f"sk-proj-{some(r, URL, 73)}aT3BlbkFJ{some(r, URL, 73)}b",
    "openai_old": lambda r: f"sk-{some(r, ALNUM, 20)}T3BlbkFJ{some(r, ALNUM, 20)}",
    "anthropic": lambda r: f"sk-ant-api03-{some(r, URL, 93)}AA",
    "bedrock": lambda r: (
        "ABSK" + base64.b64encode(f"BedrockAPIKey-{some(r, HEX, 4)}-at-".encode() + r.randbytes(72)).decode()
    ),
    "huggingface": lambda r: "hf_" + some(r, string.ascii_letters, 34),
    "npm": lambda r: "npm_" + some(r, ALNUM, 36),
    "pypi": lambda r: "pypi-AgEIcHlwaS5vcmc" + some(r, URL, 150) + "a",
    "sendgrid": lambda r: f"SG.{some(r, ALNUM, 22)}.{some(r, ALNUM, 43)}",
    "digitalocean": lambda r: "dop_v1_" + some(r, HEX, 64),
    "shopify": lambda r: "shpat_" + some(r, HEX, 32),
    "databricks": lambda r: "dapi" + some(r, HEX, 32),
    "telegram": lambda r: f"{r.randrange(10**9, 9 * 10**9)}:AA{some(r, ALNUM, 33)}",
    "vault": lambda r: "hvs." + some(r, ALNUM, 95),
    "linear": lambda r: "lin_api_" + some(r, ALNUM, 40),
    "grafana": lambda r: f"glsa_{some(r, ALNUM, 32)}_{some(r, HEX, 8)}",
    "newrelic": lambda r: "NRAK-" + some(r, string.ascii_uppercase + string.digits, 27),
    "postman": lambda r: f"PMAK-{some(r, HEX, 24)}-{some(r, HEX, 34)}",
    "groq": lambda r: "gsk_" + some(r, ALNUM, 52),
    "replicate": lambda r: "r8_" + some(r, ALNUM, 37),
    "doppler": lambda r: "dp.pt." + some(r, ALNUM, 43),
    "age": lambda r: "AGE-SECRET-KEY-1" + some(r, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58),
    "mailgun": lambda r: "key-" + some(r, HEX, 32),
    "twilio": lambda r: "SK" + some(r, HEX, 32),
    "atlassian": lambda r: "ATATT3xFfGF0" + some(r, URL, 170) + "=" + some(r, "0123456789ABCDEF", 8),
}


SECRETS: dict[str, tuple[str, Maker]] = {
    **{f"key_{name}": ("key", maker) for name, maker in KEYS.items()},
    "key": ("key", lambda r: KEYS[r.choice(sorted(KEYS))](r)),
    "jwt": ("jwt", jwt),
    "pem": ("private_key", pem),
    "password": ("password", password),
    "password_sign": ("password", password_sign),
    "password_words": ("password", words),
    "hexsecret": ("password", lambda r: some(r, HEX, r.choice((32, 40, 64)))),
    "aws_secret": ("password", lambda r: some(r, ALNUM + "+/", 40)),
    "azure_key": ("password", lambda r: b64(r, 64)),
    "urlpass": ("url_password", password),
    "authtoken": ("authorization", lambda r: some(r, URL, 40) + "a"),
    "basic": ("authorization", basic),
}

NOISE: dict[str, Maker] = {
    "int": lambda r: str(r.randrange(1, 99_999)),
    "n2": lambda r: str(r.randrange(10, 60)),
    "n4": lambda r: str(r.randrange(1000, 9999)),
    "n6": lambda r: str(r.randrange(10**5, 10**6)),
    "n8": lambda r: str(r.randrange(10**7, 10**8)),
    "n10": lambda r: str(r.randrange(10**9, 10**10)),
    "n12": lambda r: str(r.randrange(10**11, 10**12)),
    "n19": lambda r: str(r.randrange(10**18, 10**19)),
    "epoch": lambda r: str(r.randrange(1_500_000_000, 1_900_000_000)),
    "epochms": lambda r: str(r.randrange(1_500_000_000_000, 1_900_000_000_000)),
    "uuid": lambda r: "-".join(some(r, HEX, n) for n in (8, 4, 4, 4, 12)),
    "sha1": lambda r: some(r, HEX, 40),
    "sha256": lambda r: some(r, HEX, 64),
    "md5": lambda r: some(r, HEX, 32),
    "short": lambda r: some(r, HEX, 7),
    "hex8": lambda r: some(r, HEX, 8),
    "b64": lambda r: b64(r, r.randrange(20, 50)),
    "id5": lambda r: some(r, "bcdfghjklmnpqrstvwxz2456789", 5),
    "id10": lambda r: some(r, "bcdfghjklmnpqrstvwxz2456789", 10),
    "ulid": lambda r: "01" + some(r, "0123456789ABCDEFGHJKMNPQRSTVWXYZ", 24),
    "ver": lambda r: f"{r.randrange(20)}.{r.randrange(40)}.{r.randrange(30)}",
    "date": lambda r: f"{r.randrange(1990, 2030)}-{r.randrange(1, 13):02}-{r.randrange(1, 29):02}",
    "time": lambda r: f"{r.randrange(24):02}:{r.randrange(60):02}:{r.randrange(60):02}",
    "price": lambda r: f"{r.randrange(1, 99_999):,}.{r.randrange(100):02}",
    "lat": lambda r: f"{r.uniform(-90, 90):.6f}",
    "lon": lambda r: f"{r.uniform(-180, 180):.6f}",
    "user": lambda r: r.choice(
        ["deploy", "root", "ubuntu", "git", "admin", "ec2-user", "build", "ci", "postgres", "backup"]
    ),
    "host": lambda r: r.choice(
        ["web01", "db-2", "build-host", "bastion", "nas", "pi4", "gpu-node-7", "localhost", "jump", "vm3"]
    ),
    "name": lambda r: r.choice(
        ["orders", "billing", "auth", "gateway", "search", "cart", "ledger", "worker", "mailer", "indexer"]
    ),
    "pkg": lambda r: r.choice(
        ["requests", "numpy", "left-pad", "lodash", "serde", "tokio", "django", "react", "express", "rails", "zod"]
    ),
    "word": lambda r: r.choice(
        ["alpha", "main", "stable", "canary", "release", "hotfix", "staging", "feature", "nightly", "legacy"]
    ),
}
