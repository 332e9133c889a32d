"""Text that others wrote, made fit for a terminal, an XML file and a page: messages, paths, names of taps."""

MOST = 1000  # characters of one text; a message may hold a whole array


def printable(text: str, most: int = MOST) -> str:
    r"""The same text on one line: control characters, lone surrogates and line breaks become escapes; cut if too long.

    >>> printable("red: \x1b[31m\n")
    'red: \\x1b[31m\\n'
    """
    shown = text if len(text) <= most else f"{text[:most]}… ({len(text) - most} characters more)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
