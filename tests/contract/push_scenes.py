"""Scenes for push: FCM beside the endpoint of its tokens, APNs over HTTP/2, a browser that decrypts."""

import base64
import contextlib
import functools
import json
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded
from h2.settings import SettingCodes

from pipeline.providers import registry
from pipeline.providers.provider import Place, Provider, ProviderSettings
from schemas.kinds import Channel
from schemas.message import Message
from tests.contract import rfc8291
from tests.contract.peers import HOST, RECORDED, Peer, Script, listening, message, refusing

Case = dict[str, Any]
Scene = tuple[Provider, Message, Peer | None]

TOKEN_URI = "https://oauth2.googleapis.com/token"
KEY_ID, TEAM_ID, TOPIC = "ABC123DEFG", "DEF123GHIJ", "com.example.shop"
DEVICE = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
SUBJECT = "mailto:push@example.com"

#: a browser's, from RFC 8291, 5
BROWSER = rfc8291.private("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
KEYS = {
    "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
    "auth": AUTH,
}


def recorded(kind: str) -> Case:
    found: Case = json.loads((RECORDED / f"{kind}.json").read_text())
    return found


@functools.cache
def service_account() -> str:
    """A service account's key, as Google hands it out."""
    key = rsa.generate_private_key(65_537, 2_048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "shop-4711",
            "private_key_id": "0123456789abcdef",
            "private_key": pem,
            "client_email": "push@shop-4711.iam.gserviceaccount.com",
            "token_uri": TOKEN_URI,
        }
    )


@functools.cache
def signing_key() -> str:
    """A signing key, as Apple hands it out (.p8)."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@functools.cache
def vapid_key() -> str:
    """A VAPID key as browsers' libraries write it: 32 bytes in base64url."""
    number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
    return base64.urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()


SECRETS = {"service_account": service_account, "key": signing_key, "vapid_private_key": vapid_key}


def settings(kind: str, **fields: Any) -> ProviderSettings:
    """A provider's settings as its table has them, with keys that are made for the run."""
    found = recorded(kind)["settings"] | fields
    made = {name: SECRETS[name]() if value == "generated" else value for name, value in found.items()}
    return registry.settings(kind, **made)


