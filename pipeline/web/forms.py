"""Forms as our pages send them: taken only where they carry the token of their session."""

from urllib.parse import parse_qs

from starlette.requests import Request

from pipeline.web.session import Sessions

MOST_FIELDS = 20


class Unasked(Exception):
    """A form that is not of this session, or too old; the message says which."""


class Form:
    """What a form of ours came with: one text a field."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """A field without the blanks around it; empty where there is none."""
        return self._fields.get(name, [""])[0].strip()


async def form(request: Request, sessions: Sessions) -> Form:
    """What was sent. Raises Unasked where it is not a form that this session was shown."""
    try:
        fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Unasked("it has too many fields") from None
    found = Form(fields)
    if not sessions.is_form_token(session_of(request, sessions), found.text("form_token")):
        raise Unasked("it is not of this session")
    return found


def session_of(request: Request, sessions: Sessions) -> str:
    """The session that a request is of; empty for those who bring the token itself."""
    return request.cookies.get(sessions.cookie, "")
