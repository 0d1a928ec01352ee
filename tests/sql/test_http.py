"""HTTP steps of workflows in SQL: made by a worker that may, recorded first, kept in bounds, answered as typed JSON."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from e2e.namespace import Namespace, until

import pgdurable as pgd
from pgdurable._engine import http_step
from pgdurable._engine.http_guard import Guard

from .asked import all_of, ask, ending, ends, owned

SECRET = "s3cret-of-the-bank"
LOOPBACK = pgd.Http(
    allow=("127.0.0.0/8", "::1/128"), secrets={"TOKEN": SECRET, "WEBHOOK": "", "OTHER": "another-secret"}
)


class Site:
    """A server of the test's own."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.hold = asyncio.Event()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.redirected = 0
        app = web.Application()
        app.router.add_route("*", "/echo", self.echo)
        app.router.add_route("*", "/status/{code}", self.code)
        app.router.add_get("/large", self.large)
        app.router.add_get("/bytes", self.bytes)
        app.router.add_get("/latin", self.latin)
        app.router.add_get("/numbers", self.numbers)
        app.router.add_get("/moved", self.moved)
        app.router.add_get("/target", self.target)
        app.router.add_route("*", "/slow", self.slow)
        app.router.add_route("*", "/broken", self.broken)
        self.server = TestServer(app)

    def url(self, path: str) -> str:
        return str(self.server.make_url(path))

    async def echo(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.seen.append((request.method, request.path_qs, dict(request.headers), body))
        said = {"headers": dict(request.headers), "body": body.decode(), "query": dict(request.query)}
        return web.json_response(said, headers=self.headers)

    async def code(self, request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["code"]), text="sorry", headers=self.headers)

    async def large(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            for _ in range(10_000):
                await answer.write(b"x" * 10_000)
        except ConnectionError:
            pass  # the other side has had enough
        return answer

    async def bytes(self, request: web.Request) -> web.Response:
        return web.Response(body=b"\x00\xff\x01", content_type="application/octet-stream")

    async def latin(self, request: web.Request) -> web.Response:
        return web.Response(body="größe".encode("latin-1"), headers={"Content-Type": "text/plain; charset=iso-8859-1"})

    async def numbers(self, request: web.Request) -> web.Response:
        return web.Response(text='{"a": "\\u0000"}', content_type="application/json")

    async def moved(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("/target")

    async def target(self, request: web.Request) -> web.Response:
        self.redirected += 1
        return web.Response(text="here")

    async def slow(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.path_qs, dict(request.headers), b""))
        await self.hold.wait()
        return web.Response(text="at last")

    async def broken(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.path_qs, {}, b""))
        assert request.transport is not None
        request.transport.close()
        return web.Response()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    await site.server.start_server()
    yield site
    site.hold.set()
    await site.server.close()


@pytest.fixture
def space(dsn: str, schema: str) -> Any:
    with Namespace(dsn, schema) as namespace:
        yield namespace


def http(space: Namespace, url: str, **request: Any) -> Any:
    columns = {key: request.pop(key) for key in ("timeout_s", "attempt") if key in request}
    return ask(space, "http", "call", {"url": url, **request}, **columns)


async def response(space: Namespace, url: str, **request: Any) -> dict[str, Any]:
    found = await ending(space, http(space, url, **request))
    assert "output" in found, found
    return found["output"]


async def failure(space: Namespace, url: str, **request: Any) -> dict[str, Any]:
    found = await ending(space, http(space, url, **request))
    assert "error" in found, found
    return found["error"]


async def test_a_request_and_its_typed_response(space: Namespace, site: Site) -> None:
    async with space.engine(http=LOOPBACK):
        instance = http(
            space,
            site.url("/echo"),
            method="post",
            headers={"X-Trace": "t-1"},
            query={"page": 2},
            body={"order": [1, "ä"]},
        )
        got = (await ending(space, instance))["output"]
    ((method, path, headers, body),) = site.seen
    assert (method, path, body) == ("POST", "/echo?page=2", '{"order":[1,"ä"]}'.encode())
    assert (headers["X-Trace"], headers["Content-Type"]) == ("t-1", "application/json")
    assert headers["Idempotency-Key"] == f"{instance}/1"
    assert (got["status"], got["ok"], got["encoding"]) == (200, True, "utf-8")
    assert got["headers"]["content-type"] == "application/json; charset=utf-8"
    assert got["json"]["query"] == {"page": "2"}
    assert got["duration_ms"] > 0
    assert set(got) == {"status", "headers", "body", "json", "encoding", "ok", "duration_ms"}


