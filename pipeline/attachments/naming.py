"""What a file is called and what it is, as an upload says it in its headers; nothing doubtful is taken.

Nothing is mended either: a name that was changed on the way would be another than the one that was sent.
"""

import re
from urllib.parse import unquote_to_bytes

from schemas.event import is_printable

NAME_BYTES = 240
TYPE_CHARACTERS = 120
DEFAULT_TYPE = "application/octet-stream"

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_QUOTED = r'"(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*"'
_PARAMETER = re.compile(rf"\s*;\s*({_WORD})\s*=\s*({_WORD}|{_QUOTED})\s*")
_HEAD = re.compile(rf"\s*({_WORD}(?:/{_WORD})?)\s*")
_MEDIA_TYPE = re.compile(rf"{_WORD}/{_WORD}")
_EXTENDED = re.compile(r"([A-Za-z0-9-]+)'([A-Za-z0-9-]*)'((?:[A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-Fa-f]{2})*)")
_COMPOSITE = ("multipart/", "message/")


class Unfit(ValueError):
    """What cannot be taken; `field` is to blame, the message says why without repeating it."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field


def content_type(header: str) -> str:
    """A media type, with its charset alone of the parameters. Raises Unfit."""
    if not header.strip():
        return DEFAULT_TYPE
    kind, parameters = _read(header, "content_type")
    if len(header) > TYPE_CHARACTERS or not _MEDIA_TYPE.fullmatch(kind):
        raise Unfit("content_type", "not a media type")
    kind = kind.lower()
    if kind.startswith(_COMPOSITE):
        raise Unfit("content_type", "send the file itself: what holds other parts cannot be attached")
    charset = parameters.get("charset")
    if charset is None:
        return kind
    if not re.fullmatch(_WORD, charset):
        raise Unfit("content_type", "its charset is no name of one")
    return f"{kind}; charset={charset.lower()}"


def file_name(header: str) -> str:
    """The name that a Content-Disposition gives (RFC 6266; `filename*` comes first). Raises Unfit."""
    if not header.strip():
        raise Unfit("name", 'say Content-Disposition: attachment; filename="…"')
    _, parameters = _read(header, "name")
    extended = parameters.get("filename*")
    if extended is not None:
        return fit_name(_decoded(extended))
    name = parameters.get("filename")
    if name is None:
        raise Unfit("name", "Content-Disposition has no filename")
    try:
        return fit_name(name.encode("latin-1").decode("utf-8"))
    except UnicodeError:
        raise Unfit("name", "what is not ASCII goes as filename*=UTF-8''…") from None


def fit_name(name: str) -> str:
    """The name of a file, without a path. Raises Unfit."""
    if not name or name != name.strip():
        raise Unfit("name", "is empty, or begins or ends with a blank")
    if name in (".", ".."):
        raise Unfit("name", "is no name of a file")
    if "/" in name or "\\" in name:
        raise Unfit("name", "is a path; give the name alone")
    if not is_printable(name):
        raise Unfit("name", "holds a control character")
    if len(name.encode()) > NAME_BYTES:
        raise Unfit("name", f"has more than {NAME_BYTES} bytes")
    return name


def _read(header: str, field: str) -> tuple[str, dict[str, str]]:
    """The head of a header, and its parameters without quotes. Raises Unfit where one stands twice."""
    head = _HEAD.match(header)
    if head is None:
        raise Unfit(field, "cannot be read")
    found: dict[str, str] = {}
    at = head.end()
    while at < len(header):
        parameter = _PARAMETER.match(header, at)
        if parameter is None:
            raise Unfit(field, "cannot be read")
        name, value = parameter[1].lower(), parameter[2]
        if name in found:
            raise Unfit(field, "says something twice")
        found[name] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        at = parameter.end()
    return head[1], found


def _decoded(value: str) -> str:
    """A value with its charset before it (RFC 8187, which is RFC 2231 for HTTP). Raises Unfit."""
    found = _EXTENDED.fullmatch(value)
    if found is None or found[1].lower() != "utf-8":
        raise Unfit("name", "filename* is not of the form UTF-8''…")
    try:
        return unquote_to_bytes(found[3]).decode("utf-8")
    except UnicodeDecodeError:
        raise Unfit("name", "filename* is not UTF-8") from None
