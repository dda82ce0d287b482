"""Files over the served page: which can be read, what uploads leave behind, and which routes are closed."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import FILE_DATA, LIMIT_MB, Page, memory, snapshot, write


def test_files_of_the_project_are_served_and_nothing_else(page, parent, nothing_outside):
    folder = page.project.folder
    response = page.client.get(f"/gradio_api/file={folder}/voices/v.wav")
    assert response.content == (folder / "voices" / "v.wav").read_bytes()
    # A page among the files could otherwise act for the user.
    assert "sandbox" in response.headers["content-security-policy"]
    secret = parent / "outside" / "secret.txt"
    refused = [
        secret, f"{folder}/../outside/secret.txt", f"{folder}/data/../../outside/secret.txt", "/etc/passwd",
        f"{folder}/%2e%2e/outside/secret.txt", f"{folder}/%252e%252e/outside/secret.txt",
        f"{folder}%2f..%2foutside%2fsecret.txt",
        f"{folder}/..\\outside\\secret.txt", "../outside/secret.txt", "outside/secret.txt", f"//{secret}", f"file://{secret}",
        "http://example.org/a.wav", "https://127.0.0.1/", f"{folder}/data/link.wav", f"{folder}/project.json",
        f"{folder}/PROJECT.JSON", f"{folder}/data/../project.json", f"{folder}/jobs/old/command.json",
        f"{folder}/data/jobs.csv", f"{folder}/jobs", f"{folder}", f"{folder}/missing.wav", f"{folder}/a%00b", "%00", "",
        "x" * 5000, f"{parent}/base/config.json",
    ]  # fmt: skip
    for name in refused:
        for method in ("GET", "HEAD"):
            response = page.client.request(method, f"/gradio_api/file={name}")
            assert response.status_code in (403, 404), name
            assert b"secret" not in response.content or b"no such" in response.content, name


@pytest.mark.parametrize(
    "route",
    ["proxy=http://a.hf.space/", "stream/a", "component_server", "component_server/", "deep_link?session_hash=session",
     "process_recording", "run/predict", "api/predict", "call/predict", "call/v2/predict", "run-history/buckets",
     "runs", "vibe-edit", "vibe-code", "dev/reload", "openapi.json", "token", "user", "mcp", "mcp/sse", "reset",
     "cancel", "file/etc/passwd", "custom_component/a/client/b/c.js", "profiling/traces", "monitoring", "../monitoring",
     "../monitoring/summary", "../monitoring/key", "../pwa_icon", "../docs", "../openapi.json", "heartbeat", "."],
)  # fmt: skip
def test_other_routes_are_closed(page, route, nothing_outside):
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"):
        response = page.client.request(method, f"/gradio_api/{route}")
        assert (response.status_code, response.text) == (404, "There is nothing at this address."), method


def test_uploads_have_names_of_their_own_and_a_limit(page, nothing_outside):
    uploads = page.project.folder / ".page"
    for name in (
        "../../outside/a.csv",
        "/etc/a.csv",
        "..\\..\\a.csv",
        "a\0.csv",
        "..",
        "",
        "a" * 5000 + ".csv",
        "$(id).csv",
    ):
        response = page.upload((name, b"x"))
        assert response.status_code in (200, 400, 413), response.text
        paths = response.json() if response.status_code == 200 else []
        assert all(Path(path).resolve().is_relative_to(uploads) for path in paths)
    before = snapshot(uploads)
    too_large = page.upload(("a.csv", b"x" * (LIMIT_MB * 1_000_000 + 1)))
    assert (too_large.status_code, "exceeded maximum allowed size" in too_large.text) == (413, True)
    together = page.upload(*((f"{number}.csv", bytes([number]) * 4_000_000) for number in range(3)))
    assert (together.status_code, "The files exceed the maximum allowed size of 5 MB per upload" in together.text) == (
        413,
        True,
    )
    assert snapshot(uploads) == before


def test_damaged_uploads_are_refused_with_a_sentence(page):
    kind = {"content-type": "multipart/form-data; boundary=zz"}
    for content in (
        b"",
        b"zz",
        b"--zz\r\n\r\n",
        b'--zz\r\nContent-Disposition: form-data; name="files"\r\n\r\na\r\n--zz--\r\n',
    ):
        response = page.client.post("/gradio_api/upload", content=content, headers=kind)
        assert response.status_code in (200, 400), response.text
        assert "Traceback" not in response.text
    assert page.client.post("/gradio_api/upload", content=b"x").status_code == 400


def test_an_upload_that_is_cut_off_leaves_nothing(page):
    uploads = page.project.folder / ".page"
    before = snapshot(uploads)
    host, port = page.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 3000000\r\n"
        part = '--zz\r\nContent-Disposition: form-data; name="files"; filename="cut.csv"\r\n\r\n'
        kind = "Content-Type: multipart/form-data; boundary=zz\r\n\r\n"
        connection.sendall((head + kind + part).encode() + b"x" * 1_000_000)
        time.sleep(0.3)
        assert len(snapshot(uploads)) == len(before) + 1
    end = time.monotonic() + 10
    while snapshot(uploads) != before and time.monotonic() < end:
        time.sleep(0.05)
    assert snapshot(uploads) == before


def test_an_upload_stops_before_the_disk_is_full(page, monkeypatch):
    monkeypatch.setattr("xtts_extend.page.gate.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    response = page.upload(("a.csv", b"x"))
    assert (response.status_code, response.text) == (
        400, "The disk is full. Free some space, then upload the files again."
    )  # fmt: skip


def test_uploaded_files_are_stored_under_their_checked_names(page, nothing_outside):
    number = page.event("Add files")
    path = page.upload(("ok.csv", b"audio_file|text|speaker_name\n")).json()[0]
    for name in (
        "../../outside/a.csv",
        "/etc/a.csv",
        "a/b.csv",
        "..\\a.csv",
        "$(id).csv",
        "-h.csv",
        "a\0.csv",
        "a.exe",
    ):
        answer = page.fire(number, [[{"path": path, "orig_name": name, "meta": FILE_DATA}]])
        assert (isinstance(answer, str) and answer.endswith((".", "+,"))) or "Use up to" in str(answer), answer
    taken = page.project.folder / "data" / "train.csv"
    answer = page.fire(number, [[{"path": str(taken), "orig_name": "b.csv", "meta": FILE_DATA}]])
    assert answer == "This file was not uploaded here, or has since been removed. Upload it again."
    assert not {"a.csv", "b.csv", "a.exe"} & {file.name for file in (page.project.folder / "data").rglob("*")}


def test_recordings_behind_links_are_not_copied_to_the_page(page, nothing_outside):
    """The second row of the manifest names a file outside of the project."""
    number = page.event("Row")
    player, text = page.fire(number, ["train.csv", 2])
    assert (player, text) == (None, "text")


def test_shown_recordings_are_copied_into_the_project_only(page, nothing_outside):
    labels = [page.label(one) for one in page.events[page.event("Comparison to listen to")]["inputs"]]
    assert labels == ["Comparison to listen to"]
    shown = page.fire(page.event("Comparison to listen to"), ["one"])[1]["value"]
    assert Path(shown["path"]).is_relative_to(page.project.folder / ".page")
    assert page.client.get(shown["url"]).content == (page.project.folder / "compared" / "one" / "a.wav").read_bytes()


def test_old_uploads_are_removed_when_the_page_starts(tmp_path, monkeypatch):
    from xtts_extend.page.server import _remove_old_uploads

    for name in ("old", "new"):
        write(tmp_path / name / "a.csv", name)
    os.utime(tmp_path / "old" / "a.csv", (0, 0))
    _remove_old_uploads(tmp_path)
    assert snapshot(tmp_path) == {str(tmp_path / "new" / "a.csv"): b"new"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_upload_is_streamed_to_disk(page):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")
        large = Page(page.project, upload_limit_mb=400)
    boundary, size = b"zz", 300_000_000
    head = b'--zz\r\nContent-Disposition: form-data; name="files"; filename="large.csv"\r\n\r\n'

    def content() -> Iterator[bytes]:
        yield head
        for _ in range(size // 1_000_000):
            yield b"x" * 1_000_000
        yield b"\r\n--zz--\r\n"

    before, most = memory(), 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.01):
            most = max(most, memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    kind = {"content-type": f"multipart/form-data; boundary={boundary.decode()}"}
    response = large.client.post("/gradio_api/upload", content=content(), headers=kind, timeout=300)
    ended.set()
    watcher.join()
    stored = Path(response.json()[0]).stat().st_size
    # This removes the upload.
    large.blocks.close(verbose=False)
    assert stored == size
    assert most - before < 50_000_000, f"{(most - before) / 1e6:.0f} MB"