async def test_bodies_that_are_no_utf8_and_json_that_cannot_be_stored(space: Namespace, site: Site) -> None:
    async with space.engine(http=LOOPBACK):
        raw, latin, numbers = await all_of(
            response(space, site.url("/bytes")),
            response(space, site.url("/latin")),
            response(space, site.url("/numbers")),
        )
    assert (base64.b64decode(raw["body"]), raw["encoding"]) == (b"\x00\xff\x01", "base64")
    assert (latin["body"], latin["encoding"]) == ("größe", "iso-8859-1")
    assert numbers["body"] == '{"a": "\\u0000"}'
    assert "json" not in numbers


@pytest.mark.parametrize(("status", "retryable"), [(500, True), (503, True), (429, True), (404, False), (302, False)])
async def test_a_status_that_is_no_success_fails_the_step(
    space: Namespace, site: Site, status: int, retryable: bool
) -> None:
    async with space.engine(http=LOOPBACK):
        error = await failure(space, site.url(f"/status/{status}") + "?key=private")
    assert error.get("retryable", True) is retryable
    assert (error["type"], error["status"], error["response"]["body"]) == ("HttpStatus", status, "sorry")
    assert f"answered {status}" in error["message"]
    assert "private" not in error["message"]


async def test_a_node_says_which_statuses_are_no_failure(space: Namespace, site: Site) -> None:
    async with space.engine(http=LOOPBACK):
        for ok in ([404], ["4xx"], "any", 404):
            got = await response(space, site.url("/status/404"), ok=ok)
            assert (got["status"], got["ok"], got["body"]) == (404, False, "sorry")
        assert (await failure(space, site.url("/status/200"), ok=["3xx"]))["status"] == 200


async def test_the_other_side_says_when_to_try_again(space: Namespace, site: Site) -> None:
    site.headers = {"Retry-After": "17"}
    async with space.engine(http=LOOPBACK):
        assert (await failure(space, site.url("/status/503")))["retry_in"] == 17.0
        site.headers = {"Retry-After": "Fri, 01 Jan 1999 00:00:00 GMT"}
        assert (await failure(space, site.url("/status/503")))["retry_in"] == 0.0
        site.headers = {"Retry-After": "whenever"}
        assert "retry_in" not in await failure(space, site.url("/status/503"))


async def test_redirects_are_not_followed(space: Namespace, site: Site) -> None:
    async with space.engine(http=LOOPBACK):
        got = await response(space, site.url("/moved"), ok=[302])
    assert got["headers"]["location"] == "/target"
    assert site.redirected == 0


async def test_a_large_response_is_cut_off(space: Namespace, site: Site) -> None:
    async with space.engine(http=LOOPBACK):
        error = await failure(space, site.url("/large"))
        assert (error["type"], error["retryable"]) == ("ResponseTooLarge", False)
        assert "more than 1048576 bytes" in error["message"]
        error = await failure(space, site.url("/large"), max_bytes=1000)
        assert "more than 1000 bytes" in error["message"]
        error = await failure(space, site.url("/large"), max_bytes=1 << 40)  # no more than the worker's owner allows
        assert "more than 1048576 bytes" in error["message"]


async def test_timeouts(space: Namespace, site: Site) -> None:
    async with space.engine(http=pgd.Http(allow=("127.0.0.0/8",), timeout=0.1)):
        for options in ({"timeout_s": 0.1}, {}):
            error = await failure(space, site.url("/slow"), **options)
            assert (error["type"], error["timed_out"]) == ("pgdurable.errors.StepTimeout", True)
            assert "retryable" not in error
        once = await failure(space, site.url("/slow"), at_most_once=True)
        assert (once["type"], once["retryable"]) == ("pgdurable.errors.StepInterrupted", False)


async def test_a_connection_that_breaks_or_is_not_made(space: Namespace, site: Site) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        async with space.engine(http=LOOPBACK):
            broken, once, none, none_once = await all_of(
                failure(space, site.url("/broken"), method="POST"),
                failure(space, site.url("/broken"), method="POST", at_most_once=True),
                failure(space, nobody),
                failure(space, nobody, at_most_once=True),
            )
    assert broken.get("retryable", True)
    assert (once["type"], once["retryable"]) == ("pgdurable.errors.StepInterrupted", False)
    # Nothing has left: that may be tried again in any case.
    assert none["type"] == none_once["type"] == "ConnectionFailed"
    assert none_once.get("retryable", True)


