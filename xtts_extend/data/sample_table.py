"""Samples as columns. A run keeps its samples for days, and loader workers copy them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast, overload

import pyarrow as pa

from xtts_extend.data.encoded import Encoded
from xtts_extend.data.sample import Sample

#: Number of samples that are converted at once.
_BLOCK_ROWS = 4096

_SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        ("audio_file", pa.large_string()),
        ("manifest_audio_file", pa.large_string()),
        ("audio_digest", pa.large_string()),
        ("line", pa.int32()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("duration_s", pa.float64()),
        ("text_tokens", pa.int32()),
        ("row", pa.int32()),
        ("wav_length", pa.int32()),
        # Positions in the lists of values that many samples share.
        ("source", pa.int32()),
        ("part", pa.int32()),
    ]
)


#: Language, speaker, manifest, root path, reference path and whether the sample is replayed.
_Source = tuple[str, str, str, str, str | None, bool]
_SOURCE = ("language", "speaker_name", "manifest", "root_path", "reference_path", "replay")
#: Values of `Encoded`: file, whether there are ids and distributions, and the part's digest.
_Part = tuple[str, bool, bool, str | None]


class SampleTable(Sequence[Sample]):
    """Samples, stored in Arrow columns and created when they are read.

    A million samples take about 300 MB instead of 900 MB, and no objects that the garbage collector has to visit or
    that forked loader workers copy when they count references.

    Args:
        samples: The samples to store.
        codes: The location of each sample's codes, which replaces its `encoded`. This is faster than replacing it in
            each sample first. By default, nothing is replaced.

    >>> samples = [Sample(f"Text {n}", f"/data/{n}.wav", "am", f"{n}.wav", line=n) for n in range(3)]
    >>> table = SampleTable(samples)
    >>> table[1].text, list(table) == samples
    ('Text 1', True)
    """

    def __init__(self, samples: Iterable[Sample], codes: Iterable[Encoded] | None = None) -> None:
        # Only coqui's formatters set `extra`.
        self._extra: dict[int, Mapping[str, object]] = {}
        sources: dict[_Source, int] = {}
        parts: dict[_Part, int] = {}
        blocks, remaining, count = [], iter(samples), 0
        remaining_codes = None if codes is None else iter(codes)
        while block := list(islice(remaining, _BLOCK_ROWS)):
            encoded = remaining_codes and list(islice(remaining_codes, len(block)))
            columns = _columns(block, encoded or [sample.encoded for sample in block], sources, parts)
            arrays = [pa.array(columns[field.name], field.type) for field in _SCHEMA]
            blocks.append(pa.record_batch(arrays, _SCHEMA))
            self._extra |= {count + n: sample.extra for n, sample in enumerate(block) if sample.extra is not None}
            count += len(block)
        self._sources, self._parts = list(sources), list(parts)
        # Access by position is faster to an array than to a table.
        self._columns = [column.combine_chunks() for column in pa.Table.from_batches(blocks, _SCHEMA).columns]

    def __len__(self) -> int:
        return len(self._columns[0])

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[position] for position in range(len(self))[index]]
        index = range(len(self))[index]
        return self._sample(index, [column[index].as_py() for column in self._columns])

    def __iter__(self) -> Iterator[Sample]:
        for start in range(0, len(self), _BLOCK_ROWS):
            block = [column.slice(start, _BLOCK_ROWS).to_pylist() for column in self._columns]
            for number, values in enumerate(zip(*block, strict=True), start):
                yield self._sample(number, values)

    def part(self, start: int, end: int) -> SampleTable:
        """Return the samples from `start` to `end` as a table. Nothing is copied."""
        table = copy.copy(self)
        table._columns = [column.slice(start, end - start) for column in self._columns]
        table._extra = {index - start: extra for index, extra in self._extra.items() if start <= index < end}
        return table

    def column(self, name: str) -> list[Any]:
        """Return the values of `values` without creating samples."""
        if name in _SCHEMA.names:
            return cast(list[Any], self._columns[_SCHEMA.get_field_index(name)].to_pylist())
        position = _SOURCE.index(name)
        shared = [source[position] for source in self._sources]
        return [shared[number] for number in self.column("source")]

    def _sample(self, index: int, values: Sequence[Any]) -> Sample:
        text, audio_file, name, digest, line, start, end, duration_s, tokens, row, wav_length, source, part = values
        language, speaker_name, manifest, root_path, reference_path, replay = self._sources[source]
        encoded = None
        if part is not None:
            file, has_ids, has_distribution, part_digest = self._parts[part]
            encoded = Encoded(file, row, wav_length, has_ids, has_distribution, part_digest)
        return Sample(
            text=text,
            audio_file=audio_file,
            language=language,
            manifest_audio_file=name,
            speaker_name=speaker_name,
            manifest=manifest,
            line=line,
            root_path=root_path,
            reference_path=reference_path,
            conditioning_slice=None if start is None else (start, end),
            encoded=encoded,
            duration_s=duration_s,
            audio_digest=digest,
            text_tokens=tokens,
            replay=replay,
            extra=self._extra.get(index),
        )


def values(samples: Sequence[Sample], name: str) -> list[Any]:
    """Return a value of each sample. With a `SampleTable`, this is much faster than reading the samples.

    Args:
        samples: Samples of a run.
        name: `text`, `language`, `manifest_audio_file`, `replay`, `duration_s`, `text_tokens` or `wav_length`. The last
            one is the number of audio samples that the codes represent; None for a sample that is not encoded.

    >>> values([Sample("Hello", "/data/a.wav", "en", "a.wav", text_tokens=3)], "text_tokens")
    [3]
    """
    if isinstance(samples, SampleTable):
        return samples.column(name)
    if name == "wav_length":
        return [sample.encoded and sample.encoded.wav_length for sample in samples]
    return [getattr(sample, name) for sample in samples]


def _columns(
    block: Sequence[Sample],
    codes: Sequence[Encoded | None],
    sources: dict[_Source, int],
    parts: dict[_Part, int],
) -> dict[str, list[Any]]:
    """Return the columns of a few samples and their codes by name, adding shared values to `sources` and `parts`."""
    slices = [sample.conditioning_slice or (None, None) for sample in block]
    own = ("text", "audio_file", "manifest_audio_file", "audio_digest", "line", "duration_s", "text_tokens")
    return {
        **{name: [getattr(sample, name) for sample in block] for name in own},
        "start": [start for start, _ in slices],
        "end": [end for _, end in slices],
        "row": [encoded and encoded.row for encoded in codes],
        "wav_length": [encoded and encoded.wav_length for encoded in codes],
        "source": [sources.setdefault(_source(sample), len(sources)) for sample in block],
        "part": [encoded and parts.setdefault(_part(encoded), len(parts)) for encoded in codes],
    }


def _source(sample: Sample) -> _Source:
    return (
        sample.language,
        sample.speaker_name,
        sample.manifest,
        sample.root_path,
        sample.reference_path,
        sample.replay,
    )


def _part(encoded: Encoded) -> _Part:
    return encoded.file, encoded.has_ids, encoded.has_distribution, encoded.part_digest
