"""What a browser sends becomes a name, a path, a text or a number only if it is harmless."""

from __future__ import annotations

import unicodedata

import pytest

from xtts_extend.errors import ConfigError
from xtts_extend.page.browser_input import checked_name, checked_number, checked_text, inside, model_source, pick

GOOD = [
    "am",
    "train.csv",
    "አማርኛ 2 (draft)+x_1-b.wav",
    "தமிழ்",
    unicodedata.normalize("NFD", "été"),
    "١٢٣",
    "console",
    "com10",
    "x" * 100,
    "ሀ" * 66,
]
BAD = [
    "",
    " ",
    ".",
    "..",
    ".git",
    "-rf",
    " a",
    "a ",
    "a.",
    "a..b",
    "../x",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "C:x",
    "a:b",
    "a\0b",
    "a\nb",
    "a\tb",
    "a\x7f",
    "a\x85b",
    "a\u200bb",
    "a\u202eb",
    "\ufeffa",
    "a\ud800",
    "a\ue000b",
    "a\u2028b",
    "a\u00a0b",
    "a／b",
    "$(id)",
    "`id`",
    "a;b",
    "a|b",
    "a&b",
    "a'b",
    'a"b',
    "a*",
    "a?",
    "a<b",
    "~a",
    "%41",
    "a²",
    "😀",
    "CON",
    "nul",
    "Aux.txt",
    "com1.tar.gz",
    "LPT9",
    "con .txt",
    "x" * 101,
    "ሀ" * 67,
    None,
    7,
    ["a"],
    {"path": "/etc/passwd"},
    b"a",
    True,
]


@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_good_names_stay_as_they_are(name, tmp_path):
    assert checked_name(name) == name
    assert inside(tmp_path, name) == tmp_path.resolve() / name


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_bad_names_are_refused_with_a_sentence_that_can_be_shown(name, tmp_path):
    for check in (checked_name, lambda name: inside(tmp_path, name)):
        with pytest.raises(ConfigError) as caught:
            check(name)
        message = str(caught.value)
        assert message.endswith(".")
        assert message.isprintable()
        assert len(message) < 400
    assert list(tmp_path.iterdir()) == []


def test_a_listing_gives_its_own_item(tmp_path):
    files = [tmp_path / "a.wav", tmp_path / "ለ.wav"]
    assert pick("ለ.wav", files) is files[1]
    assert pick("b", ["a", "b"]) == "b"


@pytest.mark.parametrize("name", ["c", "", None, 0, ["a"], "../a", "A", "a\ud800"], ids=ascii)
def test_what_is_not_in_the_listing_is_refused(name):
    with pytest.raises(ConfigError, match=r"list\.|again\."):
        pick(name, ["a", "b"])


def test_links_within_the_folder_are_followed_and_others_refused(tmp_path):
    folder, outside = tmp_path / "data", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "real").write_text("x")
    (folder / "good").symlink_to("real")
    for name, target in {"out": outside, "dots": "../outside/x", "self": ".", "up": "..", "ends": "/nowhere"}.items():
        (folder / name).symlink_to(target)
    (folder / "loop").symlink_to("loop")
    assert inside(folder, "good") == (folder / "real").resolve()
    for name in ("out", "dots", "self", "up", "ends"):
        with pytest.raises(ConfigError, match="is a link to"):
            inside(folder, name)
    with pytest.raises(ConfigError, match="cannot be followed|is a link to"):
        inside(folder, "loop")


def test_a_folder_that_is_itself_a_link_is_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to("real")
    assert inside(tmp_path / "linked", "a") == (tmp_path / "real" / "a").resolve()


def test_a_folder_beside_that_shares_its_prefix_is_outside(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data2").mkdir()
    (tmp_path / "data" / "a").symlink_to(tmp_path / "data2")
    with pytest.raises(ConfigError, match="is a link to"):
        inside(tmp_path / "data", "a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ሰላም ለዓለም።", "ሰላም ለዓለም።"),
        ("--output=/etc", "--output=/etc"),
        ("$(id); `id`", "$(id); `id`"),
        ("a\r\nb\tc\n", "a\nb\tc\n"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("", ""),
    ],
)
def test_texts(text, expected):
    assert checked_text(text, 20) == expected


@pytest.mark.parametrize(
    "text", ["a\0", "a\x1b[2J", "a\rb", "\x7f", "a\x85", "a\ud800", "a" * 21, None, 3, ["a"]], ids=ascii
)
def test_texts_that_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        checked_text(text, 20)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("value", "least", "most", "expected"),
    [
        (8, 1, 64, 8),
        (8.0, 1, 64, 8),
        ("8", 1, 64, 8),
        (1, 1, 64, 1),
        (2**53 + 1, 0, 2**60, 2**53 + 1),
        (1e-5, 0.0, 1.0, 1e-5),
        (1, 0.0, 1.0, 1.0),
        ("1e-5", 0, 0.1, 1e-5),
    ],
)
def test_numbers(value, least, most, expected):
    number = checked_number(value, least, most)
    assert number == expected
    assert type(number) is type(expected)


@pytest.mark.parametrize(
    "value",
    [0, 65, 1.5, 10**400, float("nan"), float("inf"), "nan", "8; id", "", "1" * 50, None, True, [8], "-8", 8 + 0j],
    ids=lambda value: ascii(value)[:20],
)
def test_numbers_that_are_refused(value):
    with pytest.raises(ConfigError, match="Expected a whole number from 1 to 64, got ") as caught:
        checked_number(value, 1, 64)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "inf", -0.1, 1.1, 10**400])
def test_fractions_that_are_refused(value):
    with pytest.raises(ConfigError, match=r"Expected a number from 0\.0 to 1\.0, got "):
        checked_number(value, 0.0, 1.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project's folder with a model, beside other folders; the current directory has a folder of models, too."""
    root = tmp_path / "ፕሮጀክት one"
    for name in ("ctc", "models/ሞዴል"):
        (root / name).mkdir(parents=True)
    (tmp_path / "here" / "secret" / "model").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path / "here", target_is_directory=True)
    (root / "file").touch()
    monkeypatch.chdir(tmp_path / "here")
    return root


@pytest.mark.parametrize("name", ["facebook/mms-1b-all", "openai/whisper-large-v3", "gpt2", "a/B_1.2-x"])
def test_names_of_models(folder, name):
    assert model_source(folder, name) == name


@pytest.mark.parametrize("name", ["ctc", "models/ሞዴል", "models/../ctc"])
def test_folders_with_models(folder, name):
    assert model_source(folder, name) == str((folder / name).resolve())


@pytest.mark.parametrize(
    "name",
    ["os:system", "subprocess:run", "a.b:c", "ctc:run", "../here", "..", ".", "/etc", "out", "out/secret", "secret",
     "secret/model", "a/b/c", "a..b/c", "--asr", "-h", "http://a.example/b", "a b", "a\nb", "a\0b", "ሞዴል", "", None, 3,
     [], "file", "\ud800", "x" * 5000, "file:///etc", "C:\\models", "~/models", "$(id)"],
    ids=ascii,
)  # fmt: skip
def test_other_models_are_refused(folder, name):
    with pytest.raises(ConfigError, match=r"Expected the name of a transformers model.*only on the command line"):
        model_source(folder, name)
