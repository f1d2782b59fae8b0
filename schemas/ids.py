"""Identity: the same input gives the same id, for ever."""

import re
from functools import lru_cache
from hashlib import blake2b
from typing import NewType

from aiokafka.partitioner import murmur2

UserId = NewType("UserId", str)
NotificationId = NewType("NotificationId", str)


@lru_cache(maxsize=16_384)
def user_hash(user_id: str) -> int:
    """The 32 bits of murmur2 by which Kafka's default partitioner places the user."""
    return int(murmur2(user_id.encode())) & 0xFFFFFFFF


def partition_of(hashed: int, partitions: int) -> int:
    """The partition of a user hash, as Kafka's default partitioner has it (its sign bit dropped)."""
    return (hashed & 0x7FFFFFFF) % partitions


def notification_id(
    user_id: str, source: str, event: str, workflow: str, generation: int = 0
) -> NotificationId:
    """A UUIDv8 (RFC 9562, 5.8): 32 bits of user hash, then 90 of a BLAKE2b over all the arguments.

    `event` is the event's id or idempotency key, `workflow` the workflow's immutable id.
    """
    whole = f"{len(user_id)}:{user_id}{len(source)}:{source}{len(event)}:{event}{workflow}:{generation}"
    rest = blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    variant = _VARIANTS[rest[7]]
    return NotificationId(
        f"{user_hash(user_id):08x}-{rest[:4]}-8{rest[4:7]}-{variant}{rest[8:11]}-{rest[11:23]}"
    )


def broadcast_id(source: str, event: str, workflow: str) -> NotificationId:
    """The id of what an event tells a whole segment through a workflow: as that of a notification."""
    return notification_id(f"{source}|{event}", source, event, f"{workflow}|broadcast")  # no name has a bar


def hash_in(notification: str) -> int:
    """The user hash that a notification id carries: any process can tell the partition from the id alone.

    Raises ValueError for what is no id.
    """
    if _is_id(notification) is None:
        raise ValueError(f"{notification!r} is no notification id")
    return int(notification[:8], 16)


_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_is_id = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch
_ends_host = re.compile(r"[/?#\\]").search


def packed(notification: str) -> bytes:
    """The 16 bytes of a notification id, for row keys."""
    return bytes.fromhex(notification.replace("-", ""))


@lru_cache(maxsize=8_192)
def target_id(address: str) -> str:
    """A short name for an address or token that does not show it."""
    return blake2b(address.encode(), digest_size=6).hexdigest()


def phone_id(phone: str) -> str:
    """The name of a phone number, however it is written: with + or 00 or neither, with blanks and dashes."""
    digits = "".join(c for c in phone if c.isdecimal() and c.isascii())
    return target_id("+" + (digits.removeprefix("00") if not phone.lstrip().startswith("+") else digits))


@lru_cache(maxsize=8_192)
def masked(address: str) -> str:
    """An address as operators see it: a••@example.com, +155•••06, https://example.com/…."""
    scheme, is_url, rest = address.partition("://")
    if is_url:  # user names, passwords, paths and queries may be secrets
        host_ends = _ends_host(rest)
        return f"{scheme}://{rest[: host_ends.start() if host_ends else None].rpartition('@')[2]}/…"
    name, at, domain = address.rpartition("@")
    if at:
        return f"{name[:1]}••@{domain}"
    return f"{address[:4]}•••{address[-2:]}" if len(address) > 7 else "•••"