async def read_request(reader: Reader) -> tuple[bytes, bytes]:
    """The head and the body of one request over HTTP/1.1."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = [line.partition(b":") for line in head.split(b"\r\n")]
    length = next(int(value) for name, _, value in lines if name.lower() == b"content-length")
    return head, await reader.readexactly(length)


def token(name: str = "ya29.1", seconds: int = 3_599) -> str:
    """The answer of the endpoint that gives access tokens."""
    body = json.dumps({"access_token": name, "expires_in": seconds, "token_type": "Bearer"})
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}"


def web_script(
    acts: Sequence[str],
    *,
    tokens: Sequence[str] = (),
    asked: list[bytes] | None = None,
    at_once: bool = False,
    read: Callable[[bytes], bytes] = bytes,
) -> Script:
    """Does an act for each request; those for an access token are answered from `tokens`, and are in `asked`.

    `read` makes what is kept of a body of the body that came.
    """
    turns, token_turns = iter(range(1 << 30)), iter(range(1 << 30))

    async def serve(peer: Peer, reader: Reader, writer: Writer) -> None:
        while True:
            act = acts[0]
            if not at_once:
                head, body = await read_request(reader)
                if head.startswith(b"POST /token "):
                    if asked is not None:
                        asked.append(body)
                    turn = next(token_turns)
                    act = tokens[min(turn, len(tokens) - 1)] if tokens else token(f"ya29.{turn + 1}")
                else:
                    peer.heard.append(head)
                    peer.bodies.append(read(body))
                    act = acts[min(next(turns), len(acts) - 1)]
            for step in act.split(" & "):
                if not await peer.act(step, reader, writer):
                    return

    return serve


def h2_script(
    acts: Sequence[str], *, at_once: bool = False, streams: int = 100, window: int = 65_535
) -> Script:
    """Does an act for each request over HTTP/2 with prior knowledge, over all connections.

    An act's steps: `answer STATUS | name: value | body`, `headers STATUS`, `endless`, `rst CODE`, `goaway
    below` (it leaves this request out) or `this`, `ping`, `settings STREAMS`, `raw …`, and a peer's words.
    """
    turns = iter(range(1 << 30))

    async def serve(peer: Peer, reader: Reader, writer: Writer) -> None:
        if at_once:
            for step in acts[0].split(" & "):
                if not await peer.act(step, reader, writer):
                    return
            return
        await _H2Peer(peer, reader, writer, acts, turns, streams, window).serve()

    return serve


class _H2Peer:
    def __init__(
        self,
        peer: Peer,
        reader: Reader,
        writer: Writer,
        acts: Sequence[str],
        turns: Any,
        streams: int,
        window: int,
    ) -> None:
        self.peer, self.reader, self.writer, self.acts, self.turns = peer, reader, writer, acts, turns
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
        self.h2.initiate_connection()
        self.h2.update_settings(
            {SettingCodes.MAX_CONCURRENT_STREAMS: streams, SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.window = window
        self.bodies: dict[int, bytearray] = {}
        self.endless: set[int] = set()

    async def serve(self) -> None:
        await self.flush()
        while data := await self.reader.read(65_536):
            for event in self.h2.receive_data(data):
                if not await self.take(event):
                    return
            self.pour()
            await self.flush()

    async def take(self, event: Event) -> bool:
        match event:
            case RequestReceived():
                head = [f"{_text(name)}: {_text(value)}" for name, value in event.headers]
                self.peer.heard.append("\n".join(head).encode())
                self.bodies[event.stream_id] = bytearray()
            case DataReceived():
                self.bodies[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamEnded():
                self.peer.bodies.append(bytes(self.bodies[event.stream_id]))
                act = self.acts[min(next(self.turns), len(self.acts) - 1)]
                for step in act.split(" & "):
                    if not await self.act(step, event.stream_id):
                        return False
        return True

    async def act(self, step: str, stream: int) -> bool:
        word, _, rest = step.partition(" ")
        match word:
            case "answer":
                status, *parts = rest.split(" | ")
                fields = [part.partition(": ") for part in parts if ": " in part and part[0].islower()]
                body = next((part for part in parts if part[0] in "{<"), "").encode()
                head = [(":status", status), *[(name, value) for name, _, value in fields]]
                self.h2.send_headers(stream, head, end_stream=not body)
                if body:
                    self.h2.send_data(stream, body, end_stream=True)
            case "headers":
                self.h2.send_headers(stream, [(":status", rest)])
            case "endless":
                self.endless.add(stream)
                self.pour()
            case "rst":
                self.h2.reset_stream(stream, ErrorCodes[rest])
            case "ping":
                self.h2.ping(b"12345678")
            case "settings":
                self.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: int(rest)})
            case "goaway":
                await self.flush()
                last = stream - 2 if rest == "below" else stream
                head9 = b"\0\0\x08\x07\0" + bytes(4)
                self.writer.write(head9 + max(last, 0).to_bytes(4) + bytes(4))
            case "raw":
                self.writer.write(rest.encode("latin-1"))
            case "silent":
                self.peer.silent.set()  # about this one; others may be answered
            case _:
                await self.flush()
                return await self.peer.act(step, self.reader, self.writer)
        return True

    def pour(self) -> None:
        """As much as the windows take into each endless answer that nobody reset."""
        for stream in tuple(self.endless):
            try:
                while room := min(self.h2.local_flow_control_window(stream), 16_384):
                    self.h2.send_data(stream, b"x" * room)
                    self.peer.written += room
            except Exception:
                self.endless.discard(stream)

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


Starts = Callable[[Case], Script]


@contextlib.asynccontextmanager
async def _scene(
    kind: str, case: Case, state_dir: Path, script: Script, target: str | None = None
) -> AsyncIterator[Scene]:
    """A provider towards a peer; `target` is the target's path where that is a URL at the peer."""
    async with contextlib.AsyncExitStack() as stack:
        peer = None
        if case.get("peer") == "refusing":
            port = stack.enter_context(refusing())
        else:
            peer = await stack.enter_async_context(listening(script))
            port = peer.port
        base_url = f"{case.get('scheme', 'http')}://{HOST}:{port}"
        fields = {"timeout": case.get("timeout", 10)} | case.get("settings", {})
        aim = {"base_url": base_url} if target is None else {"allow_internal": True}
        provider = registry.make("main", settings(kind, **aim, **fields), Place(state_dir))
        stack.push_async_callback(provider.close)
        said = recorded(kind)["message"] | case.get("fields", {})
        if target is not None:
            said |= {"target": f"{base_url}{target}", "keys": KEYS}
        yield provider, message(**said | {"channel": Channel(said["channel"])}), peer


@contextlib.asynccontextmanager
async def fcm_scene(case: Case, state_dir: Path) -> AsyncIterator[Scene]:
    asked: list[bytes] = []
    script = web_script(
        case.get("acts", []), tokens=case.get("token", ()), asked=asked, at_once=case.get("at_once", False)
    )
    async with _scene("fcm", case, state_dir, script) as (provider, sent, peer):
        yield provider, sent, peer
    if "asked" in case:
        assert len(asked) == case["asked"], "requests for an access token"
    if case.get("sent_nothing"):
        assert peer is not None
        assert peer.heard == []


@contextlib.asynccontextmanager
async def apns_scene(case: Case, state_dir: Path) -> AsyncIterator[Scene]:
    script = h2_script(case.get("acts", []), at_once=case.get("at_once", False))
    async with _scene("apns", case, state_dir, script) as (provider, sent, peer):
        yield provider, sent, peer
    if "asked" in case:
        assert peer is not None
        assert len(peer.heard) == case["asked"], "requests"


@contextlib.asynccontextmanager
async def webpush_scene(case: Case, state_dir: Path) -> AsyncIterator[Scene]:
    """What the peer keeps of a body is what the browser reads: what is sealed differs each time."""
    script = web_script(
        case.get("acts", []),
        at_once=case.get("at_once", False),
        read=lambda body: rfc8291.decrypt(body, BROWSER, rfc8291.unbase64(AUTH)),
    )
    async with _scene("webpush", case, state_dir, script, "/push/kim") as scene:
        yield scene
