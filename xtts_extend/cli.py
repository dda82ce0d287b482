"""The `xtts-extend` command: parse, call, print. A command imports what it needs when it runs: help is quick."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xtts_extend.environment import require_environment
from xtts_extend.errors import ConfigError, DataError, report_errors
from xtts_extend.findings import Finding, all_hold, summary, to_dict


def _check_env(args: argparse.Namespace) -> int:
    from xtts_extend.commands.check_env import check_environment

    return _show_findings(check_environment(), args.json)


def _inspect(args: argparse.Namespace) -> int:
    if args.base is not None:
        require_environment()
        from xtts_extend.rescue.doctor import examine

        diagnosis = examine(args.path, args.base, args.vocab)
        if args.json:
            _print(diagnosis.to_dict(), True)
        else:
            print(diagnosis.describe())
        return 0 if diagnosis.verdict == "healthy" else 1
    if args.vocab is not None:
        raise ConfigError("--vocab is compared beside the base: give --base as well.")
    from xtts_extend.checkpoint.inspect import inspect_checkpoint

    _print(inspect_checkpoint(args.path).to_dict(), args.json)
    return 0


def _repair(args: argparse.Namespace) -> int:
    from xtts_extend.rescue.repair import repair

    done = repair(
        args.path,
        args.base,
        args.output,
        blend=args.blend,
        reinit_untrained=args.reinit_untrained,
        plan=args.plan,
    )
    _print(done, args.json)
    return 1 if done.get("pointless") else 0


def _encode(args: argparse.Namespace) -> int:
    from xtts_extend.setup.encode import encode

    made = encode(
        args.manifest,
        args.base_dir,
        args.output,
        vocab=args.vocab,
        language=args.language,
        manifest_format=args.manifest_format,
        columns=_columns(args.columns),
    )
    _print(made, args.json)
    return 0


def _make_replay(args: argparse.Namespace) -> int:
    from xtts_extend.speech.replay import make_replay

    texts: dict[str, list[Path]] = {}
    for given in args.text:
        language, separator, file = given.partition("=")
        if not (language and separator and file):
            raise ConfigError(f"--text {given}: LANG=FILE was expected, for example --text en=english.txt.")
        texts.setdefault(language, []).append(Path(file))
    made = make_replay(
        args.base_dir,
        texts,
        args.reference,
        args.hours,
        args.output,
        conditioning_s=args.conditioning_s,
        seed=args.seed,
    )
    _print(made, args.json)
    return 0


def _check_base(args: argparse.Namespace) -> int:
    from xtts_extend.setup.base import check_base

    return _show_findings(check_base(args.base_dir), args.json)


def _extend_vocab(args: argparse.Namespace) -> int:
    from xtts_extend.text.extend import extend_vocabulary

    report = extend_vocabulary(
        args.base_vocab,
        args.language,
        args.output,
        texts=args.text or (),
        size=args.size,
        sentencepiece_model=args.sentencepiece,
        drop_characters=args.drop_characters,
        columns=_columns(args.columns),
    )
    _print(report.to_dict(), args.json)
    return 0


def _check_vocab(args: argparse.Namespace) -> int:
    from xtts_extend.text.extend import check_vocabulary

    check = check_vocabulary(args.base_vocab, args.vocab, args.text)
    _print(check.to_dict(), args.json)
    return 0 if check.ok else 1


def _check_data(args: argparse.Namespace) -> int:
    import xtts_extend
    from xtts_extend.data.check import check_samples
    from xtts_extend.data.manifest import read_manifests, write_manifest
    from xtts_extend.run.config import NewLanguageConfig
    from xtts_extend.setup.samples import limits_of
    from xtts_extend.text.tokenizer import load_tokenizer, require_tag

    xtts_extend.enable()
    tokenizer = load_tokenizer(args.vocab)
    samples = read_manifests(args.manifest, args.language, args.manifest_format, _columns(args.columns))
    for language in sorted({sample["language"] for sample in samples}):
        require_tag(tokenizer, language)
    report = check_samples(samples, tokenizer, limits_of(NewLanguageConfig()), cache=args.cache)
    if args.json:
        _print(report.to_dict(), True)
    else:
        print(report.summary(names=None))
    if args.write_clean and not report.usable:
        print(f"Nothing is usable: {args.write_clean} was not written.", file=sys.stderr)
    elif args.write_clean:
        write_manifest(report.usable, args.write_clean)
        print(f"{len(report.usable)} usable samples written to {args.write_clean}", file=sys.stderr)
    return 0 if not report.bad_share else 1


def _export(args: argparse.Namespace) -> int:
    from xtts_extend.speech.export import export

    if args.adapter_rank is not None and args.adapter_rank < 1:
        raise ConfigError(f"--adapter-rank {args.adapter_rank}: 1 or more was expected.")
    done = export(
        args.checkpoint, args.output, args.base_dir, keep_adapter=args.keep_adapter, adapter_rank=args.adapter_rank
    )
    _print(done, args.json)
    return 0


def _speak(args: argparse.Namespace) -> int:
    from xtts_extend.speech.speaking import speak_to_file

    def show(sentence: str, seconds: float) -> None:
        print(f"{seconds:5.1f} s  {sentence}", file=sys.stderr)

    text = _read_input() if args.text == "-" else args.text
    result = speak_to_file(
        args.model, args.language, args.reference, text, args.output, seed=args.seed, on_sentence=show
    )
    _print(result, args.json)
    return 0


def _read_input() -> str:
    """Standard input as UTF-8, whatever the terminal's encoding is."""
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"Standard input is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}. Convert it, for "
            "example: iconv -f WINDOWS-1252 -t UTF-8."
        ) from error


