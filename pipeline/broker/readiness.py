"""Asks a broker, in Kafka's own protocol, which brokers of its cluster it knows to be alive.

One Metadata request by hand, because a start must also work inside a running event loop, where the
asyncio client cannot be used synchronously. A KRaft broker names in its answer only brokers that the
controller has let in, so an answer that names all of them means that records can be produced and read.
"""

import socket
import struct

METADATA = 3
METADATA_VERSION = 1
CLIENT = b"carillon"


def living_brokers(port: int, timeout: float) -> frozenset[int]:
    """Ids of the brokers that the one on this port of 127.0.0.1 knows; empty while it does not answer."""
    header = struct.pack(">hhih", METADATA, METADATA_VERSION, 1, len(CLIENT)) + CLIENT
    request = header + struct.pack(">i", 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(struct.pack(">i", len(request)) + request)
            (length,) = struct.unpack(">i", _exactly(connection, 4))
            return _broker_ids(_exactly(connection, length))
    except (OSError, struct.error):
        return frozenset()


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        chunk = connection.recv(count - len(received))
        if not chunk:
            raise ConnectionResetError
        received += chunk
    return received


def _broker_ids(response: bytes) -> frozenset[int]:
    """The node ids of a Metadata v1 response: correlation id, then (id, host, port, rack) for each broker."""
    (count,) = struct.unpack_from(">i", response, 4)
    offset = 8
    ids = []
    for _ in range(count):
        node, host_length = struct.unpack_from(">ih", response, offset)
        offset += 6 + host_length + 4
        (rack_length,) = struct.unpack_from(">h", response, offset)
        offset += 2 + max(rack_length, 0)
        ids.append(node)
    return frozenset(ids)
