"""The web console over HTTP: its files, its sessions, and all that it must refuse."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from queue_engine.domain.principals import Role
from queue_engine.domain.sessions import MAX_SESSIONS_PER_KEY
from queue_engine.store import keys
from queue_engine.store.api_keys import hash_of
from tests.api_server import RunningApi, running_api
from tests.waiting import wait_until_async

STATIC = Path(__file__).resolve().parents[2] / "queue_engine" / "web" / "static"
ME = "/console/api/me"


@dataclass
class Browser:
    """The requests of a page of the console. Each test changes the part that it is about."""

    api: RunningApi
    cookie: str = ""
    header: str = ""

    @property
    def origin(self) -> str:
        return self.api.url

    @property
    def cookie_name(self) -> str:
        return f"qe_session_{self.api.port}"

    def headers(self, **changes: str | None) -> dict[str, str]:
        """The headers of a request. A change of None leaves a header out."""
        given = {"cookie": f"{self.cookie_name}={self.cookie}", "x-console-session": self.header}
        given |= {"origin": self.origin}
        changed = {name.replace("_", "-"): value for name, value in changes.items()}
        return {name: value for name, value in (given | changed).items() if value is not None}

    async def send(self, method: str, path: str, *, json: object = None, **changes: str | None) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.api.url) as client:
            return await client.request(method, path, headers=self.headers(**changes), json=json)

    async def log_in(self, **body: str) -> httpx.Response:
        response = await self.send("POST", "/console/session", json=body, cookie=None, x_console_session=None)
        if response.status_code == 200:
            self.header = response.json()["data"]["session"]
            self.cookie = response.cookies[self.cookie_name]
        return response


@pytest.fixture
async def browser(api: RunningApi) -> Browser:
    """A browser that is logged in with the key of the tenant `default`."""
    logged_in = Browser(api)
    assert (await logged_in.log_in(apiKey=api.key)).status_code == 200
    return logged_in


@pytest.fixture
async def endpoint(browser: Browser) -> str:
    return await browser.api.create_endpoint()


@pytest.fixture
async def behind_proxy(valkey_url: str) -> AsyncIterator[RunningApi]:
    async with running_api(valkey_url, public_url="https://queue.example.com/engine") as running:
        yield running


class TestSessions:
    async def test_a_session_reads_and_changes_as_its_key_does(self, browser: Browser, endpoint: str) -> None:
        me = await browser.send("GET", ME)
        assert me.json()["data"]["tenant"] == "default"
        task = {"input": {"n": 1}, "workerPort": 8000, "processUri": "/run"}
        submitted = await browser.send("POST", f"/console/api/serverless/{endpoint}/tasks", json=task)
        assert submitted.status_code == 200, submitted.text
        task_id = submitted.json()["data"]["taskId"]
        path = f"serverless/{endpoint}/tasks/{task_id}/attempts"
        shown = await browser.send("GET", f"/console/api/{path}")
        assert shown.status_code == 200
        assert shown.json() == (await browser.api.client.get(f"/v2/{path}")).json()

    async def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(self, api: RunningApi) -> None:
        response = await Browser(api).log_in(apiKey=api.key)
        cookie = response.headers["set-cookie"]
        assert cookie.startswith(f"qe_session_{api.port}=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/console"} <= set(cookie.split("; "))
        assert "Secure" not in cookie

    async def test_the_store_has_neither_half_of_a_session(self, browser: Browser) -> None:
        async for name in browser.api.store.redis.scan_iter(match="{qe}:session*"):
            kind = await browser.api.store.redis.type(name)
            held = await (browser.api.store.redis.get(name) if kind == b"string" else _members(browser.api, name))
            for half in (browser.cookie, browser.header):
                assert half.encode() not in name + held

    async def test_a_session_ends_with_its_key(self, api: RunningApi) -> None:
        key = await api.new_key("default")
        browser = Browser(api)
        await browser.log_in(apiKey=key)
        assert (await browser.send("GET", ME)).status_code == 200
        stored = await api.store.api_keys.find(hash_of(key))
        assert stored is not None
        await api.store.api_keys.revoke_key(stored)
        await wait_until_async(lambda: _is_refused(browser))

    async def test_an_idle_session_ends(self, browser: Browser) -> None:
        record = keys.console_session(hash_of(f"{browser.cookie}.{browser.header}"))
        left = await browser.api.store.redis.pttl(record)
        assert 11.9 * 3_600_000 < left <= 12 * 3_600_000
        await browser.api.store.redis.pexpire(record, 1)
        await wait_until_async(lambda: _is_refused(browser))

    async def test_use_renews_a_session_but_not_beyond_its_life(self, browser: Browser) -> None:
        secret = hash_of(f"{browser.cookie}.{browser.header}")
        redis, record = browser.api.store.redis, keys.console_session(secret)
        await redis.pexpire(record, 60_000)
        await browser.api.store.sessions.note_use(secret)
        assert await redis.pttl(record) > 11 * 3_600_000
        key_hash, end = (await redis.get(record)).split(b" ")
        soon = int(end) - 7 * 86_400_000 + 1_000_000
        await redis.set(record, b"%b %d" % (key_hash, soon), px=60_000)
        await browser.api.store.sessions.note_use(secret)
        assert await redis.pttl(record) <= 1_000_000

    async def test_a_key_has_at_most_twenty_sessions(self, api: RunningApi) -> None:
        browsers = [Browser(api) for _ in range(MAX_SESSIONS_PER_KEY + 1)]
        for one in browsers:
            assert (await one.log_in(apiKey=api.key)).status_code == 200
        first, second, last = browsers[0], browsers[1], browsers[-1]
        assert (await first.send("GET", ME)).status_code == 401
        assert (await second.send("GET", ME)).status_code == 200
        assert (await last.send("GET", ME)).status_code == 200
        index = keys.console_sessions_of(hash_of(api.key))
        assert await api.store.redis.zcard(index) == MAX_SESSIONS_PER_KEY

    async def test_many_who_log_in_at_the_same_time_all_have_a_session(self, api: RunningApi) -> None:
        browsers = [Browser(api) for _ in range(MAX_SESSIONS_PER_KEY)]
        responses = await asyncio.gather(*(one.log_in(apiKey=api.key) for one in browsers))
        assert {one.status_code for one in responses} == {200}
        assert {(await one.send("GET", ME)).status_code for one in browsers} == {200}

    async def test_logging_out_ends_the_session_in_the_store(self, browser: Browser) -> None:
        other = Browser(browser.api)
        await other.log_in(apiKey=browser.api.key)
        response = await browser.send("DELETE", "/console/session")
        assert response.status_code == 200
        assert "Max-Age=0" in response.headers["set-cookie"]
        assert (await browser.send("GET", ME)).status_code == 401
        assert (await other.send("GET", ME)).status_code == 200

    async def test_logging_out_everywhere_ends_all_sessions_of_the_key(self, browser: Browser) -> None:
        other, of_other_key = Browser(browser.api), Browser(browser.api)
        await other.log_in(apiKey=browser.api.key)
        await of_other_key.log_in(apiKey=await browser.api.new_key("default"))
        assert (await browser.send("DELETE", "/console/session?everywhere=true")).status_code == 200
        await wait_until_async(lambda: _is_refused(other))
        assert (await of_other_key.send("GET", ME)).status_code == 200

    @pytest.mark.parametrize("role", [Role.READ, Role.SUBMIT])
    async def test_a_session_has_the_role_of_its_key(self, browser: Browser, endpoint: str, role: Role) -> None:
        limited = Browser(browser.api)
        await limited.log_in(apiKey=await browser.api.new_key("default", role=role))
        assert (await limited.send("GET", ME)).json()["data"]["role"] == role
        refused = await limited.send("DELETE", f"/console/api/serverless/{endpoint}")
        assert refused.status_code == 403
        assert f"the role {role} does not allow this" in refused.json()["message"]


class TestLinks:
    async def test_a_link_logs_a_browser_in_once(self, api: RunningApi) -> None:
        url = (await api.client.post("/v2/console-links")).json()["data"]["url"]
        page, _, token = url.partition("#login=")
        assert page == f"{api.url}/console"
        browser = Browser(api)
        assert (await browser.log_in(login=token)).status_code == 200
        assert (await browser.send("GET", ME)).json()["data"]["tenant"] == "default"
        again = await Browser(api).log_in(login=token)
        assert (again.status_code, again.json()["code"]) == (401, 40101)

    async def test_of_many_who_use_a_link_at_the_same_time_one_is_logged_in(self, api: RunningApi) -> None:
        token = await _link_token(api)
        responses = await asyncio.gather(*(Browser(api).log_in(login=token) for _ in range(20)))
        assert sorted(one.status_code for one in responses) == [200, *[401] * 19]

    async def test_a_link_expires_after_ten_minutes(self, api: RunningApi) -> None:
        token = await _link_token(api)
        record = keys.console_link(hash_of(token))
        assert 590_000 < await api.store.redis.pttl(record) <= 600_000
        await api.store.redis.pexpire(record, 1)
        await wait_until_async(lambda: _is_gone(api, record))
        assert (await Browser(api).log_in(login=token)).status_code == 401

    async def test_the_store_has_no_link_in_the_clear_and_few_of_a_key(self, api: RunningApi) -> None:
        tokens = [await _link_token(api) for _ in range(MAX_SESSIONS_PER_KEY + 2)]
        names = [name async for name in api.store.redis.scan_iter(match="{qe}:link:*")]
        assert len(names) == MAX_SESSIONS_PER_KEY
        assert not any(token.encode() in name for token in tokens for name in names)

    @pytest.mark.parametrize("token", ["", "x", "A" * 43, "ü" * 43, "A" * 42 + "\n"])
    async def test_a_made_up_link_is_refused(self, api: RunningApi, token: str) -> None:
        assert (await Browser(api).log_in(login=token)).status_code == 401

    async def test_a_link_of_a_revoked_key_begins_no_session(self, api: RunningApi) -> None:
        key = await api.new_key("default")
        token = await _link_token(api, key)
        stored = await api.store.api_keys.find(hash_of(key))
        assert stored is not None
        await api.store.api_keys.revoke_key(stored)
        assert (await Browser(api).log_in(login=token)).status_code == 401


class TestRefused:
    async def test_half_a_session_opens_nothing(self, browser: Browser) -> None:
        assert (await browser.send("GET", ME, x_console_session=None)).status_code == 401
        assert (await browser.send("GET", ME, cookie=None)).status_code == 401
        assert (await browser.send("POST", "/console/api/console-links", x_console_session=None)).status_code == 401

    async def test_halves_of_different_sessions_open_nothing(self, browser: Browser) -> None:
        other = Browser(browser.api)
        await other.log_in(apiKey=browser.api.key)
        assert (await browser.send("GET", ME, x_console_session=other.header)).status_code == 401
        assert (await other.send("GET", ME, x_console_session=browser.header)).status_code == 401

    async def test_a_cookie_that_another_port_has_set_besides_is_refused(self, browser: Browser) -> None:
        two = f"{browser.cookie_name}={browser.cookie}; __Secure-{browser.cookie_name}={'A' * 43}"
        assert (await browser.send("GET", ME, cookie=two)).status_code == 401

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", None, "http://127.0.0.1:9", "file://", ""])
    async def test_a_change_from_another_page_is_refused(
        self, browser: Browser, endpoint: str, origin: str | None
    ) -> None:
        refused = await browser.send("DELETE", f"/console/api/serverless/{endpoint}", origin=origin)
        assert (refused.status_code, refused.json()["message"]) == (403, "Origin: must be the console's own")
        assert (await browser.send("GET", f"/console/api/serverless/{endpoint}")).status_code == 200
        logged_in = await browser.send("POST", "/console/session", json={"apiKey": browser.api.key}, origin=origin)
        assert logged_in.status_code == 403
        assert (await browser.send("DELETE", "/console/session", origin=origin)).status_code == 403

    async def test_a_read_from_another_page_is_refused(self, browser: Browser) -> None:
        assert (await browser.send("GET", ME, origin="https://evil.example")).status_code == 403
        assert (await browser.send("GET", ME, origin=None)).status_code == 200

    @pytest.mark.parametrize("path", ["/v2/me", "/v2/serverless", "/e/1/run", "/metrics"])
    async def test_a_session_means_nothing_outside_the_console(self, browser: Browser, path: str) -> None:
        with_session = await browser.send("GET", path)
        without = await browser.send("GET", path, cookie=None, x_console_session=None)
        assert with_session.status_code == without.status_code
        assert with_session.status_code == (200 if path == "/metrics" else 401)

    async def test_an_api_key_means_nothing_to_the_console(self, browser: Browser) -> None:
        refused = await browser.send("GET", ME, cookie=None, x_console_session=None, x_api_key=browser.api.key)
        assert refused.status_code == 401

    @pytest.mark.parametrize("path", ["../metrics", "%2e%2e/metrics", "..%2fmetrics", "e/1/run", "agent/v1/x", ""])
    async def test_the_console_reaches_no_path_but_operations(self, browser: Browser, path: str) -> None:
        lines = await _raw(browser.api, f"GET /console/api/{path}", browser.headers())
        assert lines[0].split(b" ")[1] in (b"404", b"401"), lines

    async def test_a_preflight_gets_no_permission(self, browser: Browser) -> None:
        headers = {"access-control-request-method": "GET", "access-control-request-headers": "x-console-session"}
        asked = await browser.send("OPTIONS", ME, origin="https://evil.example", **headers)
        assert asked.status_code == 405
        assert not [name for name in asked.headers if name.startswith("access-control")]

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", ""])
    async def test_a_host_that_is_not_loopback_is_refused_on_loopback(self, browser: Browser, host: str) -> None:
        for path in ("/console", "/console/tasks", ME):
            response = await browser.send("GET", path, host=host, origin=None)
            assert response.status_code in (400, 403), response.text

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "127.1.2.3:8000"])
    async def test_names_of_loopback_are_accepted(self, browser: Browser, host: str) -> None:
        assert (await browser.send("GET", "/console", host=host)).status_code == 200

    @pytest.mark.parametrize(
        "path",
        [
            "../../keys.py",
            "..%2f..%2fkeys.py",
            "%2e%2e/x",
            "assets/..%2findex.html",
            "assets/%00",
            "a%00b",
            "assets/x.js",
        ],
    )
    async def test_files_are_a_fixed_table(self, browser: Browser, path: str) -> None:
        lines = await _raw(browser.api, f"GET /console/{path}", {})
        assert lines[0].split(b" ")[1] in (b"404", b"400"), lines

    @pytest.mark.parametrize("body", [{}, {"apiKey": 1}, {"apiKey": "x" * 5000}, {"apiKey": "a", "login": "b"}, []])
    async def test_a_log_in_that_is_none_is_refused(self, browser: Browser, body: object) -> None:
        response = await browser.send("POST", "/console/session", json=body)
        assert response.status_code in (400, 413)

    @pytest.mark.parametrize("key", ["", "wrong-key", "sch\u00fcssel", "a b", "x\r\ny"])
    async def test_a_wrong_key_is_refused(self, api: RunningApi, key: str) -> None:
        response = await Browser(api).log_in(apiKey=key)
        assert (response.status_code, response.json()["message"]) == (401, "apiKey: must be a valid API key")

    async def test_guesses_of_keys_are_limited_for_an_address(self, valkey_url: str) -> None:
        async with running_api(valkey_url, unknown_keys_per_minute=3) as api:
            statuses = [(await Browser(api).log_in(apiKey=f"guess-{number}")).status_code for number in range(5)]
            assert statuses == [401, 401, 401, 429, 429]
            assert (await Browser(api).log_in(apiKey=api.key)).status_code == 200


class TestFiles:
    async def test_every_path_of_a_view_gets_the_page(self, browser: Browser) -> None:
        pages = [await browser.send("GET", path) for path in ("/console", "/console/", "/console/tasks/7/a:b?x=1")]
        assert {one.status_code for one in pages} == {200}
        assert {one.headers["cache-control"] for one in pages} == {"no-cache"}
        assert len({one.text for one in pages}) == 1

    async def test_the_page_loads_only_its_own_files(self, browser: Browser) -> None:
        page = await browser.send("GET", "/console")
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            "require-trusted-types-for": "'script'",
            "trusted-types": "'none'",
        }
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cross-origin-opener-policy"] == "same-origin"
        assert page.headers["cross-origin-resource-policy"] == "same-origin"
        assert "camera=()" in page.headers["permissions-policy"]
        assert "<script>" not in page.text
        assert "style=" not in page.text

    async def test_files_with_a_hash_are_kept_for_good_and_sent_compressed(self, browser: Browser) -> None:
        names = [path.name for path in STATIC.iterdir() if path.suffix in (".js", ".css")]
        assert names
        for name in names:
            packed = await browser.send("GET", f"/console/assets/{name}", accept_encoding="gzip")
            assert packed.headers["content-encoding"] == "gzip"
            plain = await browser.send("GET", f"/console/assets/{name}", accept_encoding="gzip;q=0, br")
            assert "content-encoding" not in plain.headers
            assert packed.content == plain.content == (STATIC / name).read_bytes()
            assert gzip.decompress((STATIC / f"{name}.gz").read_bytes()) == plain.content
            for response in (packed, plain):
                assert "immutable" in response.headers["cache-control"]
                assert response.headers["vary"] == "Accept-Encoding"

    async def test_no_file_is_for_writing(self, browser: Browser) -> None:
        assert (await browser.send("POST", "/console/tasks")).status_code == 405
        assert (await browser.send("HEAD", "/console")).status_code == 200

    async def test_the_index_of_the_api_names_it(self, browser: Browser) -> None:
        assert (await browser.send("GET", "/")).json()["data"]["console"] == "/console"

    async def test_without_the_console_no_path_exists(self, valkey_url: str) -> None:
        async with running_api(valkey_url, console="off") as api:
            browser = Browser(api)
            for method, path in (
                ("GET", "/console"), ("GET", "/console/tasks"), ("GET", ME), ("POST", "/console/session"),
            ):  # fmt: skip
                assert (await browser.send(method, path, json={"apiKey": api.key})).status_code == 404
            assert (await api.client.post("/v2/console-links")).status_code == 404
            assert "console" not in (await api.client.get("/")).json()["data"]


class TestBehindProxy:
    async def test_the_public_url_gives_origin_prefix_and_secure_cookie(self, behind_proxy: RunningApi) -> None:
        browser = Browser(behind_proxy)
        public = "https://queue.example.com"
        response = await browser.send("POST", "/console/session", json={"apiKey": behind_proxy.key}, origin=public)
        assert response.status_code == 200, response.text
        name, _, value = response.headers["set-cookie"].split("; ")[0].partition("=")
        assert name == f"__Secure-qe_session_{behind_proxy.port}"
        assert {"Secure", "Path=/engine/console"} <= set(response.headers["set-cookie"].split("; "))
        session = response.json()["data"]["session"]
        given = {"cookie": f"{name}={value}", "x_console_session": session, "origin": public}
        assert (await browser.send("GET", ME, host="queue.example.com", **given)).status_code == 200
        link = await browser.send("POST", "/console/api/console-links", **given)
        assert link.json()["data"]["url"].startswith(f"{public}/engine/console#login=")
        page = await browser.send("GET", "/console/tasks")
        assert "/engine/console/assets/" in page.text

    async def test_another_name_is_no_origin_of_it(self, behind_proxy: RunningApi) -> None:
        given = {"origin": "https://other.example", "json": {"apiKey": behind_proxy.key}}
        refused = await Browser(behind_proxy).send("POST", "/console/session", **given)  # type: ignore[arg-type]
        assert refused.status_code == 403


async def _link_token(api: RunningApi, key: str | None = None) -> str:
    headers = {"x-api-key": key or api.key}
    url: str = (await api.client.post("/v2/console-links", headers=headers)).json()["data"]["url"]
    return url.partition("#login=")[2]


async def _is_refused(browser: Browser) -> bool:
    return (await browser.send("GET", ME)).status_code == 401


async def _is_gone(api: RunningApi, record: str) -> bool:
    return not await api.store.redis.exists(record)


async def _members(api: RunningApi, name: bytes) -> bytes:
    members: list[bytes] = await api.store.redis.zrange(name, 0, -1)
    return b" ".join(members)


async def _raw(api: RunningApi, request: str, headers: dict[str, str]) -> list[bytes]:
    """Send a request as it is written, because a client would normalize its path. Return the lines of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    lines = [f"{request} HTTP/1.1", f"host: 127.0.0.1:{api.port}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    received = await reader.read()
    writer.close()
    return received.split(b"\r\n")


class TestPayloads:
    """`QUEUE_ENGINE_CONSOLE_PAYLOADS=never` keeps inputs, outputs, headers and logs out of all responses."""

    @pytest.fixture
    async def without(self, valkey_url: str) -> AsyncIterator[Browser]:
        async with running_api(valkey_url, console_payloads="never") as api:
            browser = Browser(api)
            assert (await browser.log_in(apiKey=api.key)).status_code == 200
            yield browser

    async def test_the_page_says_how_payloads_are_shown(self, without: Browser, browser: Browser) -> None:
        assert '<meta name="console-payloads" content="never">' in (await without.send("GET", "/console")).text
        assert '<meta name="console-payloads" content="show">' in (await browser.send("GET", "/console")).text

    async def test_no_response_to_the_console_has_one(self, without: Browser) -> None:
        api = without.api
        endpoint = await api.create_endpoint()
        task = {
            "input": {"n": "secret-input"},
            "workerPort": 80,
            "processUri": "/",
            "headers": {"X-A": "secret-header"},
        }
        path = f"serverless/{endpoint}/tasks"
        submitted = await without.send("POST", f"/console/api/{path}?wait=0", json={**task, "taskId": "t1"})
        read = await without.send("GET", f"/console/api/{path}/t1")
        waited = await without.send("POST", f"/console/api/{path}/wait", json={"taskIds": ["t1"]})
        for response in (submitted, read, waited):
            assert response.status_code == 200
            assert "secret-" not in response.text
        shown = read.json()["data"]
        assert (shown["input"], shown["output"], shown["headers"]) == (None, None, {})
        head = await without.send("GET", f"/console/api/{path}/t1?payload=head")
        assert "secret-" not in head.text
        assert (head.json()["data"]["inputHead"], head.json()["data"]["outputHead"]) == (None, None)
        for part in ("input", "output"):
            assert (await without.send("GET", f"/console/api/{path}/t1/{part}")).status_code == 403
        with_key = await api.client.get(f"/v2/{path}/t1")
        assert with_key.json()["data"]["input"] == task["input"]

    async def test_a_list_by_the_text_of_an_input_is_refused(self, without: Browser) -> None:
        endpoint = await without.api.create_endpoint()
        path = f"/console/api/serverless/{endpoint}"
        operation = {"action": "retry", "filter": {"input": "a"}, "dryRun": True}
        refused = [
            await without.send("GET", f"{path}/tasks?input=a"),
            await without.send("GET", f"{path}/tasks/export?include=input"),
            await without.send("GET", f"{path}/tasks/export?input=a"),
            await without.send("GET", f"{path}/workers/w1/logs"),
            await without.send("GET", f"/console/api/events?topics=log:{endpoint}:w1"),
            await without.send("POST", f"{path}/operations", json=operation),
        ]
        for response in refused:
            assert response.status_code == 403, response.text
            assert "QUEUE_ENGINE_CONSOLE_PAYLOADS=never" in response.json()["message"]
        assert (await without.api.client.get(f"/v2/serverless/{endpoint}/tasks?input=a")).status_code == 200
