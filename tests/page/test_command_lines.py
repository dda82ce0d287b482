"""Answers become arguments that the commands' own parsers read back, whatever a user types."""

import os
from pathlib import Path

import pytest

from xtts_extend.cli import make_parser
from xtts_extend.errors import ConfigError, LanguageError
from xtts_extend.page import command_lines
from xtts_extend.page.command_lines import Sentence, Training, shown
from xtts_extend.setup.flags import parse_flags

#: Names that a shell or a parser could take for something else.
ODD = Path("/ፕሮጀክት/-- $(id); `x` 'q' \"d\" --share=1")


def parsed(arguments):
    assert all(argument == arguments[0] or "\0" not in argument for argument in arguments)
    return make_parser().parse_args(arguments)


def recipe_flags(arguments):
    assert arguments[:3] == ["recipe", "run", "new_language"]
    assert parsed(arguments).arguments == arguments[3:]
    return parse_flags(arguments[3:])


def test_train_with_the_five_answers():
    flags = recipe_flags(command_lines.train(Training(ODD, ODD / "runs", "am", ODD / "a.csv", hours=1.5)))
    assert flags.base_dir == str(ODD)
    assert flags.values == {
        "output_dir": str(ODD / "runs"),
        "language": "am",
        "train_manifest": [f"{ODD / 'a.csv'}:am"],
        "max_minutes": 90.0,
    }
    assert flags.overrides == []


def test_train_with_everything():
    answers = Training(
        Path("/xtts"), Path("/p/runs"), "am", Path("/p/a.csv"),
        val_manifest=Path("/p/v.csv"), vocab=Path("/p/v.json"), max_steps=500, epochs=3, batch_frames=0,
        grad_accum_steps=2, learning_rate=2e-5, save_step=100, eval_step=50,
        test_sentences=[Sentence("am", Path("/p/v o.wav"), "--ሰላም: a\nb"), Sentence("en", Path("/p/x.wav"), "Hi")],
        replay={Path("/p/replay"): "", Path("/p/en.csv"): "en"}, replay_share=0.1,
        other_val={Path("/p/es.csv"): "es"}, has_adapter=True, adapter_rank=8,
    )  # fmt: skip
    flags = recipe_flags(command_lines.train(answers))
    assert flags.values == {
        "output_dir": "/p/runs", "language": "am", "train_manifest": ["/p/a.csv:am"],
        "val_manifest": ["/p/v.csv:am", "/p/es.csv:es"], "vocab": "/p/v.json", "max_steps": 500, "epochs": 3,
        "batch_frames": 0, "grad_accum_steps": 2, "learning_rate": 2e-5, "save_step": 100, "eval_step": 50,
        "test_sentence": [
            {"language": "am", "speaker_wav": "/p/v o.wav", "text": "--ሰላም: a b"},
            {"language": "en", "speaker_wav": "/p/x.wav", "text": "Hi"},
        ],
        "replay": ["/p/replay", "/p/en.csv:en"], "replay_share": 0.1, "adapter": "lora", "adapter_rank": 8,
    }  # fmt: skip


def test_what_is_not_asked_for_is_left_out():
    answers = Training(Path("/x"), Path("/r"), "am", Path("/a.csv"), replay_share=0.2, adapter_rank=4)
    assert not [part for part in command_lines.train(answers) if part.startswith(("--replay", "--adapter"))]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"language": "--am"}, LanguageError, "malformed"),
        ({"language": ""}, LanguageError, "malformed"),
        ({"batch_size": 4, "batch_frames": 100}, ConfigError, "not both"),
        ({"test_sentences": [Sentence("am", Path("/a:b.wav"), "x")]}, ConfigError, "colon"),
        ({"test_sentences": [Sentence("am", Path("/a.wav"), " \n")]}, ConfigError, "empty"),
        ({"test_sentences": [Sentence("../", Path("/a.wav"), "x")]}, LanguageError, "malformed"),
        ({"replay": {Path("/a"): "--x"}}, LanguageError, "malformed"),
    ],
)
def test_answers_that_are_refused(change, error, message):
    given = {"base_dir": Path("/x"), "output_dir": Path("/r"), "language": "am", "train_manifest": Path("/a.csv")}
    with pytest.raises(error, match=message):
        command_lines.train(Training(**{**given, **change}))


def test_a_test_sentence_with_a_drive():
    (sentence,) = parse_flags([r"--test-sentence=am:C:\v o\a.wav:ሰላም: a"]).values["test_sentence"]
    assert sentence == {"language": "am", "speaker_wav": r"C:\v o\a.wav", "text": "ሰላም: a"}


