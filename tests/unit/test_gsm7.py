"""SMS: what is in its alphabet, and how many messages a text takes."""

import pytest

from pipeline.providers.gsm7 import BASIC, EXTENDED, messages, septets


def test_the_alphabet_is_as_large_as_seven_bits_allow() -> None:
    assert len(BASIC) == 127  # and the escape
    assert len(EXTENDED) == 10
    assert not BASIC & EXTENDED


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("Hello @ 5£", 10), ("a€b", 4), ("[x]\n", 6), ("ç", None), ("Hi 👋", None), ("a\tb", None)],
)
def test_a_text_takes_septets_or_is_not_in_the_alphabet(text: str, count: int | None) -> None:
    assert septets(text) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("я" * 70, 1),
        ("я" * 71, 2),
        ("👋" * 35, 1),
        ("👋" * 36, 2),
    ],
)
def test_a_long_text_takes_several_messages(text: str, count: int) -> None:
    assert messages(text) == count
