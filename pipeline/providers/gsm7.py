"""The alphabet of SMS (3GPP TS 23.038, 6.2.1), and how many messages a text takes."""

BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
"""One septet each."""
EXTENDED = frozenset("\f^{}\\[~]|€")
"""Two septets each."""
SEPTETS, SEPTETS_EACH = 160, 153
UNITS, UNITS_EACH = 70, 67
"""In one message, and in each of several (a header takes six bytes)."""


def septets(text: str) -> int | None:
    """How many septets a text takes; None if a character of it is not in the alphabet."""
    count = 0
    for character in text:
        if character in BASIC:
            count += 1
        elif character in EXTENDED:
            count += 2
        else:
            return None
    return count


def messages(text: str) -> int:
    """How many messages a text takes at the least: in the alphabet if it can, else in UTF-16."""
    count, whole, each = septets(text), SEPTETS, SEPTETS_EACH
    if count is None:
        count, whole, each = len(text.encode("utf-16-le")) // 2, UNITS, UNITS_EACH
    return 1 if count <= whole else -(-count // each)
