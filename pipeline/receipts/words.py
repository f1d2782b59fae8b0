"""The words by which somebody who is sent messages stops them, or asks for them again."""

STOP = frozenset({"STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT"})
START = frozenset({"START", "UNSTOP"})
"""Those that carriers and vendors agree on. YES starts too with some of them, and says too much else."""


def wish(said: str) -> bool | None:
    """Whether a message stops (True) or starts (False); None where it says something else.

    The word has to be the whole message: who writes a sentence wants a person.
    """
    word = said.strip().rstrip(".!").upper()
    if word in STOP:
        return True
    return False if word in START else None
