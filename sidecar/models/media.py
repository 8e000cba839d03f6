"""What binary content is by its first bytes, held against the format that a request names."""

# Signatures of formats: the first that fits names the content.
_SIGNATURES: tuple[tuple[str, bytes], ...] = (
    ("png", b"\x89PNG"),
    ("jpeg", b"\xff\xd8\xff"),
    ("gif", b"GIF8"),
    ("pdf", b"%PDF"),
    ("zip", b"PK\x03\x04"),
    ("ole", b"\xd0\xcf\x11\xe0"),
)
_IMAGES = frozenset({"png", "jpeg", "gif", "webp"})
# Office documents are containers: the newer ones ZIP, the older ones OLE. Some old ones are HTML or RTF inside.
_CONTAINERS = {"docx": ("zip",), "xlsx": ("zip",), "doc": ("ole", "zip"), "xls": ("ole", "zip")}
# A PDF may stand behind a few bytes of something else.
_PDF_WITHIN = 1024


def found_format(data: bytes) -> str | None:
    """The format that the first bytes say; None where they say none that is known."""
    for name, signature in _SIGNATURES:
        if data.startswith(signature):
            return name
    return "webp" if data[:4] == b"RIFF" and data[8:12] in (b"WEBP", b"") else None


def sample(declared: str) -> bytes:
    """Bytes that pass for this format, in place of content that is not at hand yet."""
    heads = dict(_SIGNATURES) | {"webp": b"RIFF"}
    return heads.get(declared) or heads.get(_CONTAINERS.get(declared, ("",))[0]) or b"."


def mismatch(declared: str, data: bytes) -> str | None:
    """Why `data` is not what `declared` says, with the remedy; None where it is, or where nobody can tell."""
    found = found_format(data)
    if found == declared or found in _CONTAINERS.get(declared, ()):
        return None
    if declared == "pdf" and b"%PDF" in data[:_PDF_WITHIN]:
        return None
    if found is not None:
        remedy = f": say format {found!r}" if found in _IMAGES and declared in _IMAGES else ""
        return f"holds {found}, not the {declared} that 'format' says{remedy}"
    if declared in _IMAGES or declared in ("pdf", "docx", "xlsx"):
        return f"does not begin as {declared} does: send the file's own bytes, base64, and its format"
    return None
