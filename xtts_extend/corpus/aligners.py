"""What finds the words of a text in audio: CTC models of transformers, or a function of the user.

A CTC model gives the probability of each letter in each frame, from which corpus/alignment.py computes the times of the
words. A function of the user gives these times itself.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xtts_extend.errors import ConfigError
from xtts_extend.notices import warn_once
from xtts_extend.speech.hub_models import LOADING_ERRORS, load_language_adapter, loading_error
from xtts_extend.speech.plugs import is_plug, load_plug, plug_digest

#: Meta's MMS_FA, a CTC model for romanized text that was trained on 1,130 languages, converted to transformers.
DEFAULT_ALIGNER = "MahmoudAshraf/mms-300m-1130-forced-aligner"
#: License of the default model, as its model card states it.
DEFAULT_ALIGNER_LICENSE = "CC-BY-NC 4.0"
#: Log probability that stands for "impossible". It is exact in half precision, and sums over a minute stay precise in
#: single precision, which they would not with the lowest half.
LOWEST = -100.0
# Longer tokens, which are made only of letters, are word pieces. Some alphabets have digraphs and trigraphs.
_LONGEST_LETTER = 3
# A function may round its times.
_TOLERANCE_S = 0.05
# Divisible by the strides of all common models, so that the numbers of frames in one and two of them differ by exactly
# this length divided by the stride.
_MEASURED_S = 0.96


class CtcAligner:
    """A CTC model of transformers that has letters as tokens.

    The model's vocabulary is reduced to one column for each letter and column 0, the blank, which gets the probability
    of everything that is not a letter: the model's own blank (which is its padding, or a token of its own as in the
    default model), word separators and punctuation.

    Attributes:
        name: Folder or Hugging Face model ID.
        letters: The letters, in lower case and NFC. Letter i has column i + 1.
        columns: Number of columns, including the blank.
        blank: Column of the blank.
        romanized: Whether words have to be romanized, because the model has only ASCII letters.
        rate: Sample rate in Hz that the model expects.
        stride: Number of samples between the starts of two frames.
        digest: Digest of the weights, the audio preprocessing and the letters.
    """

    blank = 0

    def __init__(self, name: str, language: str, network: Any, tokenizer: Any, extractor: Any) -> None:
        """Prepare a loaded model; see `load_aligner`."""
        self.name = name
        self._language = language
        self._network = network.eval()
        self._extractor = extractor
        self.rate = int(extractor.sampling_rate)
        self.stride, self._extra_frames, tokens = self._measure()
        # A tokenizer can have tokens that the network does not produce.
        vocabulary = {token: column for token, column in tokenizer.get_vocab().items() if column < tokens}
        self._column_of, self._columns_of_letters = _fold(name, vocabulary, tokenizer, tokens)
        self.letters = tuple(self._columns_of_letters)
        self.columns = len(self.letters) + 1
        self.romanized = all(letter.isascii() for letter in self.letters)
        longest_first = sorted(self.letters, key=len, reverse=True)
        self._letter = re.compile("|".join((*map(re.escape, longest_first), ".")), re.DOTALL)
        self.digest = self._digest()

    @property
    def stride_s(self) -> float:
        """Time between the starts of two frames in seconds."""
        return self.stride / self.rate

    @property
    def on_gpu(self) -> bool:
        """Whether the model runs on an accelerator."""
        return bool(self._network.device.type != "cpu")

    def token_ids(self, words: Sequence[str]) -> list[list[int]]:
        """Return the columns of each word's letters. Letters that the model does not know are omitted.

        Args:
            words: What is spoken, without punctuation, in any script.

        Returns:
            One list for each word, which is empty if the model knows none of its letters.
        """
        return [[column for _, columns in self._spelled(word) for column in columns] for word in self._spellings(words)]

    def unknown_letters(self, words: Sequence[str]) -> Counter[str]:
        """Return the letters and marks that `token_ids` omits, and how often."""
        spelled = (letter for word in self._spellings(words) for letter in self._spelled(word))
        return Counter(letter for letter, columns in spelled if not columns)

    def samples_for(self, frames: int) -> int:
        """Return the number of samples from which `log_probs` computes a number of frames."""
        return (frames + self._extra_frames) * self.stride

    def log_probs(self, audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the log probability of each column in each frame.

        Frame i starts at sample i × stride.

        Args:
            audio: Mono audio at the model's rate, [batch, samples].

        Returns:
            float32 [batch, frames, columns], at least -100.

        Raises:
            ConfigError: The model computes values that are not finite.
        """
        logits = self._logits(audio)
        if not bool(torch.isfinite(logits).all()):
            raise ConfigError(
                f"--aligner {self.name} computes values that are not finite. Its weights are damaged, or were saved "
                "with too little precision. Choose a different model."
            )
        probs = torch.softmax(logits, dim=-1)
        folded = probs.new_zeros(*probs.shape[:2], self.columns).index_add_(2, self._column_of, probs)
        return folded.log_().clamp_min_(LOWEST).numpy()

    def _spellings(self, words: Sequence[str]) -> Sequence[str]:
        if not self.romanized:
            return words
        from xtts_extend.corpus.romanize import romanize

        return romanize(words, self._language)

    def _spelled(self, word: str) -> Iterator[tuple[str, list[int]]]:
        """Yield each letter and its columns: none if it is unknown, several if only its parts are known."""
        for letter in self._letter.findall(unicodedata.normalize("NFC", word.lower())):
            parts = [letter] if letter in self._columns_of_letters else unicodedata.normalize("NFD", letter)
            yield letter, [self._columns_of_letters[part] for part in parts if part in self._columns_of_letters]

    def _logits(self, audio: npt.NDArray[np.float32]) -> torch.Tensor:
        inputs = self._extractor(list(audio), sampling_rate=self.rate, return_tensors="pt")
        with torch.inference_mode():
            logits: torch.Tensor = self._network(**inputs.to(self._network.device)).logits
        return logits.float().cpu()

    def _measure(self) -> tuple[int, int, int]:
        """Return the stride in samples, how many frames too few audio gives, and the number of tokens.

        Configurations do not tell: wav2vec2's has the product of its strides, Wav2Vec2-BERT's has a product of other
        numbers that is the same for the published models only, and others have none.
        """
        length = round(_MEASURED_S * self.rate)
        once, twice = (self._logits(np.zeros((1, factor * length), dtype=np.float32)) for factor in (1, 2))
        added = twice.shape[1] - once.shape[1]
        if added < 1 or length % added:
            raise ConfigError(
                f"--aligner {self.name} gives {added} frames for {length:,} samples; expected frames at a constant "
                "distance. Choose a different model."
            )
        return length // added, max(0, added - once.shape[1]), once.shape[2]

    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for key, tensor in self._network.state_dict().items():
            digest.update(key.encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        for text in (self._extractor.to_json_string(), *self.letters, str(self._column_of.tolist())):
            digest.update(text.encode())
        return digest.hexdigest()


class PlugAligner:
    """A function of the user: (audio, rate, words) → (start, end, score) of each word.

    The audio is float32 [samples], up to 60 s, its rate is in Hz, and the words are a list of strings. Start and end
    are seconds from the beginning of the audio, in the order of the words, and the score is 0 to 1.

    Attributes:
        name: `module:function`.
        digest: Digest of the name and the module's file.
    """

    def __init__(self, name: str) -> None:
        """Import the function; see `load_aligner`."""
        self.name = name
        self._function = load_plug("--aligner", name)
        self.digest = plug_digest(name)

    def align(
        self, audio: npt.NDArray[np.float32], rate: int, words: Sequence[str]
    ) -> list[tuple[float, float, float]]:
        """Return the start and end in seconds and the score of each word.

        Args:
            audio: Mono audio, [samples], up to 60 s.
            rate: Its sample rate in Hz.
            words: The words that are spoken in it.

        Raises:
            ConfigError: The function fails, or what it returns is not one valid time for each word, in order.
        """
        returned = self._function(audio, rate, list(words))
        try:
            times = [(float(start), float(end), float(score)) for start, end, score in returned]
        except (TypeError, ValueError) as error:
            raise self._error(f"something else ({error})") from error
        if len(times) != len(words):
            raise self._error(f"{len(times)} items for {len(words)} words")
        duration = len(audio) / rate
        earliest = -_TOLERANCE_S
        for word, (start, end, score) in zip(words, times, strict=True):
            found = f"({start:g}, {end:g}, {score:g}) for the word {word!r}"
            if not all(map(math.isfinite, (start, end, score))):
                raise self._error(f"{found}, which is not finite")
            if not -_TOLERANCE_S <= start <= end <= duration + _TOLERANCE_S:
                raise self._error(f"{found}, which is not within the audio's {duration:.2f} s, start before end")
            if start < earliest:
                raise self._error(f"{found}, which starts before the preceding word")
            if not 0 <= score <= 1:
                raise self._error(f"{found}, with a score outside 0 to 1")
            earliest = start
        return [(min(max(start, 0.0), duration), min(max(end, 0.0), duration), score) for start, end, score in times]

    def _error(self, found: str) -> ConfigError:
        return ConfigError(
            f"--aligner {self.name} returned {found}. Expected one (start, end, score) per word, in the order of the "
            "words, in seconds from the beginning of the audio, with a score from 0 to 1. Fix the function."
        )


def load_aligner(name: str, language: str, device: str) -> CtcAligner | PlugAligner:
    """Load what finds words in audio.

    Args:
        name: A folder or a Hugging Face model ID of a CTC model, or "module:function" (see `PlugAligner`).
        language: Code of the language, for romanization and for models with an adapter for each language.
        device: Torch device of the model, such as "cpu" or "cuda".

    Raises:
        ConfigError: The model or function cannot be loaded, is not a CTC model with letters as tokens, or does not
            support the language.
    """
    if is_plug(name):
        return PlugAligner(name)
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

    try:
        # First, because its errors are the clearest.
        config = AutoConfig.from_pretrained(name)
        # Not AutoProcessor, which also loads a model's language model if it has one.
        tokenizer = AutoTokenizer.from_pretrained(name)
        extractor = AutoFeatureExtractor.from_pretrained(name)
        # In half precision, the activations of MMS overflow.
        network, info = AutoModelForCTC.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True
        )
    except LOADING_ERRORS as error:
        raise loading_error("--aligner", name, "CTC", error) from error
    untrained = sorted(key for key in info["missing_keys"] if "head" in key)
    if untrained:
        raise ConfigError(
            f"--aligner {name} has no weights for {', '.join(untrained)}: it is not trained to recognize letters. "
            "Choose a model that was fine-tuned for speech recognition with CTC."
        )
    load_language_adapter(network, tokenizer, language, "--aligner", name)
    if name == DEFAULT_ALIGNER:
        warn_once(
            f"{name} is licensed under {DEFAULT_ALIGNER_LICENSE}, which does not permit commercial use. Choose a "
            "different model with --aligner if you need one."
        )
    return CtcAligner(name, language, network.to(device), tokenizer, extractor)


def _fold(name: str, vocabulary: dict[str, int], tokenizer: Any, tokens: int) -> tuple[torch.Tensor, dict[str, int]]:
    """Return the column of each token, int64 [tokens], and the column of each letter."""
    others = {*tokenizer.all_special_tokens, getattr(tokenizer, "word_delimiter_token", None)}
    column_of = torch.zeros(tokens, dtype=torch.int64)
    letters: dict[str, int] = {}
    for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        letter = unicodedata.normalize("NFC", token.lower())
        if token not in others and letter and all(map(_is_spoken, letter)):
            # A capital and a small letter share a column.
            column_of[index] = letters.setdefault(letter, len(letters) + 1)
    pieces = [letter for letter in letters if len(letter) > _LONGEST_LETTER]
    if pieces or not letters:
        found = f"word pieces such as {pieces[0]!r}" if pieces else "no letters"
        raise ConfigError(f"--aligner {name} has {found} as tokens; expected letters. Choose a different model.")
    return column_of, letters


def _is_spoken(character: str) -> bool:
    return character in "'’" or unicodedata.category(character)[0] in "LMN"
