"""Makes the request of one `http` step of a workflow in SQL. What may be reached, and with which secrets: see Http.

A response is `{"status", "headers", "body", "encoding", "ok", "duration_ms"}`, and `"json"` where the body is JSON.
`encoding` is the text's, or `base64`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from pgdurable._engine.http_guard import Guard, refusals
from pgdurable._engine.tasks import within
from pgdurable.codec import encode
from pgdurable.errors import PgDurableError
from pgdurable.http import Http, host_fits
from pgdurable.retry import seconds

if TYPE_CHECKING:
    import aiohttp

__all__ = ["HttpStep", "RequestFailed", "have_http"]

# What the sender of a request must not say, since the client does.
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"})
_TRY_AGAIN = frozenset({408, 421, 425, 429, 500, 502, 503, 504})
_METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS".split())
_TOLD_BYTES = 4096
_SHORTEST_SECRET = 4
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class RequestFailed(PgDurableError):
    """A request without an answer that counts as one: `fields` go into the step's error beside type and message."""

    def __init__(self, message: str, *, type: str = "HttpError", **fields: Any) -> None:
        super().__init__(message)
        self.type = type
        self.fields = fields


def have_http() -> bool:
    """Whether the library that makes requests is installed."""
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        return False
    return True


class HttpStep:
    """Makes requests, with one pool of connections."""

    def __init__(self, settings: Http) -> None:
        self._settings = settings
        self._guard = Guard(settings.allow)
        self._session: aiohttp.ClientSession | None = None
        self.places = asyncio.Semaphore(settings.max_concurrency)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            tls = self._settings.tls
            connector = aiohttp.TCPConnector(
                limit=self._settings.max_concurrency, use_dns_cache=False, socket_factory=self._guard.socket,
                ssl=True if tls is None else tls,
            )  # fmt: skip
            self._session = aiohttp.ClientSession(
                connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), raise_for_status=False,
                headers={"User-Agent": "pgdurable"}, timeout=aiohttp.ClientTimeout(total=None),
            )  # fmt: skip
        return self._session

    async def run(self, id: UUID, seq: int, request: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        """The response. Raises RequestFailed, for what is no success too.

        Args:
            request: as task_request makes it, decoded.
            timeout: seconds for all of it; None: as the worker is set up.
        """
        asked = _Asked(request, self._settings)
        longest = timeout if timeout is not None else seconds(self._settings.timeout) or 30.0
        async with self.places:
            refused: list[str] = []
            refusals.set(refused)
            began = time.monotonic()
            try:
                response = await within(longest, self._exchange(asked, f"{id}/{seq}"))
            except asyncio.TimeoutError:
                raise self._unsure(
                    request,
                    asked,
                    f"{asked.what} had no answer within {longest:g} s",
                    type="pgdurable.errors.StepTimeout",
                    timed_out=True,
                ) from None
            except RequestFailed:
                raise
            except Exception as error:
                raise self._failed(request, asked, error, refused) from None
        response["duration_ms"] = round((time.monotonic() - began) * 1e3, 3)
        if asked.succeeds(response["status"]):
            return response
        raise self._not_ok(asked, response)

    async def _exchange(self, asked: _Asked, key: str) -> dict[str, Any]:
        headers = {"Idempotency-Key": key} if asked.method in ("POST", "PATCH") else {}
        lower = {name.lower() for name in asked.headers}
        headers = {name: value for name, value in headers.items() if name.lower() not in lower}
        async with self._client().request(
            asked.method, asked.url, headers={**headers, **asked.headers}, data=asked.body, allow_redirects=False
        ) as answer:
            body = bytearray()
            async for part in answer.content.iter_chunked(1 << 16):
                body += part
                if len(body) > asked.max_bytes:
                    answer.close()
                    raise RequestFailed(
                        f"{asked.what} answered {answer.status} with more than {asked.max_bytes} bytes",
                        type="ResponseTooLarge", retryable=False, status=answer.status,
                    )  # fmt: skip
            names = dict.fromkeys(name.lower() for name in answer.headers)
            got = {name: asked.clean(", ".join(answer.headers.getall(name))) for name in names}
            return {
                "status": answer.status, "headers": got, "ok": 200 <= answer.status < 300,
                **asked.content(bytes(body), answer.content_type, answer.charset),
            }  # fmt: skip

    def _failed(
        self, request: dict[str, Any], asked: _Asked, error: Exception, refused: list[str]
    ) -> RequestFailed:  # fmt: skip
        if refused:
            return RequestFailed(
                f"{asked.what} was refused: it leads to {refused[-1]}, which is no public address; the worker's owner "
                "can allow its network, with Http(allow=...) or --http-allow",
                type="AddressRefused", retryable=False,
            )  # fmt: skip
        import aiohttp

        text = asked.clean(f"{asked.what} failed: {type(error).__name__}: {error}")[:2000]
        if isinstance(error, (aiohttp.InvalidURL, ValueError, TypeError)):
            return RequestFailed(text, type="InvalidRequest", retryable=False)
        if isinstance(error, aiohttp.ClientConnectorError):
            return RequestFailed(text, type="ConnectionFailed")  # nothing has left
        return self._unsure(request, asked, text, type="HttpError")

    def _unsure(self, request: dict[str, Any], asked: _Asked, text: str, **fields: Any) -> RequestFailed:
        """The other side may have done what it was asked."""
        if request.get("at_most_once"):
            fields = {**fields, "type": "pgdurable.errors.StepInterrupted", "retryable": False}
            text += "; as at_most_once it is not repeated"
        return RequestFailed(text, **fields)

    def _not_ok(self, asked: _Asked, response: dict[str, Any]) -> RequestFailed:
        status = response["status"]
        fields: dict[str, Any] = {"status": status}
        if status not in _TRY_AGAIN:
            fields["retryable"] = False
        wait = _retry_after(response["headers"].get("retry-after"))
        if wait is not None:
            fields["retry_in"] = wait
        told = {**response, "body": response["body"][:_TOLD_BYTES]}
        if len(response["body"]) > _TOLD_BYTES:
            told.pop("json", None)
        return RequestFailed(f"{asked.what} answered {status}", type="HttpStatus", response=told, **fields)


class _Asked:
    """A request with its secrets in place."""

    def __init__(self, request: dict[str, Any], settings: Http) -> None:
        from yarl import URL

        self._secrets: list[str] = []
        self.what = "the request"
        host = _host_of(request.get("url"))
        for place in request.get("secrets") or ():
            if place["path"][0] == "url":
                self._put(request, place, settings.secret(str(place["name"]), None))
                host = _host_of(request["url"])  # the secret says itself where it goes
                settings.secret(str(place["name"]), host)
        for place in request.get("secrets") or ():
            if place["path"][0] != "url":
                self._put(request, place, settings.secret(str(place["name"]), host))
        method = str(request.get("method") or "GET").upper()
        if method not in _METHODS:
            raise RequestFailed(
                f"{method:.20} is no method of HTTP that is sent", type="InvalidRequest", retryable=False
            )
        try:
            self.url = URL(str(request["url"]))
            if request.get("query"):
                self.url = self.url.update_query({name: _text(value) for name, value in request["query"].items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise self._invalid(f"its URL or query is none: {error}") from None
        if self.url.scheme not in ("http", "https") or not self.url.host:
            raise self._invalid("its URL is neither http:// nor https:// with a host")
        if settings.hosts is not None and not host_fits(self.url.host, settings.hosts):
            raise RequestFailed(
                f"host {self.url.host} is not among those that this worker sends requests to", type="AddressRefused",
                retryable=False,
            )  # fmt: skip
        shown = f"{self.url.scheme}://{self.url.authority.rpartition('@')[2]}{self.url.path}"
        self.method, self.what = method, self.clean(f"{method} {shown}")
        headers = request.get("headers") or {}
        if not isinstance(headers, dict):
            raise self._invalid("its headers are no object")
        self.headers = {str(name): _text(value) for name, value in headers.items() if value is not None}
        for name, value in self.headers.items():
            if not _TOKEN.fullmatch(name) or _CONTROL.search(value):
                raise self._invalid(f"header {name!r:.80} is none, or has a line break in its value")
            if name.lower() in _OURS:
                raise self._invalid(f"header {name} is the client's own")
        self.body = self._body(request.get("body"))
        self.max_bytes = min(int(request.get("max_bytes") or settings.max_bytes), settings.max_bytes)
        self._ok = request.get("ok")

    def _invalid(self, why: str) -> RequestFailed:
        return RequestFailed(self.clean(f"{self.what} cannot be sent: {why}"), type="InvalidRequest", retryable=False)

    def _put(self, request: dict[str, Any], place: dict[str, Any], value: str) -> None:
        """Puts a secret where the definition names it."""
        self._secrets.append(value)
        form = place.get("format")
        text = value if form is None else str(form).replace("{}", value)
        target: Any = request
        for part in place["path"][:-1]:
            target = target[part]
        target[place["path"][-1]] = text

    def _body(self, body: Any) -> bytes | None:
        if body is None:
            return None
        if isinstance(body, str):
            return body.encode()
        if "content-type" not in {name.lower() for name in self.headers}:
            self.headers["Content-Type"] = "application/json"
        return msgspec.json.encode(body)

    def clean(self, text: str) -> str:
        """Without any of the secrets."""
        for secret in self._secrets:
            if len(secret) >= _SHORTEST_SECRET:
                for form in {secret, json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()}:
                    text = text.replace(form, "***")
        return text

    def content(self, data: bytes, kind: str, charset: str | None) -> dict[str, Any]:
        """Body, encoding, and the JSON that it is."""
        try:
            encoding = charset or "utf-8"
            text = data.decode(encoding)
            msgspec.json.encode(text)
            if "\0" in text:
                raise ValueError("jsonb takes no NUL")
        except (LookupError, ValueError):
            return {"body": base64.b64encode(data).decode(), "encoding": "base64"}
        text = self.clean(text)
        found: dict[str, Any] = {"body": text, "encoding": encoding.lower()}
        if kind == "application/json" or kind.endswith("+json"):
            try:
                value = msgspec.json.decode(text)
                encode(value)
                found["json"] = value
            except Exception:
                pass  # what cannot be stored as JSON is there as text
        return found

    def succeeds(self, status: int) -> bool:
        """Whether the step has succeeded with this status."""
        if self._ok is None:
            return 200 <= status < 300
        if self._ok == "any":
            return True
        return any(
            item == status or str(item) == str(status) or str(item).lower() == f"{status // 100}xx"
            for item in (self._ok if isinstance(self._ok, list) else [self._ok])
        )


def _host_of(url: Any) -> str:
    from yarl import URL

    try:
        return URL(url).host or "" if isinstance(url, str) else ""
    except ValueError:
        return ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _retry_after(text: str | None) -> float | None:
    """Seconds that the header asks to wait, an hour at most."""
    if text is None:
        return None
    try:
        wait = float(text) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError):
        return None
    return min(max(wait, 0.0), 3600.0)