REFUSED = [
    "http://127.0.0.1/", "http://localhost/", "http://[::1]/", "http://0.0.0.0/", "http://10.1.2.3/",
    "http://169.254.169.254/latest/meta-data", "http://192.168.0.1/", "http://172.16.0.9/", "http://100.64.0.1/",
    "http://[::ffff:127.0.0.1]/", "http://[fe80::1]/", "http://[fd00::1]/", "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/", "http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://224.0.0.1/",
]  # fmt: skip


async def test_private_networks_are_refused_in_every_form(space: Namespace, site: Site) -> None:
    port = site.server.port
    async with space.engine(http=True):
        urls = [url.replace("/", f":{port}/", 3).replace(f":{port}/", "/", 2) for url in REFUSED]
        errors = await all_of(*(failure(space, url) for url in urls))
    for url, error in zip(urls, errors, strict=True):
        # What is no address at all, as this system reads it, leads nowhere either.
        assert error["type"] in ("AddressRefused", "ConnectionFailed", "InvalidRequest"), (url, error)
    assert sum(error["type"] == "AddressRefused" for error in errors) >= 14
    assert {error["retryable"] for error in errors if error["type"] == "AddressRefused"} == {False}
    assert site.seen == []


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("93.184.216.34", True), ("2606:2800:220:1::1", True), ("10.9.0.1", True), ("10.8.0.1", False), ("::1", False)],
)
def test_which_addresses_are_allowed(address: str, allowed: bool) -> None:
    assert Guard(["10.9.0.0/16"]).allows(address) is allowed


