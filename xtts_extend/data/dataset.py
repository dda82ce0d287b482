"""A dataset that returns utterances as tensors, with the same items as coqui's XTTSDataset.

XTTSDataset ignores the index, draws samples with Python's global `random`, and silently drops samples that fail. Here,
index i returns sample i, randomness is a function of (seed, epoch, i), and a sample that fails stops the run with an
error that names it.
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

#: Ids of [STOP] and [UNK], which XTTSDataset rejects in a text.
STOP_ID, UNKNOWN_ID = 0, 1
#: Shortest recording that XTTSDataset accepts: "ultra short clips are also useless (and can cause problems within
#: some models)".
MIN_DURATION_S = 0.5


class UtteranceDataset(Dataset[dict[str, Any]]):
    """Dataset of the usable samples that `check_samples` returns, in the same order.

    Loader workers copy the dataset when an iterator is created. Call `set_epoch` before that, and leave
    `persistent_workers` off. Otherwise, the workers stay in the first epoch.
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
        """Create a dataset.

        Args:
            samples: Usable samples.
            tokenizer: Tokenizer with the tag of every language in the samples.
            sample_rate: The model's sample rate in Hz.
            min_conditioning_length: Length of the shortest conditioning slice, in samples at `sample_rate`.
            max_conditioning_length: Length of the longest conditioning slice. Shorter ones are padded with zeros.
            seed: Seed for drawing the conditioning slices.
            is_eval: Take a slice of medium length from the beginning of each recording, the same one in every epoch.
            use_masking: Take the slice from the utterance itself and return its position (`cond_idxs`), so that the
                model can mask it. Otherwise, take it from the sample's `reference_path`, if it has one, and return
                its length (`cond_lens`).

        Raises:
            ConfigError: The conditioning lengths do not satisfy 0 < min <= max.
        """
        if not 0 < min_conditioning_length <= max_conditioning_length:
            raise ConfigError(
                f"Expected 0 < min_conditioning_length <= max_conditioning_length, got {min_conditioning_length} and "
                f"{max_conditioning_length} samples."
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
        """Set the epoch, which determines the conditioning slices."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one utterance.

        Returns:
            A dictionary with text (int32 [tokens]), text_lengths (int64), wav (float32 [1, samples], or None if the
            sample is encoded), wav_lengths (int64), filenames (path of the recording), conditioning (float32 [1, 1,
            max_conditioning_length]), cond_lens (int64, or NaN [1]), cond_idxs (int64 [2], or NaN [1]), sample (name of
            the recording in the manifest), replay (bool), codes (int64 [codes]) and distribution (see `Encoded`), or
            None if the sample is not encoded.

        Raises:
            DataError: The recording or the text is unusable. The message names it.
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
            raise DataError(f"{sample.audio_file} is shorter than {MIN_DURATION_S} s. Run check-data again.")
        if sample.conditioning_slice is not None:
            # The slice comes from a different recording, so there is nothing to mask.
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
            # This is the padded length, as in XTTSDataset.
            "cond_lens": no_value if self.use_masking else torch.tensor(conditioning.shape[-1], dtype=torch.long),
            "cond_idxs": torch.tensor([start, end]) if self.use_masking else no_value,
            "sample": sample.manifest_audio_file,
            "replay": sample.replay,
            "codes": encoded.codes() if encoded else None,
            "distribution": encoded.distribution() if encoded else None,
        }

    def _encode(self, sample: Sample) -> Tensor:
        """Return the token ids, int32 [tokens]."""
        if sample.encoded is not None and sample.encoded.has_ids:
            return sample.encoded.ids()
        ids = self.tokenizer.encode(sample.text, sample.language)
        for forbidden, name in ((UNKNOWN_ID, "an unknown token"), (STOP_ID, "the stop token")):
            if forbidden in ids:
                raise DataError(f"The text of {sample.audio_file} contains {name}: {sample.text!r}. Run check-data.")
        return torch.tensor(ids, dtype=torch.int32)

    def _fixed_slice(self, sample: Sample, start: int, end: int) -> Tensor:
        """Return the sample's fixed conditioning slice, float32 [1, end - start]."""
        if end - start > self.max_conditioning_length:
            raise DataError(
                f"{sample.manifest}: {sample.manifest_audio_file} is conditioned on samples {start} to {end} of "
                f"{sample.audio_file}, but a slice may have at most {self.max_conditioning_length} samples. Create the "
                "set again with this configuration."
            )
        return load_slice(sample.audio_file, self.sample_rate, start, end)

    def _conditioning_slice(self, samples: int, index: int) -> tuple[int, int]:
        """Return the start and end, in samples, of an item's conditioning slice in a recording of this length."""
        # Python hashes a string seed with SHA-512, so PYTHONHASHSEED has no effect.
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
        """Collate items into a batch, as XTTSDataset does.

        Args:
            items: Items of this dataset.

        Returns:
            A dictionary with the items' keys, changed as follows. Stacked keys: text_lengths and wav_lengths [batch],
            conditioning [batch, 1, 1, samples], cond_lens [batch] and cond_idxs [batch, 2] (or None), replay (bool
            [batch]). Lists: text, filenames and samples. Keys padded with zeros: padded_text (int32 [batch, tokens]);
            wav [recordings, 1, samples] for the samples that are not encoded; codes (int64 [encoded, codes]) for the
            others; top_ids and top_log_probs [distributions, codes + 1, TOP_K]. Each of the last four is None if no
            sample has it. New keys: is_encoded and has_distribution (bool [batch]).
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
        present = [distribution for distribution in distributions if distribution is not None]
        batch["top_ids"] = _padded([ids for ids, _ in present])
        batch["top_log_probs"] = _padded([log_probs for _, log_probs in present])
        return batch


def _padded(sequences: list[Tensor]) -> Tensor | None:
    return pad_sequence(sequences, batch_first=True) if sequences else None


def split_batch(batch: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """Split a collated batch into micro-batches of consecutive samples.

    Args:
        batch: Batch, as returned by `UtteranceDataset.collate_fn`.
        parts: Maximum number of micro-batches. A batch with fewer samples is split into fewer micro-batches.
    """
    count = len(batch["samples"])
    edges = sorted({count * part // parts for part in range(parts + 1)})
    # These tensors have rows for only some of the samples.
    owners = {"wav": ~batch["is_encoded"], "codes": batch["is_encoded"]}
    owners |= dict.fromkeys(("top_ids", "top_log_probs"), batch["has_distribution"])
    micro_batches = []
    for start, end in pairwise(edges):
        micro_batch = {}
        for key, value in batch.items():
            first, last = (int(owners[key][:edge].sum()) if key in owners else edge for edge in (start, end))
            micro_batch[key] = None if value is None or first == last else value[first:last]
        micro_batches.append(micro_batch)
    return micro_batches
