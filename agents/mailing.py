"""Mailing: what an e-mail carries beside its words; mandatory mail carries nothing.

Bulk mail has a way out and a postal address; where a category is tracked, its links tell of being followed.
"""

import re
from collections.abc import Iterator, Set
from html import escape, unescape
from itertools import islice
from typing import NamedTuple

from agents.links import MOST_URL, Links, Subject
from schemas.ids import target_id
from schemas.kinds import Priority
from schemas.message import ChannelContent
from schemas.notification import Notification

MOST_LINKS = 200
"""Of one message; the others stay as they are."""


class Mailing(NamedTuple):
    """What whoever runs core has set. Without `links` (no web.public_url) mail carries nothing.

    What is of low priority is bulk, and so is everything of the categories `bulk`; nothing of `personal`.
    """

    links: Links | None = None
    postal_address: str = ""
    bulk: Set[str] = frozenset()
    personal: Set[str] = frozenset()
    tracked: Set[str] = frozenset()


PLAIN = Mailing()
"""Nothing but the words."""


class Dressed(NamedTuple):
    """The words as they are sent, and where to unsubscribe."""

    words: ChannelContent
    unsubscribe: str | None


def is_bulk(notification: Notification, mailing: Mailing) -> bool:
    """Whether a mail is one of many, that its reader may do without."""
    category = notification.category
    if notification.mandatory or category in mailing.personal:
        return False
    return notification.priority is Priority.LOW or category in mailing.bulk


def dress(words: ChannelContent, notification: Notification, target: str, mailing: Mailing) -> Dressed:
    """The words with what they are to carry; the same ones every time."""
    links = mailing.links
    bulk = is_bulk(notification, mailing)
    tracked = notification.category in mailing.tracked and not notification.mandatory
    if links is None or not (bulk or tracked):
        return Dressed(words, None)
    n = notification
    subject = Subject(n.id, n.user_id, target_id(target), n.step, n.category)
    text, html = words.text, words.html
    if html is not None and tracked:
        html = _at_the_end(followed(html, links, subject), _image(links.opened(subject)))
    if not bulk:
        return Dressed(ChannelContent(subject=words.subject, text=text, html=html), None)
    out = links.unsubscribe(subject)
    text = f"{text.rstrip()}\n\n-- \n" + "".join(
        f"{line}\n" for line in (mailing.postal_address, out) if line
    )
    if html is not None:
        html = _at_the_end(html, _footer(mailing.postal_address, out))
    return Dressed(ChannelContent(subject=words.subject, text=text, html=html), out)


def _image(url: str) -> str:
    return f'<img src="{escape(url)}" width="1" height="1" alt="" style="border:0">'


def _footer(address: str, out: str) -> str:
    lines = [escape(line) for line in address.splitlines() if line.strip()]
    lines.append(f'<a href="{escape(out)}" style="color:inherit">Unsubscribe</a>')
    return f'<p style="margin:24px 0 0;font:12px/1.5 sans-serif;color:#667">{"<br>".join(lines)}</p>'


_END = re.compile(r"</body\s*>", re.IGNORECASE)


def _at_the_end(html: str, more: str) -> str:
    """Before the end of the body, the last one that is written."""
    at = max((found.start() for found in _END.finditer(html)), default=len(html))
    return html[:at] + more + html[at:]


# -- links that tell of being followed

MOST_VALUE = 8_000
_NAME = r"[^\s/>=\"'<]++"
_VALUE = rf"\"[^\"]{{0,{MOST_VALUE}}}+\"|'[^']{{0,{MOST_VALUE}}}+'|[^\s>\"'=<`]++"
_ATTRIBUTE = re.compile(rf"({_NAME})(?:\s*+=\s*+({_VALUE}))?+")
_TAG = re.compile(rf"<([A-Za-z][A-Za-z0-9:-]*+)(?:[\s/]++{_NAME}(?:\s*+=\s*+(?:{_VALUE}))?+)*+[\s/]*+>")
_other = re.compile(r"<!--.*?-->|<[/!?][^>]*>", re.DOTALL).match
_starts_tag = re.compile(r"<[A-Za-z/!?]").match
_RAW = ("script", "style", "textarea", "title", "iframe", "noembed", "noframes", "xmp")
_raw_ends = {name: re.compile(f"</{name}", re.IGNORECASE | re.ASCII).search for name in _RAW}
"""What stands in these is no markup."""


def _anchors(html: str) -> Iterator[re.Match[str]]:
    """The tags of links, up to the first tag that readers would mend, each in its own way: from there on
    nobody can tell what is a tag. (Possessive and bounded: a page costs no more than its length.)"""
    at = html.find("<")
    while at >= 0:
        found = _TAG.match(html, at) or _other(html, at)
        if found is None:
            if _starts_tag(html, at):
                return
            end = at + 1
        else:
            end = found.end()
            name = (found[1] if found.re is _TAG else "").lower()
            if name in ("a", "area"):
                yield found
            elif name in _raw_ends:
                close = _raw_ends[name](html, end)
                if close is None:
                    return
                end = close.start()
        at = html.find("<", end)


def followed(html: str, links: Links, subject: Subject) -> str:
    """The page with its links led over us; all else stays as it was written, byte by byte."""
    parts, end = [], 0
    for start, stop, url in _hrefs(html):
        parts += [html[end:start], f'"{escape(links.clicked(subject, url))}"']
        end = stop
    return "".join([*parts, html[end:]])


def _hrefs(html: str) -> Iterator[tuple[int, int, str]]:
    """Where the values of hrefs stand, quotes included, and the URLs that they mean: http and https alone."""
    for tag in islice(_anchors(html), MOST_LINKS):
        attributes = _ATTRIBUTE.finditer(html, tag.end(1), tag.end())
        href = next((found for found in attributes if found[1].lower() == "href"), None)
        if href is None or href[2] is None:
            continue
        url = unescape(href[2][1:-1] if href[2][0] in "\"'" else href[2]).strip()
        if url.lower().startswith(("http://", "https://")) and len(url) <= MOST_URL and url.isprintable():
            yield href.start(2), href.end(2), url