def _report(args: argparse.Namespace) -> int:
    from xtts_extend.run.report import write_report

    _print(write_report(args.run_folder, args.output), args.json)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from xtts_extend.speech.evaluate import evaluate
    from xtts_extend.speech.recognition import load_recogniser

    if args.samples < 0:
        raise ConfigError(f"--samples {args.samples}: 0 or more was expected.")
    recognise = load_recogniser(args.asr, args.asr_language or args.language) if args.asr else None
    found = evaluate(
        args.model,
        args.manifest,
        args.language,
        manifest_format=args.manifest_format,
        columns=_columns(args.columns),
        base_dir=args.base_dir,
        recognise=recognise,
        count=args.samples,
        seed=args.seed,
    )
    _print(found, args.json)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from xtts_extend.demo.run import run_demo

    run_demo(args.output)
    return 0


def _make_mini_base(args: argparse.Namespace) -> int:
    from xtts_extend.demo.mini_base import make_mini_base

    sizes = {
        key: getattr(args, key) for key in ("layers", "channels", "heads", "steps") if getattr(args, key) is not None
    }
    print(make_mini_base(args.output, vocab=args.vocab, **sizes))
    return 0


def _add_manifests(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manifest", action="append", required=True, metavar="PATH[:LANG]")
    parser.add_argument("--manifest-format", default="auto", help="auto, or a formatter registered with coqui")
    _add_columns(parser)


def _add_columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--columns",
        metavar="ROLE=COLUMN,…",
        help="which column is audio, text, speaker, language, by name, or by number where there is no header",
    )


def _columns(text: str | None) -> dict[str, str]:
    from xtts_extend.data.columns import parse_columns

    return parse_columns(text) if text else {}


def _show_findings(findings: Iterable[Finding], as_json: bool) -> int:
    """One JSON object, or a line as soon as something was found; returns the exit code."""
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            print(finding.describe(), flush=True)
    if as_json:
        _print(to_dict(found), True)
    else:
        print(summary(found))
    return 0 if all_hold(found) else 1


