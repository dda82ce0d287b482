"""Hostile values and requests: nothing outside of the project is read, written or started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data_sets import CLIP
from served import FILE_DATA, SCRIPT, Page

#: Label of a component → value with which its events get as far as they can.
VALID: dict[str, Any] = {
    "Text of the recordings": "book.txt",
    "Speaker": "አና",
    "Lowest score": "0.5",
    "Alignment model": "ctc",
    "Speech recognizer": "facebook/mms-1b-all",
    "Language code of the models": "amh",
    "Clips": "accepted",
    "First clip": 1,
    "Clip": CLIP,
    "Text of the clip": "ሰላም",
    "Start (s)": 1.5,
    "End (s)": 3.5,
    "Language to learn": "am",
    "Manifest": "train.csv",
    "Row": 1,
    "First row": 1,
    "Text": "ሰላም",
    "Texts to learn from": ["train.csv"],
    "New entries": 100,
    "Name of the vocabulary": "new",
    "Vocabulary": "v.json",
    "1. Which recordings to learn from?": "train.csv",
    "2. Which recordings to test on?": "train.csv",
    "3. Which vocabulary?": "v.json",
    "4. How long?": 24,
    "Unit": "hours",
    "5. Which voice speaks a test sentence?": "v.wav",
    "Test sentence": "ሰላም",
    "Run": "run",
    "Run to resume": "run",
    "Run to export": "run",
    "Models to compare": ["base model"],
    "Languages": "am, en",
    "Voice": ["v.wav"],
    "Text to speak": "ሰላም",
    "Comparison to listen to": "one",
    "What to write": "Model folder (base and pack)",
    "Name of the export": "export",
    "Licence of the recordings": "",
    "Pack to download": "am.safetensors",
}


def hostile_values(parent: Path) -> list[Any]:
    secret = str(parent / "outside" / "secret.txt")
    return [
        "../../outside/secret.txt", secret, "..\\..\\outside\\secret.txt", "file://" + secret, "a\0b", "a\nb", "\ud800",
        f"$(touch {parent}/pwned)", f"; rm -rf {parent}/outside", f"| touch {parent}/pwned", f"--output={parent}/pwned",
        "-h", "x" * 100_000, "CON", "", None, [], {}, ["../../outside/secret.txt"], [None, [[]]], True, -1, 10**400,
        float("nan"), float("inf"), 1e308, {"path": secret}, {"path": secret, "meta": FILE_DATA},
        [{"path": secret, "meta": FILE_DATA, "orig_name": "a.csv"}],
        [{"path": "http://example.org/a.csv", "meta": FILE_DATA, "orig_name": "a.csv"}],
    ]  # fmt: skip


def attack(page: Page, started: list[list[str]], event: dict[str, Any], place: int, value: Any) -> None:
    """Send one hostile value among valid ones."""
    labels = [page.label(one) for one in event["inputs"]]
    data = [VALID.get(label) for label in labels]
    data[place] = value
    started.clear()
    answer = page.fire(event["id"], data)
    if isinstance(answer, str):
        assert answer.strip() not in ("", "None"), (labels[place], value)
        assert not any(word in answer for word in ("Traceback", "object at 0x", 'File "', "Internal Server")), answer
    free = ("--text=", "--test-sentence=", "--licence=")
    for argument in (one for arguments in started for one in arguments):
        hostile = value if isinstance(value, str) and len(value) > 3 else "outside"
        assert hostile not in argument or argument.startswith(free), (labels[place], argument)


def attacks(page: Page, values: list[Any]) -> Iterator[tuple[dict[str, Any], int, Any]]:
    """Yield every value for every field of every event."""
    for event in page.events.values():
        for place, component in enumerate(event["inputs"]):
            if page.components[component]["type"] != "state":
                yield from ((event, place, value) for value in values)


def test_hostile_values_in_any_field_stay_in_the_project(page, parent, started, nothing_outside):
    tried = list(attacks(page, hostile_values(parent)))
    # Every field gets some of the values, and every value some of the fields; the slow test tries all.
    for event, place, value in tried[:: max(1, len(tried) // 150) | 1]:
        attack(page, started, event, place, value)


@pytest.mark.slow
def test_all_hostile_values_in_all_fields_stay_in_the_project(page, parent, started, nothing_outside):
    for event, place, value in attacks(page, hostile_values(parent)):
        attack(page, started, event, place, value)


def test_valid_values_do_start_jobs(page, started):
    started.clear()
    labels = [page.label(one) for one in page.events[page.event("Compare")]["inputs"]]
    answer = page.fire(page.event("Compare"), [VALID[label] for label in labels])
    assert answer == "Comparison could not be started (no processes in tests). Free memory or disk space."
    assert started[0][:2] == ["compare", "--json"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "damaged"), (b"[]", "damaged"), (b"{", "damaged"), (b"\xff", "damaged"), (b"[" * 100_000, "damaged"),
        (b'{"fn_index": 0, "data": [NaN], "session_hash": "a"}', "NaN is not a number"),
        (b'{"fn_index": 0, "data": [1e999], "session_hash": "a"}', "1e999 is not a number"),
        (b'{"fn_index": 0, "data": ["\\ud800"], "session_hash": "a"}', "unpaired surrogate"),
        (b'{"fn_index": 99999, "data": [], "session_hash": "a"}', "page has changed"),
        (b'{"fn_index": "0", "data": [], "session_hash": "a"}', "page has changed"),
        (b'{"fn_index": [], "data": [], "session_hash": "a"}', "damaged"),
        (b'{"fn_index": 0, "data": {}, "session_hash": "a"}', "page has changed"),
        (b'{"fn_index": 0, "data": [], "session_hash": "../a"}', "page has changed"),
        (b'{"fn_index": 0, "data": [], "session_hash": null}', "damaged"),
        (b'{"data": [], "session_hash": "a"}', "damaged"),
    ],
    ids=lambda value: str(value[:50]),
)  # fmt: skip
def test_damaged_events_are_refused(page, body, sentence):
    response = page.client.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, sentence in response.text) == (400, True), response.text


def test_long_requests_are_refused(page):
    response = page.client.post("/gradio_api/queue/join", content=b"x" * 5_000_000)
    assert (response.status_code, "at most 4,000,000 bytes" in response.text) == (413, True)


def test_messages_show_markup_as_text(page):
    number = page.event("Check the data")
    assert "&lt;img src=x onerror=alert(1)&gt;.csv has a header" in page.fire(
        page.event("Manifest"), [f"{SCRIPT}.csv", 1]
    )
    assert "<img" not in str(page.fire(number, [f"{SCRIPT}.csv"]))
