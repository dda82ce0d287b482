"""Two ranks encode a corpus, one of them is killed, and the resumed set is that of one process."""

import json
import signal
from pathlib import Path

from processes import start_processes

from xtts_extend.cli import main
from xtts_extend.data.encoded import encoded_rows, read_index

SCRIPT = Path(__file__).with_name("encode_rank.py")


def rows(folder: Path) -> dict[tuple[str, str], tuple]:
    """Return the content of a set by recording and text, regardless of how it is divided into parts."""
    columns = ("audio_digest", "text", "language", "codes", "ids", "wav_length", "voice")
    found = [row for part in read_index(folder)["parts"] for _, _, row in encoded_rows(folder, part, columns)]
    assert len({(row["audio_digest"], row["text"]) for row in found}) == len(found)
    return {(row["audio_digest"], row["text"]): tuple(row.values()) for row in found}


def test_a_killed_rank_costs_only_its_unfinished_part(corpus, tmp_path, capsys):
    flags = ["encode", "--manifest", f"{corpus.train}:am", "--base-dir", str(corpus.base), "--json"]
    flags += ["--vocab", str(corpus.vocab), "--output"]
    assert main([*flags, str(tmp_path / "one")]) == 0
    capsys.readouterr()

    first, second = start_processes(2, SCRIPT, *flags, tmp_path / "two", output=tmp_path / "log", KILLED="1")
    assert second.wait() == -signal.SIGKILL
    # As torchrun does when a rank has died.
    first.send(signal.SIGTERM)
    assert first.wait() != 0
    done = rows(tmp_path / "two")
    assert 2 <= len(done) < 12

    ranks = start_processes(2, SCRIPT, *flags, tmp_path / "two", output=tmp_path / "again")
    assert [rank.wait() for rank in ranks] == [0, 0], [rank.text for rank in ranks]
    text = ranks[0].text
    result = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert (result["utterances"], result["encoded"], result["unusable"]) == (12, 12 - len(done), 0)
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    assert "{" not in ranks[1].text
    assert sorted(file.name for file in (tmp_path / "two").glob(".*")) == [
        ".data-check.jsonl", ".data-check.jsonl.am.texts", ".lock"
    ]  # fmt: skip
