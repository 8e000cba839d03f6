"""How logs and messages quote what strangers chose: subjects, headers, names, keys, documents."""

LONGEST_SHOWN = 80


def shown(text: object, most: int = LONGEST_SHOWN) -> str:
    """`text` in printable ASCII on one line, its first `most` characters; what was cut is counted.

    A log line whose words a stranger chooses can neither break out of its line, nor steer a terminal, nor fill the
    disk.
    """
    whole = text if isinstance(text, str) else str(text)
    cut = whole[:most]
    plain = cut if cut.isascii() and cut.isprintable() else cut.encode("unicode_escape").decode("ascii")
    return plain if len(whole) <= most else f"{plain}… ({len(whole)} characters)"


def on_one_line(text: str, most: int) -> str:
    """The same for the product's own words, which may quote others' and are not all ASCII."""
    cut = text[:most]
    plain = cut if cut.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return plain if len(text) <= most else f"{plain}… ({len(text)} characters)"
