"""Which runs can be exported as a language pack."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from samples import make_sample

from xtts_extend.setup.reference import can_export_as_pack

#: Language tag → token id. The base has 10 tokens.
TAGS = {"[en]": 3, "[zh-cn]": 4, "[am]": 10, "[ti]": 11}


def model(*, voice_frozen=True, rows_frozen=True):
    tokenizer = SimpleNamespace(tokenizer=SimpleNamespace(token_to_id=TAGS.get))
    return SimpleNamespace(
        voice_frozen=voice_frozen, rows_frozen=rows_frozen, base_rows=10, xtts=SimpleNamespace(tokenizer=tokenizer)
    )


@pytest.mark.parametrize(
    ("frozen", "languages", "expected"),
    [
        pytest.param({}, ["am"], True, id="one new language"),
        pytest.param({}, ["am", "en", "zh-cn"], True, id="beside old ones"),
        pytest.param({}, ["am", "ti"], False, id="two new languages"),
        pytest.param({}, ["en"], False, id="none"),
        pytest.param({"voice_frozen": False}, ["am"], False, id="voice side trained"),
        pytest.param({"rows_frozen": False}, ["am"], False, id="old rows trained"),
    ],
)
def test_can_export_as_pack(frozen, languages, expected):
    samples = [make_sample(language=language) for language in (*languages, languages[0])]
    assert can_export_as_pack(model(**frozen), samples) is expected
