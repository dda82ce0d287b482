"""The page of a data set: self-contained, escaped, worst first, and usable with many clips."""

import time
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from clips import RECORDING_ID, SCORES, make_clip

from xtts_extend.corpus.clip import Reason, RecordingSummary, SetAside
from xtts_extend.corpus.review_page import share_rows, write_review

TEXT = "<script>alert('ሰላም')</script> & house"
RECORDINGS = [RecordingSummary(RECORDING_ID, "in/My Sermon.mp3", "3fa2c1d0", 3725.4, 3000.0, "")]


class Page(HTMLParser):
    """A parsed page: tags with attributes, and rows of each table by the heading above it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.tables, self.heading, self.inside = [], "", {}, "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag if tag in ("h1", "h2", "td", "th") else self.inside
        if tag == "h2":
            self.heading = ""
        elif tag == "tr":
            self.tables.setdefault(self.heading, []).append([])
        elif tag in ("td", "th"):
            self.tables[self.heading][-1].append("")

    def handle_endtag(self, tag):
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data):
        self.text += data
        if self.inside == "h2":
            self.heading += data
        elif self.inside in ("td", "th"):
            self.tables[self.heading][-1][-1] += data


def scored(start_s, alignment, **values):
    scores = replace(SCORES, alignment=alignment)
    return make_clip(start_s, scores=scores, audio_file=f"wavs/የኔ ድምፅ#1/{start_s}.wav", **values)


CLIPS = [
    scored(1.0, 0.9, split="train", text=TEXT),
    scored(10.0, 0.7, split="val", edited=True),
    scored(20.0, 0.8, split="train"),
    scored(30.0, 0.1, rejected=Reason.LOW_SCORE, detail="The alignment score is 0.10."),
    scored(40.0, 0.95, rejected=Reason.NOISY, detail="Noise & music."),
]
SET_ASIDE = [
    SetAside(RECORDING_ID, "in/My Sermon.mp3", 50.0, 60.0, "", Reason.SPEECH_WITHOUT_TEXT, "10 s of speech."),
    SetAside(RECORDING_ID, "in/My Sermon.mp3", None, None, TEXT, Reason.TEXT_WITHOUT_SPEECH, "No anchor."),
]


def read(output, clips=CLIPS, set_aside=SET_ASIDE):
    write_review(output, RECORDINGS, clips, set_aside)
    return Page((output / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return read(tmp_path_factory.mktemp("data & set"))


def test_page_is_self_contained(written):
    for tag, attributes in written.tags:
        assert tag not in ("link", "script", "iframe", "img"), tag
        assert tag == "audio" or not {"src", "href"} & attributes.keys(), tag
    assert {tag for tag, _ in written.tags} >= {"svg", "audio", "table"}


def test_players(written):
    players = [attributes for tag, attributes in written.tags if tag == "audio"]
    assert {player["preload"] for player in players} == {"none"}
    assert players[0]["src"].isascii()
    assert not set(" #?") & set(players[0]["src"])
    starts = (10.0, 20.0, 1.0, 30.0, 40.0)
    assert [unquote(player["src"]) for player in players] == [f"wavs/የኔ ድምፅ#1/{start}.wav" for start in starts]


def test_tables(written):
    assert written.tables[""][1:] == [
        ["training clips", "2", "0:00:10"],
        ["validation clips", "1", "0:00:05"],
        ["clips set aside", "2", "0:00:10"],
        ["parts that are in no clip", "2", "0:00:10"],
    ]
    (row,) = written.tables["Recordings"][1:]
    assert row[:5] == ["in/My Sermon.mp3", "1:02:05", "0:50:00", "3", "0:00:15"]
    assert "Noise: 1" in row[5]
    assert "Speech without text: 1" in row[5]
    assert [row[:1] + row[2:] for row in written.tables["Set aside"][1:]] == [
        ["Text without speech", "0", "1"],
        ["Speech without text", "0", "1"],
        ["Low alignment score", "1", "0"],
        ["Noise", "1", "0"],
    ]
    accepted = written.tables["Accepted"][1:]
    assert [row[1] for row in accepted] == ["0.70", "0.80", "0.90"]
    assert accepted[0][5] == "sermon-3fa2c1d0-00010000 (edited)"
    assert accepted[2][2] == TEXT
    assert accepted[2][3] == "letters per second: 12.0, silence: 0.10 s and 0.20 s, signal to noise: 30 dB"
    assert written.tables["Set aside: Noise"][1][1:5] == ["0.95", "ሰላም ለዓለም።", "Noise & music.", "40.00–45.00 s"]
    assert [row[2:] for row in written.tables["Parts that are in no clip"][1:]] == [
        ["–", TEXT, "No anchor."],
        ["50.00–60.00 s", "–", "10 s of speech."],
    ]


def test_histogram(written):
    bars = [attributes for tag, attributes in written.tags if tag == "rect"]
    assert len(bars) == 40
    heights = {index: float(bar["height"]) for index, bar in enumerate(bars) if float(bar["height"])}
    # Bins of 0.05; the accepted bar comes first. The highest bar is 160 pixels.
    assert heights == {5: 160, 28: 160, 32: 160, 36: 160, 39: 160}


def test_ten_thousand_clips(tmp_path):
    clips = [scored(float(number), number / 10_000, split="train") for number in range(10_000)]
    clips[:300] = [replace(clip, split=None, rejected=Reason.NOISY) for clip in clips[:300]]
    started = time.perf_counter()
    page = read(tmp_path, clips, [replace(SET_ASIDE[0], end_s=50.0 + number) for number in range(501)])
    assert time.perf_counter() - started < 5
    assert sum(tag == "audio" for tag, _ in page.tags) == 500
    assert (
        "Clips: 9,700; the 250 with the lowest scores are shown. The other 9,450 are listed in clips.jsonl."
        in page.text
    )
    assert "Clips: 300; the 250 with the lowest scores are shown. The other 50 are" in page.text
    assert "Parts: 501. The longest 500 are shown; rejected.csv lists all." in page.text
    assert (tmp_path / "report.html").stat().st_size < 1 << 19


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [([], []), ([10, 20], [10, 20]), ([1000, 600], [250, 250]), ([600, 10, 0], [490, 10, 0]), ([500], [500])],
)
def test_shares(sizes, shares):
    assert share_rows(sizes, 500) == shares


def test_nothing_was_made(tmp_path):
    page = read(tmp_path, [], [])
    for text in ("There are no clips.", "Nothing was set aside.", "All text and all speech are in a clip."):
        assert text in page.text
