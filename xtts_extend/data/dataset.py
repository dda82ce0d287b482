"""Utterances as tensors: sample i for index i, with the items of the stock XTTSDataset.

The stock dataset ignores the index, draws with Python's global `random`, and drops what fails in silence. Here the
randomness is a function of (seed, epoch, i), and a sample that fails stops the run with its name.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.data.audio import audio_length, load_audio, load_slice
from xtts_extend.data.sample import Sample
from xtts_extend.errors import ConfigError, DataError

# The ids that the stock dataset refuses in a text, of the vocabulary's [STOP] and [UNK].
STOP_ID, UNKNOWN_ID = 0, 1
# Stock: "ultra short clips are also useless (and can cause problems within some models)".
MIN_DURATION_S = 0.5


class UtteranceDataset(Dataset[dict[str, Any]]):
    """The samples in their order; feed it what `check_samples` found usable.

    Loader workers copy the dataset when an iterator is made: call `set_epoch` before, and leave `persistent_workers`
    off, or the workers stay in the first epoch.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        tokenizer: VoiceBpeTokenizer,
        *,
        sample_rate: int,
        min_conditioning_length: int,
        max_conditioning_length: int,
        seed: int,
        is_eval: bool,
        use_masking: bool,
    ) -> None:
        """Take the samples.

        Args:
            samples: What `read_manifest` returns.
            tokenizer: With the tag of every language in the samples.
            sample_rate: The model's, in Hz.
            min_conditioning_length: Shortest conditioning slice, in samples at `sample_rate`.
            max_conditioning_length: Longest one; shorter ones are padded with zeros to it.
            seed: Of the conditioning slices.
            is_eval: Slices of the middle length from the beginning, the same in every epoch.
            use_masking: The slice is cut from the utterance itself, and its place (`cond_idxs`) is told to the model,
                which masks it; otherwise from the sample's `reference_path`, if it has one, and its length is told
                (`cond_lens`).

        Raises:
            ConfigError: The conditioning lengths are not 0 < min <= max.
        """
        if not 0 < min_conditioning_length <= max_conditioning_length:
            raise ConfigError(
                f"min_conditioning_length {min_conditioning_length} and max_conditioning_length "
                f"{max_conditioning_length}: expected 0 < min <= max, in samples"
            )
        self.samples = samples
        self.tokenizer = tokenizer
        self.sample_rate = sample_rate
        self.min_conditioning_length = min_conditioning_length
        self.max_conditioning_length = max_conditioning_length
        self.seed = seed
        self.is_eval = is_eval
        self.use_masking = use_masking
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose conditioning slices the next items have."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one utterance.

        Returns:
            text (int32 [tokens]), text_lengths (int64), wav (float32 [1, samples], or None), wav_lengths (int64),
            filenames, conditioning (float32 [1, 1, max_conditioning_length]), cond_lens (int64, or NaN [1]), cond_idxs
            (int64 [2], or NaN [1]), sample, the recording's name as the manifest has it, replay, whether it is of an
            old language and to be kept, and where the utterance is encoded, codes (int64 [codes]) and distribution
            (see `Encoded`), else None.

        Raises:
            DataError: The recording or the text cannot be used (any more); the message names it.
        """
        index = range(len(self.samples))[index]
        sample = self.samples[index]
        encoded = sample.encoded
        if encoded is None:
            wav = load_audio(sample.audio_file, self.sample_rate)
            wav_length = wav.shape[-1]
        else:
            wav, wav_length = None, encoded.wav_length
        if wav_length < MIN_DURATION_S * self.sample_rate:
            raise DataError(f"{sample.audio_file} is shorter than {MIN_DURATION_S} s; run check-data again")
        if sample.conditioning_slice is not None:
            # of another recording: nothing of the utterance itself is given away, and nothing is masked
            (first, last), start, end = sample.conditioning_slice, 0, 0
            conditioning = self._fixed_slice(sample, first, last)
        else:
            reference, length = sample.audio_file, wav_length
            if not self.use_masking and sample.reference_path is not None:
                reference = sample.reference_path
                length = audio_length(reference, self.sample_rate)
            start, end = self._conditioning_slice(length, index)
            conditioning = load_slice(reference, self.sample_rate, start, end)
        conditioning = F.pad(conditioning, (0, self.max_conditioning_length - conditioning.shape[-1]))
        text = self._encode(sample)
        no_value = torch.tensor([torch.nan])
        return {
            "text": text,
            "text_lengths": torch.tensor(len(text), dtype=torch.long),
            "wav": wav,
            "wav_lengths": torch.tensor(wav_length, dtype=torch.long),
            "filenames": sample.audio_file,
            "conditioning": conditioning.unsqueeze(1),
            # Stock gives the padded length here, which is the same for all.
            "cond_lens": no_value if self.use_masking else torch.tensor(conditioning.shape[-1], dtype=torch.long),
            "cond_idxs": torch.tensor([start, end]) if self.use_masking else no_value,
            "sample": sample.manifest_audio_file,
            "replay": sample.replay,
            "codes": encoded.codes() if encoded else None,
            "distribution": encoded.distribution() if encoded else None,
        }

    def _encode(self, sample: Sample) -> Tensor:
        """Token ids, int32 [tokens]."""
        if sample.encoded is not None and sample.encoded.has_ids:
            return sample.encoded.ids()
        ids = self.tokenizer.encode(sample.text, sample.language)
        for forbidden, name in ((UNKNOWN_ID, "an unknown token"), (STOP_ID, "the stop token")):
            if forbidden in ids:
                raise DataError(f"the text of {sample.audio_file} holds {name}: {sample.text!r}; run check-data")
        return torch.tensor(ids, dtype=torch.int32)

    def _fixed_slice(self, sample: Sample, start: int, end: int) -> Tensor:
        """The sample's own slice of audio, [1, end - start]."""
        if end - start > self.max_conditioning_length:
            raise DataError(
                f"{sample.manifest}: {sample.manifest_audio_file} is conditioned by the samples {start} to {end} "
                f"of {sample.audio_file}, and the longest slice is {self.max_conditioning_length}. Make the set "
                "again for this configuration."
            )
        return load_slice(sample.audio_file, self.sample_rate, start, end)

    def _conditioning_slice(self, samples: int, index: int) -> tuple[int, int]:
        """Start and end of a slice of a recording with so many samples."""
        # A string seeds through SHA-512: the same in every process, whatever PYTHONHASHSEED is.
        generator = random.Random(f"conditioning {self.seed} {self.epoch} {index}")
        if self.is_eval:
            length = (self.min_conditioning_length + self.max_conditioning_length) // 2
        else:
            length = generator.randint(self.min_conditioning_length, self.max_conditioning_length)
        if samples < length:
            length = samples // 2
        start = 0 if self.is_eval else generator.randint(0, samples - length)
        return start, start + length

    def collate_fn(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch of items, as stock does.

        Returns:
            The items' keys, with conditioning [batch, 1, 1, samples], cond_lens [batch] and cond_idxs [batch, 2]
            stacked (or None), `text`, `filenames` and `samples` as lists, padded_text (int32 [batch, tokens]), replay
            (bool [batch]); wav [recordings, 1, samples] of the samples that are not encoded, or None, codes (int64
            [encoded, codes]) and is_encoded (bool [batch]) of the others; has_distribution (bool [batch]), top_ids and
            top_log_probs ([with distribution, codes + 1, TOP_K]). Padding is zero.
        """
        batch: dict[str, Any] = {key: [item[key] for item in items] for key in items[0]}
        batch["samples"] = batch.pop("sample")
        for key in ("wav_lengths", "text_lengths", "conditioning", "cond_lens", "cond_idxs"):
            batch[key] = torch.stack(batch[key])
        for key in ("cond_lens", "cond_idxs"):
            if batch[key].isnan().any():
                batch[key] = None
        wavs = [wav for wav in batch["wav"] if wav is not None]
        longest = max((wav.shape[-1] for wav in wavs), default=0)
        batch["wav"] = torch.stack([F.pad(wav, (0, longest - wav.shape[-1])) for wav in wavs]) if wavs else None
        batch["padded_text"] = pad_sequence(batch["text"], batch_first=True)
        batch["replay"] = torch.tensor(batch["replay"])
        batch["is_encoded"] = torch.tensor([codes is not None for codes in batch["codes"]])
        batch["codes"] = _padded([codes for codes in batch["codes"] if codes is not None])
        distributions = batch.pop("distribution")
        batch["has_distribution"] = torch.tensor([distribution is not None for distribution in distributions])
        known = [distribution for distribution in distributions if distribution is not None]
        batch["top_ids"] = _padded([ids for ids, _ in known])
        batch["top_log_probs"] = _padded([log_probs for _, log_probs in known])
        return batch


def _padded(sequences: list[Tensor]) -> Tensor | None:
    return pad_sequence(sequences, batch_first=True) if sequences else None


def split_batch(batch: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """A collated batch as up to so many batches of consecutive samples."""
    count = len(batch["samples"])
    edges = sorted({count * part // parts for part in range(parts + 1)})
    # what only some of the samples have comes in rows of its own
    owners = {"wav": ~batch["is_encoded"], "codes": batch["is_encoded"]}
    owners |= dict.fromkeys(("top_ids", "top_log_probs"), batch["has_distribution"])
    found = []
    for start, end in pairwise(edges):
        part = {}
        for key, value in batch.items():
            first, last = (int(owners[key][:edge].sum()) if key in owners else edge for edge in (start, end))
            part[key] = None if value is None or first == last else value[first:last]
        found.append(part)
    return found
