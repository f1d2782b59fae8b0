"""What the simulated vendors of e-mail have in common: which addresses are none, and which tell what."""

import fnmatch
import re
from collections.abc import Sequence
from typing import Any

from pipeline.simulator.vendor import BOUNCED, COMPLAINED, DELIVERED, FAILED, Rule

WORDS = 80
INVALID = "invalid@*"
"""Addresses that are refused though they look like some."""
_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")


def is_address(text: Any, *, ascii_only: bool = False) -> bool:
    """Whether it has the form of one plain address."""
    if not isinstance(text, str) or len(text) > 320 or not _ADDRESS.fullmatch(text):
        return False
    return text.isascii() or not ascii_only


def bare(written: Any) -> str:
    """The address of `Name <address>`; "" for what is no text."""
    if not isinstance(written, str):
        return ""
    return written.rpartition("<")[2].removesuffix(">") if written.endswith(">") else written


def is_refused(address: str) -> bool:
    """Whether a rule refuses it."""
    return fnmatch.fnmatchcase(address.lower(), INVALID)


def rules(refused: str) -> Sequence[Rule]:
    """By address; `refused` is the code of one that is none."""
    return (
        Rule(INVALID, refused, says="not an address, they say"),
        Rule("bounce@*", "", (BOUNCED,), says="taken, then bounces for good"),
        Rule("complaint@*", "", (DELIVERED, COMPLAINED), says="delivered, then reported as spam"),
        Rule("drop@*", "", (FAILED,), says="taken, then never sent on"),
        Rule("silent@*", "", (), says="taken, and nothing more is told"),
        Rule("twice@*", "", (DELIVERED, DELIVERED), says="its receipt comes twice"),
        Rule("slow@*", "latency=3", says="answers after 3 s"),
        Rule("busy@*", "throttled", says="429"),
        Rule("broken@*", "server_error", says="500"),
        Rule("lost@*", "reset_after_body", says="takes it and resets the connection"),
        Rule("hang@*", "hang", says="takes it and never answers"),
    )
