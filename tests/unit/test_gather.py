"""Gathering: what is too large to be stored is a digest of its own, the same one however often it comes."""

import pytest

from agents import gather, plan, topics
from agents.catalogue import Catalogue
from agents.plan import Work
from agents.sending import Send
from schemas.base import encode
from schemas.notification import DIGEST, Notification
from tables import digests
from tests.journeys.memory import MemoryRows
from tests.journeys.samples import a_notification, a_template, an_origin

CATALOGUE = Catalogue([], [a_template(), a_template("{{ items[0].order.id }}", name="list")])
RULE = {"key": "shop", "window": 60_000, "flush_at": 9, "template": "list"}
CONTACT = {"email": "ada@example.com"}


def of_bytes(n: int, id: str) -> Notification:
    """A notification to be gathered that has so many bytes to be stored."""
    bare = len(encode({"id": id, "data": {"order": {"id": ""}}}))
    variables = {"order": {"id": "x" * (n - bare)}}
    return a_notification(id=id, variables=variables, digest=RULE, contact=CONTACT)


def planned(notification: Notification, rows: MemoryRows, number: int, mark: int = 0) -> list[Send]:
    return list(plan.plan(notification, an_origin(), Work(rows, number, mark, CATALOGUE)))


def digests_in(sends: list[Send]) -> list[Notification]:
    found = [plan.read(send.value) for send in sends if send.topic == topics.NOTIFICATIONS]
    return [one for one in found if isinstance(one, Notification)]


@pytest.mark.parametrize(("more", "goes"), [(0, False), (1, True)])
def test_only_what_is_larger_than_an_item_may_be_is_a_digest_of_its_own(more: int, goes: bool) -> None:
    rows, id = MemoryRows(), a_notification().id
    large = of_bytes(gather.MAX_ITEM_BYTES + more, id)
    found = digests_in(planned(large, rows, 1))
    assert [(one.step, one.template, one.variables) for one in found] == (
        [(DIGEST, "list", {"key": "shop", "count": 1, "items": [large.variables]})] if goes else []
    )
    assert bool(list(rows.scan(digests.ITEMS))) is not goes


def test_a_digest_of_one_comes_again_as_it_was_until_it_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = MemoryRows()
    large = of_bytes(gather.MAX_ITEM_BYTES + 1, a_notification().id)
    first = planned(large, rows, 1)
    monkeypatch.setattr(gather, "MAX_ITEM_BYTES", 2 * gather.MAX_ITEM_BYTES)  # another release may have it so
    kept = dict(rows)
    assert planned(large, rows, 2) == first
    assert planned(large, rows, 2, mark=1) == []
    assert rows == kept
    [digest] = digests_in(first)
    planned(digest, rows, 3)
    assert digests_in(planned(large, rows, 4)) == []
