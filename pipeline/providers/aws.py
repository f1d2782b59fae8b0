"""Requests to Amazon's services: signed with Signature Version 4, and the names of their errors."""

import re
from pathlib import Path
from typing import NamedTuple

import httpx
import orjson
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from pydantic import Field, SecretStr

from pipeline.providers.http import Answer
from pipeline.providers.provider import ProviderSettings, needed
from pipeline.sections import Section
from schemas.outcome import Meaning

COMMON = {
    "AccessDeniedException": Meaning("deferred", "provider", "our credentials do not allow it"),
    "ExpiredTokenException": Meaning("deferred", "provider", "our session token has expired"),
    "IncompleteSignature": Meaning("deferred", "provider", "our signature is refused"),
    "InvalidSignatureException": Meaning("deferred", "provider", "our signature or our clock is wrong"),
    "SignatureDoesNotMatch": Meaning("deferred", "provider", "our signature is wrong"),
    "MissingAuthenticationTokenException": Meaning("deferred", "provider", "our request is not signed"),
    "UnrecognizedClientException": Meaning("deferred", "provider", "our access key is not known"),
    "InvalidClientTokenId": Meaning("deferred", "provider", "our access key is not known"),
    "NotAuthorized": Meaning("deferred", "provider", "our credentials do not allow it"),
    "OptInRequired": Meaning("deferred", "provider", "our account has no subscription for the service"),
    "RequestExpired": Meaning("deferred", "provider", "our clock is wrong"),
    "ThrottlingException": Meaning("deferred", "provider", "too many requests", throttles=True),
    "InternalFailure": Meaning("deferred", "provider", "an error at the vendor"),
    "ServiceUnavailable": Meaning("deferred", "provider", "not available now"),
}
"""What any of the services may answer."""


is_name = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,59}").fullmatch
"""Whether a text is a name, so that it may be shown though it is not known."""


class AwsFields(Section):
    """The settings of a provider at Amazon."""

    region: str | None = Field(None, description="such as eu-central-1")
    access_key_id: str | None = Field(None, description="of a user or role who may send")
    secret_access_key: SecretStr | None = Field(None, description="belongs to access_key_id")
    secret_access_key_file: Path | None = Field(None, description="a file that holds secret_access_key")
    session_token: SecretStr | None = Field(None, description="of temporary credentials")
    session_token_file: Path | None = Field(None, description="a file that holds session_token")


class Signer(NamedTuple):
    """Signs requests to one service in one region."""

    service: str
    region: str
    credentials: Credentials

    def request(self, url: str, body: bytes, content_type: str) -> httpx.Request:
        """A signed POST; the signature holds for five minutes."""
        headers = {"content-type": content_type, "user-agent": "Carillon"}
        unsigned = AWSRequest(method="POST", url=url, data=body, headers=headers)
        SigV4Auth(self.credentials, self.service, self.region).add_auth(unsigned)
        return httpx.Request("POST", url, content=body, headers=dict(unsigned.headers.items()))


def signer(name: str, service: str, settings: ProviderSettings) -> Signer:
    """Signs with what the settings (AwsFields) hold. Raises SettingsError."""
    token = getattr(settings, "session_token", None)
    credentials = Credentials(
        needed(name, settings, "access_key_id"),
        needed(name, settings, "secret_access_key"),
        token.get_secret_value() if token is not None else None,
    )
    return Signer(service, needed(name, settings, "region"), credentials)


def endpoint(prefix: str, region: str) -> str:
    """Where a service is called in a region."""
    return f"https://{prefix}.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def error(answer: Answer) -> tuple[str, str]:
    """The name of an error in JSON, and its text; each is "" where it is not told."""
    try:
        told = orjson.loads(answer.body or b"")
    except orjson.JSONDecodeError:
        told = None
    told = told if isinstance(told, dict) else {}
    name = answer.headers.get("x-amzn-errortype") or told.get("__type") or told.get("code") or ""
    text = told.get("message") or told.get("Message") or ""
    # com.amazonaws.sesv2#MessageRejected:http://internal.amazon.com/…
    name = str(name).partition(":")[0].rpartition("#")[2]
    return name if is_name(name) else "", str(text)
