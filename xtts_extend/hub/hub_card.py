"""Write the README of a published repository, which the Hub shows as its model card.

The card contains only what the packs record. What is unknown is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from xtts_extend.hub_client.access import XTTS_LICENCE, XTTS_LICENCE_ID, XTTS_REPOSITORY
from xtts_extend.pack.pack_info import PackInfo

_HUB = "https://huggingface.co"
_XTTS_LICENCE_LINK = f"{_HUB}/{XTTS_REPOSITORY}/blob/main/LICENSE.txt"


@dataclass(frozen=True)
class Published:
    """What a repository will contain, as far as its card is concerned.

    Attributes:
        repo: USER/NAME.
        base_repo: Repository of the base model.
        languages: Codes of the new languages.
        packs: Metadata of the packs; empty for merged weights.
        contains_base: Whether the base's own weights, possibly changed, are included.
        steps: Training steps of merged weights; None if they are not recorded or if there are packs.
    """

    repo: str
    base_repo: str
    languages: Sequence[str]
    packs: Sequence[PackInfo]
    contains_base: bool
    steps: int | None = None

    @property
    def is_xtts(self) -> bool:
        """Whether the base is XTTS-v2, whose license is known."""
        return self.base_repo == XTTS_REPOSITORY

    @property
    def licence(self) -> str:
        """The name of the base's license, which applies to everything that was trained from it."""
        return XTTS_LICENCE if self.is_xtts else f"the license of {self.base_repo}"


def hub_card(published: Published) -> str:
    """Return the model card: metadata in YAML, and a description in Markdown."""
    parts = [
        _metadata(published),
        _introduction(published),
        _usage(published),
        *map(_training, published.packs),
        *([f"## Training\n\n| | |\n| --- | --- |\n| steps | {published.steps:,} |"] if published.steps else []),
        _licence(published),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(published: Published) -> str:
    # YAML would read the code of Norwegian, no, as false. The Hub knows languages, but no regions.
    languages = [f"- {json.dumps(code.partition('-')[0])}" for code in published.languages]
    licence = [f"license_name: {XTTS_LICENCE_ID}", f"license_link: {_XTTS_LICENCE_LINK}"] if published.is_xtts else []
    lines = [
        *(["language:", *dict.fromkeys(languages)] if languages else []),
        "license: other",
        *licence,
        f"base_model: {published.base_repo}",
        "library_name: xtts_extend",
        "pipeline_tag: text-to-speech",
        "tags:",
        "- xtts",
        "- xtts_extend",
        *(["- language-pack"] if published.packs else []),
    ]
    return "\n".join(["---", *lines, "---"])


def _introduction(published: Published) -> str:
    languages = ", ".join(published.languages)
    base = f"[{published.base_repo}]({_HUB}/{published.base_repo})"
    if not published.packs:
        return (
            f"# XTTS with {languages or 'a new language'}, merged\n\nOne set of weights for all languages, trained "
            f"from {base}. The languages of the base model sound different from before."
        )
    if published.contains_base:
        return (
            f"# XTTS with language packs: {languages}\n\nThis repository contains the files of a base model, {base}, "
            "and language packs for xtts_extend. Every language of the base model sounds exactly as before."
        )
    return (
        f"# Language pack for XTTS: {languages}\n\nThis file teaches {base} a new language. It is a language pack for "
        "xtts_extend: it is stored beside the base model's files, and every language of the base model sounds exactly "
        "as before."
    )


def _usage(published: Published) -> str:
    language = published.languages[0] if published.languages else "LANG"
    if published.contains_base:
        folder = published.repo.rpartition("/")[2]
        commands = [f"hf download {published.repo} --local-dir {folder}"]
    else:
        folder = "XTTS"
        commands = [
            f"xtts-extend download --repo {published.base_repo} --output {folder}",
            f"xtts-extend pack add {published.repo} --model {folder}",
        ]
    commands.append(
        f'xtts-extend speak --model {folder} --language {language} --reference voice.wav --text "…" --output hello.wav'
    )
    return "\n".join(["## Usage", "", "```sh", *commands, "```"])


def _training(info: PackInfo) -> str:
    training = info.training
    hours = [f"{code} {hours:.2f} h" for code, hours in training.hours.items()]
    counts = [f"{code} {count:,}" for code, count in training.utterances.items()]
    losses = [f"{loss:.3f} ({name})" for name, loss in training.losses.items()]
    rows = {
        "steps": f"{training.steps:,}",
        "recordings": ", ".join(hours),
        "utterances": ", ".join(counts),
        f"validation mel loss in {info.language}": " → ".join(losses),
        "started from": f"the pack for {training.began_with}" if training.began_with else "the base model",
        "replay of old languages": "yes" if training.replay else "no",
        "new tokens": f"{len(info.vocabulary.entries):,}",
        "precision": f"{info.dtype}, {f'rank {info.rank}' if info.rank else 'full rank'}",
        "license of the recordings": " ".join(info.licence.split()).replace("|", "\\|"),
        "created": info.created,
        "xtts_extend": training.xtts_extend,
    }
    table = [f"| {name} | {value} |" for name, value in rows.items() if value]
    return "\n".join([f"## Training of {info.language}", "", "| | |", "| --- | --- |", *table])


def _licence(published: Published) -> str:
    what = "the base model's weights" if published.contains_base else "weights that were trained from the base model's"
    if published.is_xtts:
        text = (
            f"This repository contains {what}. The license of XTTS-v2 applies to them: the "
            f"[{XTTS_LICENCE}]({_XTTS_LICENCE_LINK}), which allows non-commercial use only."
        )
    else:
        text = (
            f"This repository contains {what}. The license of [{published.base_repo}]({_HUB}/{published.base_repo}) "
            "applies to them."
        )
    return f"## License\n\n{text}"
