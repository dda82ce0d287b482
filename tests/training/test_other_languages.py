"""The complete workflow for languages without language-specific code: from text and synthetic speech to a WAV file."""

from __future__ import annotations

import pytest
import soundfile
from runs import as_flag, only_run

from xtts_extend.run.metrics import read_metrics
from xtts_extend.speech.export import export
from xtts_extend.speech.speaking import speak_to_file
from xtts_extend.text.extend import check_vocabulary, extend_vocabulary

pytestmark = pytest.mark.slow

TEXTS = {
    "ka": ["დილა მშვიდობისა, მეგობრებო.", "დღეს კარგი ამინდია.", "წიგნი მაგიდაზე დევს.", "სად არის სადგური?"],
    "vi": ["Chào buổi sáng các bạn.", "Hôm nay trời đẹp quá.", "Quyển sách ở trên bàn.", "Nhà ga ở đâu vậy?"],
    "el": ["Καλημέρα σε όλους σας.", "Σήμερα ο καιρός είναι ωραίος.", "Το βιβλίο είναι εδώ.", "Πού είναι ο σταθμός;"],
    "ti": ["ደሓንዶ ሓዲርኩም ኣዕሩኽ።", "ሎሚ ጽቡቕ ኩነታት ኣየር ኣሎ።", "መጽሓፍ ኣብ ልዕሊ ጣውላ ኣሎ።", "መዓርፎ ኣውቶቡስ ኣበይ ኣሎ?"],
    "yo": ["Ẹ káàárọ̀ ẹ̀yin ọ̀rẹ́ mi.", "Ojú ọjọ́ dára lónìí gan-an.", "Ìwé wà lórí tábìlì náà.", "Níbo ni ibùdókọ̀ wà?"],
}  # fmt: skip
#: espeak-ng does not support Yoruba; this test works with any voice.
VOICES = {"yo": "sw"}


@pytest.mark.parametrize("code", sorted(TEXTS))
def test_from_text_to_speech(code, mini_base, recipe, tmp_path):
    pytest.importorskip("espeakng_loader", reason="speech for training needs the extra 'demo'")
    from xtts_extend.demo.speech import make_corpus

    text, vocab = tmp_path / f"{code}.txt", tmp_path / "vocab.json"
    text.write_text("\n".join(TEXTS[code]), encoding="utf-8")
    report = extend_vocabulary(mini_base / "vocab.json", code, vocab, texts=[text], size=80)
    assert report.unknown_share["after"] == 0.0
    check = check_vocabulary(mini_base / "vocab.json", vocab, [text])
    assert (check.changed_ids, check.changed_lines, check.unknown_share) == (0, 0, 0.0)
    manifest = make_corpus(TEXTS[code] * 2, VOICES.get(code, code), tmp_path / "ድምፅ speech", progress=False)

    runs = tmp_path / "runs"
    flags = {
        "base_dir": mini_base,
        "vocab": vocab,
        "language": code,
        "train_manifest": manifest,
        "output_dir": runs,
        "batch_size": 2,
        "grad_accum_steps": 1,
        "max_steps": 3,
    }
    recipe([part for key, value in flags.items() for part in as_flag(key, value)])
    run = only_run(runs)
    recipe(["--checkpoint", str(run), "--max-steps", "6"])
    steps, _ = read_metrics(run)
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]

    export(run, tmp_path / "model", mini_base, merged=True)
    voice = manifest.parent / "wavs" / f"{VOICES.get(code, code)}_00000.wav"
    spoken = speak_to_file(tmp_path / "model", code, [voice], TEXTS[code][0], tmp_path / "out.wav", seed=0)
    audio, rate = soundfile.read(tmp_path / "out.wav")
    assert (rate, len(audio)) == (24000, round(spoken["audio_s"] * 24000))
    assert abs(audio).max() > 0
