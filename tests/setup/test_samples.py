from __future__ import annotations

import logging
import shutil

from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.setup.samples import load_samples


def test_validation_recordings_that_are_trained_on_are_counted(corpus, tmp_path, caplog) -> None:
    shutil.copytree(corpus.train.parent, tmp_path / "am")
    lines = (tmp_path / "am" / "train.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    # one under another name, whose bytes are the same
    name = lines[1].split("|")[0]
    shutil.copy(tmp_path / "am" / name, tmp_path / "am" / "copy.wav")
    held_out = (tmp_path / "am" / "val.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    both = [lines[0], lines[1].replace(name, "copy.wav"), *lines[2:4], *held_out[1:]]
    (tmp_path / "am" / "both.csv").write_text("".join(both), encoding="utf-8")

    def warnings(val: str) -> list[str]:
        caplog.clear()
        config = NewLanguageConfig(
            language="am",
            output_path=str(tmp_path / "runs"),
            train_manifests=[str(tmp_path / "am" / "train.csv")],
            val_manifests=[str(tmp_path / "am" / val)],
        )
        config.model_args.tokenizer_file = str(corpus.vocab)
        load_samples(config)
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    (warning,) = warnings("both.csv")
    second, third = (line.split("|")[0] for line in lines[2:4])
    assert warning.startswith(
        f" > 3 of {len(both) - 1} validation recordings are also trained on (copy.wav, {second}, {third}): their losses"
    )
    assert warnings("val.csv") == []
