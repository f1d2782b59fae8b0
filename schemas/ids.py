"""Identity: the same input gives the same id, for ever."""

from functools import lru_cache
from hashlib import blake2b
from typing import NewType

from aiokafka.partitioner import murmur2

UserId = NewType("UserId", str)
NotificationId = NewType("NotificationId", str)


@lru_cache(maxsize=65_536)
def user_hash(user_id: str) -> int:
    """The 32 bits of murmur2 by which Kafka's default partitioner places the user."""
    return int(murmur2(user_id.encode())) & 0xFFFFFFFF


def partition_of(hashed: int, partitions: int) -> int:
    """The partition of a user hash, as Kafka's default partitioner has it (its sign bit dropped)."""
    return (hashed & 0x7FFFFFFF) % partitions


def notification_id(user_id: str, source: str, event: str, workflow: str, generation: int = 0) -> NotificationId:
    """A UUIDv8 (RFC 9562, 5.8): 32 bits of user hash, then 90 of a BLAKE2b over all the arguments.

    `event` is the event's id or idempotency key, `workflow` the workflow's immutable id.
    """
    whole = f"{len(user_id)}:{user_id}{len(source)}:{source}{len(event)}:{event}{workflow}:{generation}"
    rest = blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    variant = "89ab"[int(rest[7], 16) & 3]
    return NotificationId(
        f"{user_hash(user_id):08x}-{rest[:4]}-8{rest[4:7]}-{variant}{rest[8:11]}-{rest[11:23]}"
    )


def hash_in(notification: str) -> int:
    """The user hash that a notification id carries: any process can tell the partition from the id alone.

    Raises ValueError for what is no id.
    """
    if len(notification) != 36 or notification[14] != "8":
        raise ValueError(f"{notification!r} is no notification id")
    return int(notification[:8], 16)


def packed(notification: str) -> bytes:
    """The 16 bytes of a notification id, for row keys."""
    return bytes.fromhex(notification.replace("-", ""))


def target_id(address: str) -> str:
    """A short name for an address or token that does not show it."""
    return blake2b(address.encode(), digest_size=6).hexdigest()


def masked(address: str) -> str:
    """An address as operators see it: a••@example.com, +155•••06, https://example.com/…."""
    if address.startswith(("http://", "https://")):
        return "/".join(address.split("/", 3)[:3]) + "/…"
    name, at, domain = address.rpartition("@")
    if at:
        return f"{name[:1]}••@{domain}"
    return f"{address[:4]}•••{address[-2:]}" if len(address) > 7 else "•••"