def test_resume():
    flags = recipe_flags(command_lines.resume(ODD))
    assert (flags.checkpoint, flags.allow_changes, flags.new_run, flags.values) == (str(ODD), False, False, {})
    more = command_lines.resume(ODD, base_dir=ODD, max_steps=7, hours=2, epochs=3, allow_changes=True, new_run=True)
    flags = recipe_flags(more)
    assert (flags.base_dir, flags.allow_changes, flags.new_run) == (str(ODD), True, True)
    assert flags.values == {"max_steps": 7, "max_minutes": 120.0, "epochs": 3}


def test_data_and_vocabulary_commands():
    args = parsed(command_lines.check_data(ODD, "am", ODD, cache=Path("/c"), write_clean=Path("/w.csv")))
    assert (args.manifest, args.vocab, args.json) == ([f"{ODD}:am"], ODD, True)
    assert (args.cache, args.write_clean) == (Path("/c"), Path("/w.csv"))
    args = parsed(command_lines.extend_vocab(ODD, "am", [ODD, Path("/t")], Path("/o.json"), size=300))
    assert (args.base_vocab, args.text, args.size, args.output) == (str(ODD), [ODD, Path("/t")], 300, Path("/o.json"))
    args = parsed(command_lines.check_vocab(ODD, Path("/v"), [ODD, Path("/t")]))
    assert (args.base_vocab, args.vocab, args.text) == (ODD, Path("/v"), [ODD, Path("/t")])
    args = parsed(command_lines.encode(ODD, "am", ODD, Path("/o"), vocab=Path("/v")))
    assert (args.manifest, args.base_dir, args.output, args.vocab) == ([f"{ODD}:am"], ODD, Path("/o"), Path("/v"))
    args = parsed(command_lines.make_replay(ODD, {ODD: "en"}, [ODD, Path("/r.wav")], 0.5, Path("/o")))
    assert (args.text, args.reference, args.hours) == ([f"en={ODD}"], [ODD, Path("/r.wav")], 0.5)


def test_model_commands():
    args = parsed(command_lines.inspect(ODD, Path("/base")))
    assert (args.path, args.base) == (ODD, Path("/base"))
    args = parsed(command_lines.export(ODD, Path("/o"), base_dir=ODD, merged=True))
    assert (args.checkpoint, args.output, args.base_dir, args.merged) == (ODD, Path("/o"), ODD, True)
    args = parsed(command_lines.export(ODD, Path("/o.safetensors"), rank=8, dtype="float16", licence="--CC\n"))
    assert (args.rank, args.dtype, args.licence, args.merged) == (8, "float16", "--CC\n", False)
    args = parsed(command_lines.pack_add(ODD, Path("/m")))
    assert (args.file, args.model) == (ODD, Path("/m"))
    args = parsed(command_lines.pack_remove("am", ODD))
    assert (args.language, args.model) == ("am", ODD)
    args = parsed(command_lines.compare(ODD, [ODD, Path("/r")], ["am", "en"], [ODD], "--output=/x\n-", ODD, seed=3))
    assert (args.source, args.language, args.text) == ([ODD, Path("/r")], ["am", "en"], "--output=/x\n-")
    assert (args.reference, args.output, args.seed) == ([ODD], ODD, 3)
    with pytest.raises(ConfigError, match="null character"):
        command_lines.compare(ODD, [ODD], ["am"], [ODD], "a\0b", ODD)


def test_make_dataset():
    arguments = command_lines.make_dataset([ODD, Path("/r.mp3")], "am", Path("/o"))
    assert arguments == ["make-dataset", "--language=am", "--output=/o", str(ODD), "/r.mp3"]
    args = parsed(
        command_lines.make_dataset(
            [ODD], "am", ODD, text=ODD, speaker="--x", aligner="a/b", asr=str(ODD), asr_language="amh", min_score=0.0
        )
    )
    assert (args.recordings, args.language, args.output, args.text) == ([str(ODD)], "am", ODD, ODD)
    assert (args.speaker, args.aligner, args.asr) == ("--x", "a/b", str(ODD))
    assert (args.asr_language, args.min_score) == ("amh", 0.0)
    with pytest.raises(LanguageError, match="malformed"):
        command_lines.make_dataset([ODD], "--am", ODD)


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command_lines.resume(Path("--runs/r"))[3] == f"--checkpoint={tmp_path}/--runs/r"
    assert command_lines.inspect(Path("--base=x"), Path("b"))[-1] == f"{tmp_path}{os.sep}--base=x"


@pytest.mark.skipif(os.name == "nt", reason="quotes of POSIX shells")
def test_the_shown_line_is_what_a_shell_reads_back():
    import shlex

    arguments = command_lines.resume(ODD)
    assert shlex.split(shown(arguments)) == ["xtts-extend", *arguments]
