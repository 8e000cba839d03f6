"""The published forms of providers' keys and tokens. Data.

A form's triggers are looked for first: substrings without which its pattern cannot match.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

_WORD = re.compile(r"[A-Za-z0-9_\-]+")
_ALNUM = re.compile(r"[A-Za-z0-9]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/=]+")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/=\-]+")
# What a private key is made of: base64, white space (also written as \n), and the headers of encrypted ones.
_PEM_BODY = re.compile(r"(?:[A-Za-z0-9+/=\s\\:,.]+|-(?!----END))")


class Form(NamedTuple):
    """`pattern`'s group 1, where it has one, is the secret itself; `is_it` has the last word."""

    kind: str
    triggers: tuple[str, ...]
    pattern: "re.Pattern[str]"
    tail: "re.Pattern[str] | None" = None
    is_it: Callable[[str], bool] | None = None


def _is_mixed(value: str) -> bool:
    """Digits and letters of both cases or many digits: a key, as against words joined by hyphens."""
    if value.startswith(("sk-proj-", "sk-svcacct-", "sk-admin-")):
        return True
    digits = sum(c.isdigit() for c in value)
    return digits >= 2 and (any(c.isupper() for c in value) or digits >= 6)


def _form(
    kind: str,
    triggers: str,
    pattern: str,
    tail: "re.Pattern[str] | None" = None,
    is_it: Callable[[str], bool] | None = None,
) -> Form:
    return Form(kind, tuple(triggers.split()), re.compile(pattern), tail, is_it)


_START = r"(?<![A-Za-z0-9_])"
_END = r"(?![A-Za-z0-9])"

