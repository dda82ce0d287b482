"""Emissions lie on one grid of frames for the whole recording, and a killed computation is resumed."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from ctc_models import save_wav2vec2, save_wav2vec2_bert

from xtts_extend.corpus import emissions as module
from xtts_extend.corpus.aligners import LOWEST, load_aligner
from xtts_extend.corpus.emissions import Emissions, compute_emissions, greedy
from xtts_extend.corpus.voice_activity import Span
from xtts_extend.errors import DataError

RATE, STRIDE = 16000, 320
#: 13.01 s of noise whose loudness changes.
AUDIO = np.random.default_rng(0).normal(0, 0.1, 13 * RATE + 160).astype(np.float32)
AUDIO *= np.repeat(np.random.default_rng(1).uniform(0.1, 1, 651), STRIDE)[: len(AUDIO)].astype(np.float32)
SPEECH = [Span(0.5, 3.1), Span(6.0, 6.3), Span(12.0, 13.01)]


def read(first, last):
    """Read the noise."""
    assert 0 <= first < last <= len(AUDIO)
    return AUDIO[first:last]


@pytest.fixture(scope="module", params=[save_wav2vec2, save_wav2vec2_bert])
def aligner(request, tmp_path_factory):
    """A tiny model of each kind: one reads samples, the other mel spectra."""
    return load_aligner(str(request.param(tmp_path_factory.mktemp("model"))), "am", "cpu")


@pytest.fixture
def short_windows(monkeypatch):
    """Windows of 2 s, two in a part: 200 frames."""
    monkeypatch.setattr(module, "_WINDOW_S", 2)
    monkeypatch.setattr(module, "_CONTEXT_S", 1)
    monkeypatch.setattr(module, "_WINDOWS_PER_PART", 2)


def compute(aligner, folder, speech=SPEECH, digest="abc"):
    return compute_emissions(read, len(AUDIO), digest, speech, aligner, folder, progress=False)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_frames_in_windows_are_those_of_the_whole_recording(aligner, tmp_path, short_windows):
    emissions = compute(aligner, tmp_path, [Span(0, 13.01)])
    assert (emissions.frames, emissions.columns, emissions.stride_s) == (651, 28, 0.02)
    assert sorted(file.name for file in tmp_path.glob("part*")) == [f"part-0000{part}.npy" for part in range(4)]
    whole = aligner.log_probs(np.pad(AUDIO, (0, aligner.samples_for(651) - len(AUDIO)))[None])[0]
    values = emissions[:]
    assert values.dtype == np.float32
    assert np.exp(values).sum(axis=1) == pytest.approx(np.ones(651), abs=0.02)
    # At the borders of the windows, too, the values are closest to those of the same frame.
    for place in (slice(10, 640), slice(90, 110), slice(190, 210), slice(590, 610)):
        distances = {
            shift: np.abs(values[place] - whole[place.start + shift : place.stop + shift]).mean()
            for shift in (-2, -1, 0, 1, 2)
        }
        assert distances[0] < 0.5 * min(value for shift, value in distances.items() if shift)


def test_the_blank_is_certain_where_nobody_speaks(aligner, tmp_path, short_windows):
    values = compute(aligner, tmp_path)[:]
    spoken = values[:, 0] < 0
    # The spans with 1.5 s on each side; two of them meet.
    expected = [*range(391), *range(525, 651)]
    assert np.flatnonzero(spoken).tolist() == expected
    assert (values[~spoken, 0] == 0).all()
    assert (values[~spoken, 1:] == LOWEST).all()


def test_slices_across_parts(tmp_path, short_windows):
    emissions = compute(detector([]), tmp_path)
    everything = emissions[:]
    for first, last in ((0, 1), (150, 450), (199, 201), (200, 400), (650, 651), (5, 5)):
        assert np.array_equal(emissions[first:last], everything[first:last])


def test_a_killed_computation_is_resumed(aligner, tmp_path, short_windows, monkeypatch):
    compute(aligner, tmp_path / "whole")
    computed = []
    original = module._compute_part

    def compute_part(*arguments):
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(arguments[4])
        return original(*arguments)

    monkeypatch.setattr(module, "_compute_part", compute_part)
    with pytest.raises(KeyboardInterrupt):
        compute(aligner, tmp_path / "killed")
    # A truncated file is not kept.
    damaged = tmp_path / "killed" / "part-00001.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert computed == [0, 1]
    monkeypatch.setattr(
        module, "_compute_part", lambda *arguments: computed.append(arguments[4]) or original(*arguments)
    )
    compute(aligner, tmp_path / "killed")
    assert computed == [0, 1, 1, 2, 3]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    compute(aligner, tmp_path / "killed")
    assert len(computed) == 5


@pytest.mark.parametrize(
    "changes",
    [{"digest": "def"}, {"speech": [Span(1, 2)]}, {"aligner": "other"}],
    ids=["recording", "speech", "model"],
)
def test_parts_of_something_else_are_not_kept(tmp_path, short_windows, changes):
    own = detector([])
    changed = {"aligner": own} | changes
    if "aligner" in changes:
        changed["aligner"] = detector([], digest="other")
    direct = compute(**changed, folder=tmp_path / "direct")
    assert compute(own, tmp_path / "reused").key != direct.key
    compute(**changed, folder=tmp_path / "reused")
    assert contents(tmp_path / "reused") == contents(tmp_path / "direct")
    # An index that was deleted before its parts leaves parts that do not count.
    compute(own, tmp_path / "killed")
    (tmp_path / "killed" / module.INDEX).unlink()
    compute(**changed, folder=tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "direct")


def test_missing_and_damaged_emissions(tmp_path, short_windows):
    emissions = compute(detector([]), tmp_path)
    emissions.path(1).unlink()
    assert emissions[:200].shape == (200, 2)
    with pytest.raises(DataError, match="part-00001.npy is missing or damaged. Run make-dataset again"):
        emissions[150:250]
    shutil.copy(emissions.path(3), emissions.path(1))
    assert not emissions.is_intact(1)


def test_windows_on_a_gpu_are_computed_in_batches_of_equal_length(tmp_path, short_windows, monkeypatch):
    monkeypatch.setattr(module, "_WINDOWS_PER_PART", 7)
    shapes = []
    stand_in = detector(shapes, on_gpu=True)
    values = compute(stand_in, tmp_path / "gpu", [Span(0, 13.01)])[:]
    # The first and the last windows have context on one side only.
    assert shapes == [(1, 151 * STRIDE), (5, 201 * STRIDE), (1, 102 * STRIDE)]
    assert np.array_equal(values, compute(detector([]), tmp_path / "cpu", [Span(0, 13.01)])[:])


def detector(shapes, on_gpu=False, digest=""):
    """A stand-in for a model, which recognizes each frame that contains a sample of more than 0.2."""

    def log_probs(audio):
        shapes.append(audio.shape)
        frames = audio[:, : audio.shape[1] // STRIDE * STRIDE].reshape(len(audio), -1, STRIDE)
        found = frames.max(axis=2) > 0.2
        return np.where(np.stack([~found, found], axis=2), 0, LOWEST).astype(np.float32)[:, :-1]

    return SimpleNamespace(
        digest=digest, rate=RATE, stride=STRIDE, columns=2, on_gpu=on_gpu, log_probs=log_probs,
        samples_for=lambda frames: (frames + 1) * STRIDE,
    )  # fmt: skip


def test_frames_do_not_drift_in_ten_hours(tmp_path):
    duration_s = 10 * 3600 + 0.07
    samples = round(duration_s * RATE)
    clicks = np.array([0, 319, 320, 20 * RATE - 1, 20 * RATE, 5 * 3600 * RATE + 12345, samples - 320, samples - 1])

    def read_clicks(first, last):
        assert last <= samples
        audio = np.zeros(last - first, dtype=np.float32)
        audio[clicks[(first <= clicks) & (clicks < last)] - first] = 1
        return audio

    shapes = []
    speech = [Span(max(0, click / RATE - 0.1), click / RATE) for click in clicks]
    emissions = compute_emissions(read_clicks, samples, "", speech, detector(shapes), tmp_path, progress=False)
    assert emissions.frames == 10 * 3600 * 50 + 4
    columns, frames = greedy(emissions)
    # The first two are in the same frame, and neighbouring frames are one letter.
    assert frames.tolist() == [0, 20 * 50 - 1, 5 * 3600 * 50 + 12345 // 320, (samples - 320) // 320]
    assert columns.tolist() == [1] * 4
    # Windows without speech within 1.5 s were not computed.
    assert len(shapes) == 6


def test_greedy_merges_repetitions_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GREEDY_BLOCK", 4)
    best = np.array([0, 1, 1, 2, 2, 2, 0, 2, 0, 0, 0, 3])
    emissions = Emissions(tmp_path, "", frames=12, columns=4, stride=320, rate=16000, part_frames=12)
    np.save(emissions.path(0), np.eye(4, dtype=np.float16)[best])
    columns, frames = greedy(emissions)
    assert (columns.tolist(), frames.tolist()) == ([1, 2, 2, 3], [1, 3, 7, 11])


def test_a_recording_without_samples(tmp_path):
    emissions = compute_emissions(read, 0, "", [], detector([]), tmp_path, progress=False)
    assert [values.size for values in greedy(emissions)] == [0, 0]
    assert emissions[:].shape == (0, 2)
