"""The dashboard's folder over real sockets of this machine: what is served, to whom, and how it is fenced."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.adapters.http.admin import Page
from sidecar.adapters.http.folder import FolderServer, is_loopback
from sidecar.errors import StartupError

KEY = "a-key"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "page"
    (place / "js").mkdir(parents=True)
    (place / "index.html").write_text("<p>hello")
    (place / "js/app.js").write_text("1")
    (place / "notes.bin").write_bytes(b"not a page")
    (tmp_path / "outside.txt").write_text("outside")
    return place


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[FolderServer]:
    made = FolderServer(
        folder,
        host="127.0.0.1",
        port=0,
        more={"/config.json": Page(b"{}")},
        secrets={"/credentials": Page(b"secret", content_type="text/plain")},
        key=KEY,
    )
    await made.start()
    yield made
    await made.close()


async def get(server: FolderServer, path: str, *headers: str, host: str | None = None) -> tuple[int, str, str]:
    """Status, head and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    lines = [f"GET {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{server.port}'}", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split(" ")[1]), head, body


async def test_the_folder_is_served_with_its_types(server: FolderServer) -> None:
    status, head, body = await get(server, "/")
    assert (status, body) == (200, "<p>hello")
    assert "Content-Type: text/html; charset=utf-8" in head
    status, head, _ = await get(server, "/js/app.js?v=1")
    assert status == 200
    assert "Content-Type: text/javascript; charset=utf-8" in head
    assert (await get(server, "/config.json"))[0] == 200


async def test_every_page_carries_the_fences(server: FolderServer) -> None:
    for path in ("/", "/js/app.js", "/config.json"):
        _, head, _ = await get(server, path)
        assert "Content-Security-Policy: default-src 'none'; script-src 'self'" in head
        assert "frame-ancestors 'none'" in head
        assert "X-Content-Type-Options: nosniff" in head
        assert "Referrer-Policy: no-referrer" in head
        assert "Cross-Origin-Resource-Policy: same-origin" in head
        assert "Cache-Control: no-store" in head
        assert "Access-Control" not in head


@pytest.mark.parametrize(
    "path",
    ["/../outside.txt", "/js/../../outside.txt", "/%2e%2e/outside.txt", "//etc/passwd", "/notes.bin", "/js/"],
)
async def test_nothing_else_is_served(server: FolderServer, path: str) -> None:
    status, _, body = await get(server, path)
    assert status == 404
    assert "outside" not in body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "::"])
async def test_a_name_of_the_web_does_not_reach_in(server: FolderServer, host: str) -> None:
    assert (await get(server, "/", host=host or " "))[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8090", "127.0.0.1", "[::1]:8090"])
async def test_this_machines_names_do(server: FolderServer, host: str) -> None:
    assert (await get(server, "/", host=host))[0] == 200


async def test_credentials_are_for_the_key_alone(server: FolderServer) -> None:
    assert (await get(server, "/credentials", f"Sidecar-Key: {KEY}"))[2] == "secret"
    for headers in ([], ["Sidecar-Key: "], ["Sidecar-Key: other"], [f"Cookie: {KEY}"]):
        status, _, body = await get(server, "/credentials", *headers)
        assert status == 403
        assert "secret" not in body
    assert (await get(server, f"/credentials?key={KEY}"))[0] == 403
    assert (await get(server, "/credentials", f"Sidecar-Key: {KEY}", host="evil.example"))[0] == 403


async def test_credentials_are_not_served_to_other_machines(folder: Path) -> None:
    for host, key in (("0.0.0.0", KEY), ("192.0.2.1", KEY), ("example.org", KEY), ("127.0.0.1", "")):
        with pytest.raises(StartupError, match="loopback"):
            FolderServer(folder, host=host, port=0, secrets={"/credentials": Page(b"")}, key=key)


async def test_a_taken_port_is_an_error_with_a_remedy(folder: Path, server: FolderServer) -> None:
    second = FolderServer(folder, host="127.0.0.1", port=server.port)
    with pytest.raises(StartupError, match="--port"):
        await second.start()


async def test_what_is_no_http_is_refused(server: FolderServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"\xff\x00 nonsense\r\n\r\n")
    assert (await reader.read()).split(b" ")[1] in {b"400", b"403"}
    writer.close()


def test_loopback_is_told_from_other_addresses() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))


async def test_a_pages_own_modules_are_served_and_other_pages_get_nothing(server: FolderServer) -> None:
    """Browsers name the origin where a page loads its modules."""
    own = f"http://127.0.0.1:{server.port}"
    assert (await get(server, "/js/app.js", f"Origin: {own}", "Sec-Fetch-Site: same-origin"))[0] == 200
    foreign = (
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://127.0.0.1",
        "Sec-Fetch-Site: cross-site",
    )
    for others in foreign:
        assert (await get(server, "/js/app.js", others))[0] == 403
    assert (await get(server, "/js/app.js", f"Origin: {own}", "Sec-Fetch-Site: cross-site"))[0] == 403
