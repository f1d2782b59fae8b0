"""Locales: the chain in which words are looked for, and the formats that go with them."""

import re
from functools import lru_cache

_TAG = re.compile(r"([A-Za-z]{2,3})(?:[-_]([A-Za-z]{4}))?(?:[-_]([A-Za-z]{2}|[0-9]{3}))?(?:[-_.@].{0,40})?")


@lru_cache(maxsize=4_096)
def chain(locale: str) -> tuple[str, ...]:
    """A locale and those that stand in for it, nearest first: pt-BR, pt. Empty for what is no locale.

    Underscores, any case, and the variants, encodings and extensions that may follow are understood.
    """
    found = _TAG.fullmatch(locale) if len(locale) <= 60 else None
    if found is None:
        return ()
    language, script, region = found.groups()
    tags = [language.lower()]
    if script:
        tags.append(f"{tags[-1]}-{script.title()}")
    if region:
        tags.append(f"{tags[-1]}-{region.upper()}")
    return tuple(reversed(tags))


def written_in(words: str, asked: str | None) -> str:
    """The locale whose formats go with words of a locale.

    It is the one that was asked for where it is a kind of theirs (words in pt, asked for pt-BR), else
    theirs: an English text has no German dates in it.
    """
    known = chain(asked)[:1] if asked else ()
    if known and (known[0] == words or known[0].startswith(words + "-")):
        return known[0]
    return words
