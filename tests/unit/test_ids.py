"""Ids: the same for ever, of the shape of RFC 9562, and placed where Kafka's own partitioner would."""

import uuid

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import hash_in, masked, notification_id, packed, partition_of, target_id, user_hash

texts = st.text(st.characters(codec="utf-8"), max_size=40)

KNOWN = [
    ("u-1", "https://shop.example", "e-1", "order-confirmed", 0, "d24fdb77-1448-8c4e-bac4-c22078dfc79c"),
    ("u-1", "https://shop.example", "e-1", "order-confirmed", 1, "d24fdb77-870d-8eec-ab67-a00088e1c6ae"),
    ("1", "23", "4", "w", 0, "892e6f8f-e6aa-8d1e-ba69-99b7fd8bfd47"),
    ("12", "3", "4", "w", 0, "0783f046-62d8-8879-94d1-92a28321f5e7"),
    ("Zoë 🔔", "s", "e", "w", 0, "9a9ce1d7-0a45-8bfb-8859-5a6af65c8640"),
    ("", "a|b", "c", "", 0, "106e08d9-0841-83ae-9a39-9ca2bee6a43d"),
]

KAFKAS_OWN = {  # org.apache.kafka.common.utils.UtilsTest.testMurmur2
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


@pytest.mark.parametrize(("user", "source", "event", "workflow", "generation", "expected"), KNOWN)
def test_an_id_is_what_it_was_when_this_was_written(
    user: str, source: str, event: str, workflow: str, generation: int, expected: str
) -> None:
    assert notification_id(user, source, event, workflow, generation) == expected


@given(texts, texts, texts, texts)
def test_an_id_is_a_uuid_of_version_8(user: str, source: str, event: str, workflow: str) -> None:
    found = notification_id(user, source, event, workflow)
    parsed = uuid.UUID(found)
    assert str(parsed) == found
    assert parsed.version == 8
    assert parsed.variant == uuid.RFC_4122
    assert packed(found) == parsed.bytes


@given(texts, st.integers(1, 500))
def test_the_id_alone_tells_the_partition_that_kafka_gives_the_user(user: str, partitions: int) -> None:
    places = list(range(partitions))
    expected = DefaultPartitioner()(user.encode(), places, places)
    assert partition_of(hash_in(notification_id(user, "s", "e", "w")), partitions) == expected
    assert partition_of(user_hash(user), partitions) == expected


@pytest.mark.parametrize(("user", "expected"), KAFKAS_OWN.items())
def test_the_hash_is_the_one_of_kafkas_own_tests(user: str, expected: int) -> None:
    assert user_hash(user) == expected & 0xFFFFFFFF


@given(st.tuples(texts, texts, texts), st.tuples(texts, texts, texts))
def test_different_events_have_different_ids(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    same = notification_id(*one, "w") == notification_id(*other, "w")
    assert same == (one == other)


@given(
    st.text(max_size=40) | st.sampled_from(["d24fdb77-1448-8c4e-bac4-c22078dfc79c\n", "+24fdb77" + "-0" * 14])
)
def test_only_an_id_has_a_hash_in_it(text: str) -> None:
    with pytest.raises(ValueError, match="no notification id"):
        hash_in(text)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("ada@example.com", "a••@example.com"),
        ("+15550100", "+155•••00"),
        ("1234567", "•••"),
        ("", "•••"),
        ("https://hooks.example/T01/secret", "https://hooks.example/…"),
        ("https://user:password@hooks.example/x", "https://hooks.example/…"),
        ("http://hooks.example?token=secret", "http://hooks.example/…"),
        ("https://hooks.example#secret@evil", "https://hooks.example/…"),
        ("HTTPS://hooks.example/secret", "HTTPS://hooks.example/…"),
    ],
)
def test_an_address_is_shown_without_what_makes_it_one(address: str, shown: str) -> None:
    assert masked(address) == shown


@given(texts, texts)
def test_a_target_has_a_short_name_that_does_not_show_it(address: str, other: str) -> None:
    assert len(target_id(address)) == 12
    assert (target_id(address) == target_id(other)) == (address == other)
    assert target_id("ada@example.com") == "3f8429166df9"
