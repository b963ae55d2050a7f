"""Names from outside in pictures: what matplotlib would take for a formula, or for more than the picture holds."""


def caption(name: str, longest: int = 18) -> str:
    """A name as a picture can show it: on one line, short, and with dollar signs that begin no formula.

    Args:
        name: of a class, say; any text.
        longest: characters, 2 or more; what is left out is an ellipsis.
    """
    plain = "".join(c if c.isprintable() else " " for c in name)
    return (plain if len(plain) <= longest else f"{plain[: longest - 1]}…").replace("$", r"\$")