async def test_a_name_that_leads_elsewhere_the_second_time_is_refused(
    space: Namespace, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is checked is the address that is connected to, not one that was looked up before."""
    answers = iter(["127.0.0.2", "127.0.0.1", "127.0.0.1", "127.0.0.1"])
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo
    given: list[str] = []

    async def lookup(host: Any, port: Any, **options: Any) -> Any:
        if host != "rebinds.example":
            return await real(host, port, **options)
        given.append(next(answers))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (given[-1], site.server.port))]

    monkeypatch.setattr(loop, "getaddrinfo", lookup)
    url = f"http://rebinds.example:{site.server.port}/echo"
    async with space.engine(http=pgd.Http(allow=("127.0.0.2/32",))):
        assert (await failure(space, url))["type"] == "ConnectionFailed"  # allowed, and nobody is there
        error = await failure(space, url)
    assert error["type"] == "AddressRefused"
    assert given[-1] == "127.0.0.1"
    assert site.seen == []


async def test_hosts_that_requests_may_go_to(space: Namespace, site: Site) -> None:
    only = pgd.Http(allow=("127.0.0.0/8",), hosts=("127.0.0.1", "*.example.com"))
    async with space.engine(http=only):
        assert (await response(space, site.url("/echo")))["status"] == 200
        error = await failure(space, f"http://localhost:{site.server.port}/echo")
    assert error["type"] == "AddressRefused"
    assert "host localhost is not among those" in error["message"]


async def test_secrets_are_put_in_where_the_definition_names_them_and_nowhere_else(
    space: Namespace, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    place = {"path": ["headers", "Authorization"], "name": "TOKEN", "format": "Bearer {}"}
    hostile = {"$secret": "OTHER"}  # in data: a variable's value
    request = {
        "method": "POST", "headers": {"Authorization": {"$secret": "TOKEN", "format": "Bearer {}"}},
        "body": {"note": hostile, "key": {"$secret": "TOKEN"}},
        "secrets": [place, {"path": ["body", "key"], "name": "TOKEN"}],
    }  # fmt: skip
    async with space.engine(http=LOOPBACK):
        got = await response(space, site.url("/echo"), **request)
        failed = await failure(space, site.url("/status/404"), **request)
    ((_, _, headers, body),) = site.seen
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert json.loads(body) == {"note": hostile, "key": SECRET}
    # The server has repeated it: that is not stored.
    assert got["json"]["headers"]["Authorization"] == "Bearer ***"
    stored = space.one("select string_agg(payload::text, ' ') from @.events")
    assert SECRET not in stored
    assert SECRET not in str(failed)
    assert SECRET not in caplog.text
    assert "another-secret" not in stored


async def test_a_secret_can_be_the_url_and_has_hosts_of_its_own(space: Namespace, site: Site) -> None:
    webhook = site.url("/echo") + "?hook=very-private"
    settings = pgd.Http(
        allow=("127.0.0.0/8",),
        secrets={"HOOK": webhook, "BANK": "of-the-bank"},
        secret_hosts={"BANK": ("bank.example",)},
    )
    async with space.engine(http=settings):
        instance = ask(
            space, "http", "call", {"url": {"$secret": "HOOK"}, "secrets": [{"path": ["url"], "name": "HOOK"}]}
        )
        assert (await ending(space, instance))["output"]["json"]["query"] == {"hook": "very-private"}
        bank = {"headers": {"Key": None}, "secrets": [{"path": ["headers", "Key"], "name": "BANK"}]}
        error = await failure(space, site.url("/echo"), **bank)
        assert "secret BANK may not be sent to 127.0.0.1" in error["message"]
        nobody = {"headers": {"Key": None}, "secrets": [{"path": ["headers", "Key"], "name": "NOBODY"}]}
        error = await failure(space, site.url("/echo"), **nobody)
        assert "this worker has no secret NOBODY" in error["message"]
        assert "PGDURABLE_SECRET_NOBODY" in error["hint"]
    assert len(site.seen) == 1


def test_where_secrets_come_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = pgd.Http()
    monkeypatch.setenv("PGDURABLE_SECRET_ONE", "1-of-environment")
    monkeypatch.setenv("PGDURABLE_SECRET_ONE__HOSTS", "a.example, *.b.example")
    monkeypatch.setenv("PGDURABLE_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("PGPASSWORD", "not-for-you")
    (tmp_path / "two").write_text("2-of-file\n")
    (tmp_path.parent / "outside").write_text("no")
    assert settings.secret("ONE", "A.example.") == "1-of-environment"
    assert settings.secret("ONE", "x.b.example") == "1-of-environment"
    assert settings.secret("two", "anywhere") == "2-of-file"
    for name, host in (("ONE", "b.example"), ("PGPASSWORD", "a.example"), ("../outside", "a.example"), ("..", "a")):
        with pytest.raises(pgd.PgDurableError):
            settings.secret(name, host)
    assert "1-of" not in repr(pgd.Http(secrets={"ONE": "1-of-repr"}))


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"url": "ftp://files.example/"}, "neither http:// nor https://"),
        ({"url": "/relative"}, "neither http:// nor https://"),
        ({"url": "http://a.example/", "method": "BREW"}, "BREW is no method"),
        ({"url": "http://a.example/", "headers": {"Content-Length": "3"}}, "header Content-Length is the client's own"),
        ({"url": "http://127.0.0.1/", "headers": {"X": "a\r\nB: c"}}, "line break"),
        ({"url": "http://a.example/", "headers": ["X"]}, "headers are no object"),
    ],
)
async def test_requests_that_are_none_are_refused_for_good(
    space: Namespace, request_: dict[str, Any], why: str
) -> None:
    async with space.engine(http=LOOPBACK):
        error = (await ending(space, ask(space, "http", "call", request_)))["error"]
    assert (error["type"], error["retryable"]) == ("InvalidRequest", False)
    assert why in error["message"] + error["type"]


async def test_a_call_is_recorded_before_it_leaves(space: Namespace, site: Site) -> None:
    async with space.engine(http=LOOPBACK):
        instance = http(space, site.url("/slow"))
        await until(lambda: site.seen, "the request has arrived")
        assert space.one("select owner is not null and taken_at is not null from @.tasks")
        assert await owned(space, instance)
        site.hold.set()
        assert (await ending(space, instance))["output"]["body"] == "at last"


async def test_a_cancelled_request_is_ended(space: Namespace, site: Site) -> None:
    async with space.engine(http=LOOPBACK) as engine:
        instance = http(space, site.url("/slow"))
        await until(lambda: site.seen, "the request has arrived")
        space.sql("insert into @.sql_runs (instance_id, open, state) values (%s, '{}', '{}')", instance)
        await until(lambda: not engine.running_steps(), "it is stopped")
    assert ends(space, instance) == []


async def test_an_engine_makes_no_requests_unless_it_is_told_to(
    space: Namespace, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    @pgd.step(name="http beside")
    async def beside() -> int:
        return 1

    instance = http(space, "http://a.example/")
    async with space.engine():
        await ending(space, ask(space, "python", "http beside"))
        assert ends(space, instance) == []
    monkeypatch.setattr("pgdurable.engine.have_http", lambda: False)
    with pytest.raises(pgd.PgDurableError, match=r"aiohttp is not installed\npip install 'pgdurable\[http\]'"):
        space.engine(http=True)
    assert http_step.have_http()


@pytest.mark.parametrize("bad", [{"allow": ("nowhere",)}, {"timeout": 0}, {"max_bytes": 0}, {"max_concurrency": 0}])
def test_settings_that_are_none(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Http\("):
        pgd.Http(**bad)