def _print(values: Mapping[str, Any], as_json: bool) -> None:
    """One JSON object, or a line per value."""
    if as_json:
        print(json.dumps(values, ensure_ascii=False, indent=2, default=str))
        return
    width = max(map(len, values))
    for key, value in values.items():
        if isinstance(value, Mapping):
            value = [f"{name} {item}" for name, item in value.items()]
        if isinstance(value, list | tuple):
            value = ", ".join(map(str, value)) or "none"
        print(f"{key:<{width}}  {value}")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets `run`."""
    parser = argparse.ArgumentParser(prog="xtts-extend", description="Teach XTTS a new language.", allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show a traceback on errors")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Any, help: str, *, as_json: bool = True, needs_coqui: bool = True
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        added.set_defaults(run=run, needs_coqui=needs_coqui)
        added.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show a traceback on errors")
        if as_json:
            added.add_argument("--json", action="store_true", help="print one JSON object")
        return added

    command("check-env", _check_env, "try the installation and say what is wrong with it", needs_coqui=False)

    added = command(
        "inspect",
        _inspect,
        "say what a checkpoint, run folder or base directory is, from its content",
        needs_coqui=False,
    )
    added.add_argument("path", type=Path, metavar="PATH")
    added.add_argument("--base", type=Path, help="a base directory or its model.pth: examine PATH beside it")
    added.add_argument("--vocab", type=Path, help="with --base: the vocabulary that PATH is to be used with")

    added = command("repair", _repair, "write a copy of a checkpoint with the base's rows for old tokens")
    added.add_argument("path", type=Path, metavar="CHECKPOINT", help="a checkpoint or a run folder; it is only read")
    added.add_argument("--base", type=Path, required=True, help="a base directory or its model.pth")
    added.add_argument("--output", type=Path, required=True, help="a new folder, or a new file that ends in .pth")
    added.add_argument(
        "--blend", type=float, default=0.0, metavar="A", help="move the transformer towards the base; 0.3: 30 %% base"
    )
    added.add_argument(
        "--reinit-untrained", action="store_true", help="start new rows again that are noise or never moved"
    )
    added.add_argument("--plan", action="store_true", help="say what would be done and whether it helps; write nothing")

    added = command("check-base", _check_base, "try on a base directory everything that is assumed of it")
    added.add_argument("--base-dir", type=Path, required=True)

    added = command("extend-vocab", _extend_vocab, "add a language's tag, letters and merges to an XTTS vocabulary")
    added.add_argument("--base-vocab", type=Path, required=True, help="vocab.json of the base")
    added.add_argument("--language", required=True, help="code of the new language")
    added.add_argument(
        "--text",
        type=Path,
        nargs="+",
        action="extend",
        help="text in the language, UTF-8, or manifests, of which the texts are taken; also repeated",
    )
    _add_columns(added)
    added.add_argument("--size", type=int, help="number of new entries: tag, letters and merges together")
    added.add_argument(
        "--drop-characters", default="", metavar="CHARACTERS", help="get no entry; one can be written as U+1F600"
    )
    added.add_argument("--sentencepiece", type=Path, help="a trained sentencepiece BPE model instead of learning one")
    added.add_argument("--output", type=Path, required=True, help="the new vocab.json")

    added = command("check-vocab", _check_vocab, "prove that an extended vocabulary cuts old text as before")
    added.add_argument("--base-vocab", type=Path, required=True)
    added.add_argument("--vocab", type=Path, required=True)
    added.add_argument("--text", type=Path, nargs="+", action="extend", required=True)

    added = command("check-data", _check_data, "read every recording of a manifest and say what is unusable, and why")
    _add_manifests(added)
    added.add_argument("--language", help="language of manifests that do not say it")
    added.add_argument("--vocab", type=Path, required=True)
    added.add_argument("--write-clean", type=Path, metavar="PATH", help="write a manifest of what is usable")
    added.add_argument("--cache", type=Path, help="keep what was read, by file size and time")

    added = command("encode", _encode, "make codes and token ids of manifests, once and beforehand")
    _add_manifests(added)
    added.add_argument("--language", help="language of manifests that do not say it")
    added.add_argument("--base-dir", type=Path, required=True)
    added.add_argument("--vocab", type=Path, help="of the run that will read it [BASE_DIR/vocab.json]")
    added.add_argument("--output", type=Path, required=True, help="a new folder, or one to go on with")

    added = command("make-replay", _make_replay, "let a base model speak texts, so that training does not forget them")
    added.add_argument("--base-dir", type=Path, required=True)
    added.add_argument(
        "--text", action="append", required=True, metavar="LANG=FILE", help="UTF-8, in a language of the base; repeat"
    )
    added.add_argument(
        "--reference", type=Path, nargs="+", action="extend", required=True, help="recordings of voices, some 10 s each"
    )
    added.add_argument("--hours", type=float, required=True, help="of speech, of all languages together")
    added.add_argument("--output", type=Path, required=True, help="a new folder, or one to go on with")
    added.add_argument(
        "--conditioning-s",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="seconds of a voice that an utterance is conditioned by; as in training [3 6]",
    )
    added.add_argument("--seed", type=int, default=0)

    added = command("export", _export, "turn a run into a folder that stock coqui-tts loads")
    added.add_argument("--checkpoint", type=Path, required=True, help="a training checkpoint or a run folder")
    added.add_argument("--output", type=Path, required=True)
    added.add_argument("--base-dir", type=Path, help="the base's folder, where it has moved")
    added.add_argument(
        "--keep-adapter",
        action="store_true",
        help="leave the base as it is, and keep what was learned in a file that speak applies for its language alone",
    )
    added.add_argument(
        "--adapter-rank", type=int, metavar="N", help="of each matrix's change, keep the N largest directions [all]"
    )

    added = command("speak", _speak, "speak text with a model folder")
    added.add_argument("--model", type=Path, required=True, help="a folder that export wrote")
    added.add_argument("--language", required=True)
    added.add_argument(
        "--reference", type=Path, nargs="+", action="extend", required=True, help="recordings of the voice"
    )
    added.add_argument("--text", required=True, help="what to say; - reads standard input")
    added.add_argument("--output", type=Path, required=True, help="the wav file")
    added.add_argument("--seed", type=int, help="make the sampling repeatable")

    added = command("report", _report, "draw a run as one HTML page: curves, what is kept, speech, starts and stops")
    added.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder; it may still be training")
    added.add_argument("--output", type=Path, help="the page [RUN/report.html]")

    added = command("evaluate", _evaluate, "losses of a model folder on recordings, and what its own speech is like")
    added.add_argument("--model", type=Path, required=True, help="a folder that export wrote, or a base directory")
    _add_manifests(added)
    added.add_argument("--language", required=True)
    added.add_argument("--asr", metavar="MODEL", help="a folder or hub name for transformers: character error rate")
    added.add_argument("--asr-language", metavar="CODE", help="what the recogniser calls it [the language]; MMS: amh")
    added.add_argument("--base-dir", type=Path, help="where dvae.pth and mel_stats.pth are [the model's base]")
    added.add_argument("--samples", type=int, default=20, help="how many are spoken; 0: losses alone [20]")
    added.add_argument("--seed", type=int, default=0)

    added = command("demo", _demo, "the whole job on a mini base model and espeak-ng speech", as_json=False)
    added.add_argument("--output", type=Path, default=Path("demo"))

    added = command("make-mini-base", _make_mini_base, "make a base directory of any size", as_json=False)
    added.add_argument("--output", type=Path, required=True)
    added.add_argument("--vocab", type=Path, help="an XTTS vocab.json; by default a small one is made")
    for size in ("layers", "channels", "heads", "steps"):
        added.add_argument(f"--{size}", type=int, help="0: untrained, in seconds" if size == "steps" else None)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code (2: the user can mend it, 1: a check or the machine failed)."""
    args = make_parser().parse_args(argv)
    # leaves like Ctrl-C does: half-written files are removed
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with report_errors(debug=args.debug):
            if args.needs_coqui:
                require_environment()
            code = int(args.run(args))
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # the reader has gone (`| head`); the interpreter would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
