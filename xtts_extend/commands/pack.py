"""`xtts-extend pack`: add, remove, list and verify the language packs in a model folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_extend.commands.common import add_debug, add_json, print_values

if TYPE_CHECKING:
    from xtts_extend.pack.file import Pack

HELP = "Add, remove, list and verify the language packs in a model folder."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a parser for each of the four subcommands to the command's parser."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, action, text in (
        ("add", _add, "Check that a pack matches the base, and copy it into the folder."),
        ("remove", _remove, "Remove a language's pack."),
        ("list", _list, "List the packs in a folder."),
        ("verify", _verify, "Verify every tensor in a pack and its base, and the token ids of the pack's texts."),
    ):
        subparser = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        subparser.set_defaults(action=action)
        add_json(subparser)
        add_debug(subparser)
        if name == "add":
            subparser.add_argument(
                "file",
                type=Path,
                metavar="FILE|USER/NAME",
                help="A language pack, NAME.safetensors, or a repository with one on the Hugging Face Hub, USER/NAME "
                "or USER/NAME@REVISION.",
            )
        if name == "verify":
            subparser.add_argument("file", type=Path, metavar="FILE", help="A language pack, NAME.safetensors.")
        if name == "remove":
            subparser.add_argument("language", metavar="LANG", help="Code of the language.")
        if name == "verify":
            subparser.add_argument("--base-dir", type=Path, required=True, metavar="DIR", help="The base directory.")
        else:
            subparser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="The model folder.")


def run(args: argparse.Namespace) -> int:
    """Run the command and return 0. A pack that does not match the base raises an error."""
    values = args.action(args)
    if args.json or not isinstance(values.get("packs"), list):
        print_values(values, args.json)
        return 0
    for pack in values["packs"]:
        print_values(pack, False)
        print()
    count = len(values["packs"])
    print(f"{values['model']} has {count} {'pack' if count == 1 else 'packs'}.")
    return 0


def describe(pack: Pack) -> dict[str, Any]:
    """Return a pack's metadata as plain values: `language`, `file`, `size_bytes` and the details of its training."""
    info = pack.info
    return {
        "language": info.language,
        "file": str(pack.path),
        "size_bytes": pack.size_bytes,
        "dtype": info.dtype,
        "rank": info.rank,
        "new_tokens": len(info.vocabulary.entries),
        "steps": info.training.steps,
        "hours": dict(info.training.hours),
        "losses": dict(info.training.losses),
        "licence": info.licence,
        "created": info.created,
    }


def _add(args: argparse.Namespace) -> dict[str, Any]:
    from xtts_extend.hub.pack_download import download_pack, is_repository_name
    from xtts_extend.pack.model_folder import ModelFolder

    folder = ModelFolder(args.model)
    if not is_repository_name(args.file):
        return {"model": str(args.model), "added": True, **describe(folder.add(args.file))}
    name = args.file.as_posix()
    print(f"There is no file {name}, so the pack is downloaded from the Hugging Face Hub.", file=sys.stderr, flush=True)
    downloaded = download_pack(name)
    added = folder.add(downloaded)
    downloaded.unlink()
    return {"model": str(args.model), "added": True, "from": name, **describe(added)}


def _remove(args: argparse.Namespace) -> dict[str, Any]:
    from xtts_extend.pack.model_folder import ModelFolder

    removed = ModelFolder(args.model).remove(args.language)
    return {"model": str(args.model), "removed": True, "language": args.language, "file": str(removed)}


def _list(args: argparse.Namespace) -> dict[str, Any]:
    from xtts_extend.pack.model_folder import ModelFolder

    packs = ModelFolder(args.model).packs()
    return {"model": str(args.model), "packs": [describe(pack) for pack in packs.values()]}


def _verify(args: argparse.Namespace) -> dict[str, Any]:
    from xtts_extend.pack.file import Pack
    from xtts_extend.pack.model_folder import ModelFolder

    pack = Pack.open(args.file)
    folder = ModelFolder(args.base_dir)
    folder.compare(pack)
    return {
        "verified": True,
        **describe(pack),
        "base_dir": str(args.base_dir),
        "tensors": len(pack.info.tensors),
        "base_tensors": len(pack.info.base),
        "texts": len(pack.info.texts),
    }
