"""Getting what stands at a URL that a vendor named, once it is known to be the vendor's own."""

import asyncio

import httpx

from pipeline.receipts.receipt import Later

SECONDS = 5.0
BYTES = 64 << 10


async def fetch(url: str, transport: httpx.AsyncBaseTransport | None = None) -> bytes:
    """The body, over TLS that is checked, without redirects. Raises Later."""
    try:
        async with (
            asyncio.timeout(SECONDS),
            httpx.AsyncClient(follow_redirects=False, trust_env=False, transport=transport) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != 200:
                raise Later(f"the vendor answered {response.status_code}")
            found = b""
            async for chunk in response.aiter_bytes():
                found += chunk
                if len(found) > BYTES:
                    raise Later("the vendor's answer is too long")
            return found
    except (httpx.HTTPError, TimeoutError) as error:
        raise Later(f"the vendor cannot be asked: {type(error).__name__}") from None
