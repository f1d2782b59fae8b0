"""The secret that signs links: the setting, else one that is made once and kept beside the state."""

import os
import secrets
from pathlib import Path

from agents.links import Links
from agents.mailing import Mailing
from pipeline.settings import Settings, SettingsError
from schemas.kinds import Channel

FILE = "link-secret"
LEAST = 32
"""Characters of a secret that is kept: with a shorter one anybody could make links."""


def links(settings: Settings) -> Links | None:
    """What makes and reads links; None where nobody could follow them, as web.public_url is not set.

    Raises SettingsError where no secret can be kept.
    """
    base = settings.web.public_url.rstrip("/")
    return Links(base, link_secret(settings)) if base else None


def link_secret(settings: Settings) -> str:
    """The secret. One that is made here is good for the links of this machine alone. Raises SettingsError."""
    if settings.web.link_secret is not None:
        return settings.web.link_secret.get_secret_value()
    file = Path(settings.state_dir) / FILE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        made = file.with_name(f"{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
        if not file.exists():
            try:
                _write(made, secrets.token_urlsafe(32))
                os.link(made, file)  # whole or not at all, and the first one stays
            except FileExistsError:
                pass
            finally:
                made.unlink(missing_ok=True)
        found = file.read_text(encoding="ascii")
    except (OSError, UnicodeError) as error:
        raise SettingsError(
            f"web.link_secret: none is set, and none can be kept in {file}: {error}"
        ) from None
    if len(found.strip()) < LEAST:
        raise SettingsError(f"web.link_secret: none is set, and {file} holds none: it is empty or too short")
    return found


def _write(file: Path, text: str) -> None:
    """Writes a file that is on disk when this returns, for its owner alone. Raises OSError."""
    file.touch(mode=0o600, exist_ok=False)
    with file.open("w", encoding="ascii") as written:
        written.write(text)
        written.flush()
        os.fsync(written.fileno())


def mailing(settings: Settings) -> Mailing:
    """What e-mails carry, as it is set."""
    categories = settings.categories.items()
    email = settings.channels.get(Channel.EMAIL)
    return Mailing(
        links(settings),
        email.postal_address.strip() if email is not None else "",
        frozenset(name for name, category in categories if category.bulk is True),
        frozenset(name for name, category in categories if category.bulk is False),
        frozenset(name for name, category in categories if category.track),
    )