FORMS: tuple[Form, ...] = (
    _form(
        "private_key",
        "-----BEGIN",
        (
            r"-----BEGIN[ A-Z0-9]{0,30} PRIVATE KEY(?: BLOCK)?-----"
            r"(?:(?:\s|\\[nr]){0,8}(?:[A-Z][A-Za-z\-]{2,20}: [^\n\\]{1,80}(?:\s|\\[nr]){1,8}){0,4}"
            r"[A-Za-z0-9+/=]{16,64}|(?:\r?\n|\\n|\\r\\n)[A-Za-z0-9+/=]{4,64})"
        ),
        _PEM_BODY,
    ),
    _form(
        "private_key", "-----END", (r"(?<=[A-Za-z0-9+/=\sn])-----END[ A-Z0-9]{0,30} PRIVATE KEY(?: BLOCK)?-----")
    ),
    _form("aws_access_key", "AKIA ASIA ABIA ACCA", rf"{_START}(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{{16}}{_END}"),
    _form(
        "aws_secret_key",
        "ecret ECRET",
        (
            r"(?i:aws[^\n=:]{0,20}secret[^\n=:]{0,20}|secret_?access_?key)[\"'`]?\s{0,3}(?:=>|:=|=|:)\s{0,3}[\"'`]?"
            r"([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
        ),
    ),
    _form(
        "aws_bedrock_key",
        "ABSK bedrock-api-key-",
        rf"{_START}(?:ABSK[A-Za-z0-9+/]{{60,255}}={{0,2}}|bedrock-api-key-[A-Za-z0-9+/=]{{20,255}})",
        _BASE64,
    ),
    _form("gcp_api_key", "AIza", rf"{_START}AIza[A-Za-z0-9_\-]{{35}}(?![A-Za-z0-9_\-])"),
    _form(
        "gcp_oauth",
        "ya29. GOCSPX- 1//0",
        (
            rf"{_START}(?:ya29\.[A-Za-z0-9_\-]{{20,255}}|GOCSPX-[A-Za-z0-9_\-]{{20,40}}|1//0[A-Za-z0-9_\-]{{30,255}})"
        ),
        _WORD,
    ),
    _form(
        "azure_key",
        "AccountKey= SharedAccessKey= sharedaccesskey= accountkey=",
        r"(?i:accountkey|sharedaccesskey)=([A-Za-z0-9+/]{40,100}={0,2})",
    ),
    _form("azure_sas", "sig=", r"[?&;]sig=([A-Za-z0-9%+/]{40,120}(?:%3[Dd]|=)?)"),
    _form("azure_secret", "Q~", r"(?<![A-Za-z0-9_~.\-])[A-Za-z0-9_~.\-]{3}[0-9]Q~[A-Za-z0-9_~.\-]{31,34}"),
    _form(
        "github_token",
        "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
        rf"{_START}(?:gh[pousr]_[A-Za-z0-9]{{30,255}}|github_pat_[A-Za-z0-9_]{{22,255}})",
        _WORD,
    ),
    _form(
        "gitlab_token",
        "glpat- gldt- glrt- glcbt- glptt- glft- glsoat-",
        rf"{_START}gl(?:pat|dt|rt|cbt|ptt|ft|soat)-[A-Za-z0-9_\-]{{20,255}}",
        _WORD,
    ),
    _form(
        "slack_token",
        "xox xapp- xoxe.",
        (rf"{_START}(?:xox[abposre](?:\.xox[bp])?-[A-Za-z0-9\-]{{10,255}}|xapp-\d-[A-Za-z0-9\-]{{10,255}})"),
        _WORD,
        lambda value: any(c.isdigit() for c in value),
    ),
    _form(
        "slack_webhook",
        "hooks.slack.com",
        r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9]{5,20}/[A-Za-z0-9]{5,20}/[A-Za-z0-9]{10,80}",
    ),
    _form(
        "discord_webhook", "/api/webhooks/", r"discord(?:app)?\.com/api/webhooks/\d{15,21}/[A-Za-z0-9_\-]{40,100}"
    ),
    _form(
        "discord_token",
        ".",
        (
            r"[MNO](?<![A-Za-z0-9_].)[A-Za-z0-9_\-]{23,27}\.[A-Za-z0-9_\-]{6}\.[A-Za-z0-9_\-]{27,45}(?![A-Za-z0-9_\-])"
        ),
        None,
        _is_mixed,
    ),
    _form(
        "stripe_key",
        "k_live_ k_test_ whsec_",
        rf"{_START}(?:(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{{10,255}}|whsec_[A-Za-z0-9+/=]{{24,255}})",
        _ALNUM,
    ),
    _form("anthropic_key", "sk-ant-", rf"{_START}sk-ant-[A-Za-z0-9_\-]{{16,255}}", _WORD),
    _form("openai_key", "sk-", rf"{_START}sk-(?!ant-)[A-Za-z0-9_\-]{{20,255}}", _WORD, _is_mixed),
    _form(
        "llm_key",
        "hf_ gsk_ xai- pplx- r8_ nvapi- AIzaSy tgp_v1_ fw_ csk-",
        (
            rf"{_START}(?:hf_[A-Za-z0-9]{{30,255}}|gsk_[A-Za-z0-9]{{40,255}}|(?:xai|pplx|csk)-[A-Za-z0-9]{{40,255}}"
            rf"|r8_[A-Za-z0-9]{{36,40}}|nvapi-[A-Za-z0-9_\-]{{40,255}}|tgp_v1_[A-Za-z0-9_\-]{{40,255}})"
        ),
        _WORD,
    ),
    _form("npm_token", "npm_", rf"{_START}npm_[A-Za-z0-9]{{36}}{_END}"),
    _form("pypi_token", "pypi-AgE", rf"{_START}pypi-AgE[A-Za-z0-9_\-]{{40,255}}", _WORD),
    _form("crates_token", "cio", rf"{_START}cio[A-Za-z0-9]{{32}}{_END}", None, _is_mixed),
    _form("docker_token", "dckr_", rf"{_START}dckr_(?:pat|oat)_[A-Za-z0-9_\-]{{20,255}}", _WORD),
    _form("sendgrid_key", "SG.", rf"{_START}SG\.[A-Za-z0-9_\-]{{16,32}}\.[A-Za-z0-9_\-]{{32,64}}"),
    _form("twilio_key", "SK", rf"{_START}SK[0-9a-f]{{32}}{_END}"),
    _form("mailgun_key", "key-", rf"{_START}key-[0-9a-f]{{32}}{_END}"),
    _form("mailchimp_key", "-us", rf"{_START}[0-9a-f]{{32}}-us[0-9]{{1,2}}{_END}"),
    _form("digitalocean_token", "_v1_", rf"{_START}do[opr]_v1_[0-9a-f]{{64}}{_END}"),
    _form("databricks_token", "dapi", rf"{_START}dapi[0-9a-f]{{32}}(?:-\d)?{_END}"),
    _form("shopify_token", "shpat_ shpca_ shppa_ shpss_", rf"{_START}shp(?:at|ca|pa|ss)_[0-9a-fA-F]{{32}}{_END}"),
    _form(
        "square_token", "sq0 EAAA", rf"{_START}(?:sq0[a-z]{{3}}-[A-Za-z0-9_\-]{{22,43}}|EAAA[A-Za-z0-9_\-]{{60}})"
    ),
    _form("telegram_token", ":AA", rf"{_START}\d{{8,10}}:AA[A-Za-z0-9_\-]{{33}}(?![A-Za-z0-9_\-])"),
    _form("vault_token", "hvs. hvb. hvr.", rf"{_START}hv[sbr]\.[A-Za-z0-9_\-]{{20,255}}", _WORD),
    _form(
        "grafana_token",
        "glsa_ glc_",
        rf"{_START}(?:glsa_[A-Za-z0-9]{{32}}_[0-9a-fA-F]{{8}}|glc_[A-Za-z0-9+/]{{32,255}})",
        _BASE64,
    ),
    _form("atlassian_token", "ATATT3 ATCTT3", rf"{_START}AT[AC]TT3[A-Za-z0-9_\-=]{{20,255}}", _TOKEN68),
    _form(
        "terraform_token", ".atlasv1.", rf"{_START}[A-Za-z0-9]{{14}}\.atlasv1\.[A-Za-z0-9_\-=]{{40,255}}", _WORD
    ),
    _form(
        "service_token",
        "lin_api_ ntn_ secret_ PMAK- NRAK- sntrys_ sbp_ rubygems_ doppler_ dp.pt. fo1_ figd_",
        (
            rf"{_START}(?:lin_api_[A-Za-z0-9]{{32,64}}|ntn_[A-Za-z0-9]{{40,60}}|secret_[A-Za-z0-9]{{43}}"
            rf"|PMAK-[0-9a-f]{{24}}-[0-9a-f]{{34}}|NRAK-[A-Z0-9]{{27}}|sntrys_[A-Za-z0-9+/=_]{{40,255}}|sbp_[0-9a-f]{{40}}"
            rf"|rubygems_[0-9a-f]{{48}}|dp\.pt\.[A-Za-z0-9]{{40,44}}|fo1_[A-Za-z0-9_\-]{{43}}|figd_[A-Za-z0-9_\-]{{40}})"
        ),
        _WORD,
    ),
    _form("age_key", "AGE-SECRET-KEY-1", rf"{_START}AGE-SECRET-KEY-1[0-9A-Z]{{58}}{_END}"),
    _form(
        "jwt",
        "eyJ",
        (rf"{_START}eyJ[A-Za-z0-9_\-]{{8,280}}\.(?:eyJ|[A-Za-z0-9_\-]{{0,3}})[A-Za-z0-9_\-]{{4,64}}"),
        re.compile(r"[A-Za-z0-9_.\-]+"),
    ),
    _form(
        "url_password",
        "://",
        (r"[A-Za-z][A-Za-z0-9+.\-]{1,20}://[^\s:/@?#\"'<>]{0,64}:([^\s/@\"'<>]{3,128})@(?=[A-Za-z0-9\[])"),
        None,
        lambda value: not re.fullmatch(r"[<${\[(%].*|\*+|x+|\.+|pass(?:word)?", value, re.IGNORECASE),
    ),
    _form(
        "bearer_token",
        "earer BEARER",
        (r"(?i:bearer)[\"']?[ \t:=]{1,3}[\"']?([A-Za-z0-9._~+/\-]{20,255}={0,2})"),
        _TOKEN68,
        lambda value: any(c.isdigit() for c in value),
    ),
    _form(
        "basic_auth",
        "asic BASIC",
        r"(?i:basic)[ \t]{1,3}([A-Za-z0-9+/]{12,255}={0,2})(?![A-Za-z0-9+/=.])",
        _BASE64,
        lambda value: value.endswith("=") or _is_mixed(value),
    ),
)
