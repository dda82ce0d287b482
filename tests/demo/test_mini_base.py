"""The mini base: complete, readable by stock coqui-tts, reproducible, and never incomplete on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
from TTS.tts.layers.tortoise.arch_utils import TorchMelSpectrogram
from TTS.tts.layers.xtts.dvae import DiscreteVAE
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
from TTS.tts.models.xtts import Xtts

from xtts_extend.demo import mini_base as module
from xtts_extend.demo.dvae_speech import DvaeSpeech
from xtts_extend.demo.griffin_lim import codes_to_audio, mels_to_audio
from xtts_extend.demo.mini_base import Quality, cached_mini_base, make_mini_base
from xtts_extend.demo.mini_vocabulary import write_vocabulary
from xtts_extend.demo.texts import sentences
from xtts_extend.errors import ConfigError, VocabularyError
from xtts_extend.model.blank import BlankWeights
from xtts_extend.model.codec import make_dvae
from xtts_extend.setup.base import check_base
from xtts_extend.speech.speaking import load_model

FILES = ["config.json", "dvae.pth", "mel_stats.pth", "model.pth", "speakers_xtts.pth", "vocab.json"]
SMALL = {"layers": 1, "channels": 16, "heads": 2}


def load(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in state.items()}


def key_paths(values: dict, prefix: str = "") -> set[str]:
    paths = set()
    for key, value in values.items():
        paths.add(prefix + key)
        if isinstance(value, dict):
            paths |= key_paths(value, f"{prefix}{key}.")
    return paths


def test_stock_loads_it_and_speaks(mini_base):
    assert sorted(file.name for file in mini_base.iterdir()) == FILES
    config = XttsConfig()
    config.load_json(mini_base / "config.json")
    with BlankWeights():
        model = Xtts(config)
        model.load_checkpoint(config, checkpoint_dir=mini_base, strict=True)
    saved = load(mini_base / "model.pth")["model"]
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in saved.items())
    assert torch.equal(model.mel_stats, load(mini_base / "mel_stats.pth"))
    out = model.synthesize("hello", speaker="untrained", language="en", max_new_tokens=20)
    assert len(out["wav"]) > 1000


def test_shapes_follow_the_arguments(mini_base):
    weights = load(mini_base / "model.pth")["model"]
    config = json.loads((mini_base / "config.json").read_text())
    args = config["model_args"]
    assert (args["gpt_layers"], args["gpt_n_model_channels"], args["gpt_n_heads"]) == (2, 64, 2)
    assert (args["gpt_num_audio_tokens"], args["gpt_start_audio_token"], args["gpt_stop_audio_token"]) == (
        *(1026, 1024, 1025),
    )
    assert args["gpt_use_perceiver_resampler"] is True
    assert args["decoder_input_dim"] == 64
    assert config["languages"] == ["en", "es"]
    assert len({key.split(".")[3] for key in weights if key.startswith("gpt.gpt.h.")}) == 2
    assert weights["gpt.text_embedding.weight"].shape == (args["gpt_number_text_tokens"], 64)
    assert weights["gpt.text_head.weight"].shape == (args["gpt_number_text_tokens"], 64)
    assert weights["gpt.mel_embedding.weight"].shape == (1026, 64)
    assert load(mini_base / "mel_stats.pth").shape == (80,)


def test_config_has_the_published_keys(mini_base, shared_data):
    published = json.loads((shared_data / "xtts_v2_config.json").read_text())
    own = json.loads((mini_base / "config.json").read_text())
    assert key_paths(own) == key_paths(published)
    sizes = {"gpt_layers", "gpt_n_model_channels", "gpt_n_heads", "gpt_number_text_tokens", "decoder_input_dim"}
    assert {key for key in own["model_args"] if own["model_args"][key] != published["model_args"][key]} == sizes
    # The other differences are training settings and the languages.
    assert {key for key in own if own[key] != published[key]} == {
        *("datasets", "languages", "model_args", "save_best_after"),
    }


@pytest.mark.slow
def test_same_seed_same_weights(tmp_path):
    bases = [make_mini_base(tmp_path / name, **SMALL, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    for name, random_tensor in (("model.pth", "gpt.text_embedding.weight"), ("dvae.pth", "encoder.0.0.weight")):
        first, second, other = (load(base / name) for base in bases)
        if name == "model.pth":
            first, second, other = first["model"], second["model"], other["model"]
        assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
        assert not torch.equal(*(state[random_tensor] for state in (first, other)))
    assert len({(base / "config.json").read_text() for base in bases}) == 1


def test_making_a_base_fills_an_empty_folder_and_does_not_change_the_random_state(tmp_path):
    folder = tmp_path / "የእኔ ሞዴል [v2]"
    folder.mkdir()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert make_mini_base(folder, **SMALL) == folder
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(file.name for file in folder.iterdir()) == FILES


def test_a_base_made_with_stock_has_the_same_tensors(mini_base, tmp_path):
    own = json.loads((mini_base / "config.json").read_text())["model_args"]
    config = XttsConfig(model_args=XttsArgs(**{key: own[key] for key in own if own[key] is not None}))
    config.save_json(tmp_path / "config.json")
    dvae = DiscreteVAE(
        channels=80,
        normalization=None,
        positional_dims=1,
        num_tokens=1024,
        codebook_dim=512,
        hidden_dim=512,
        num_resnet_blocks=3,
        kernel_size=3,
        num_layers=2,
        use_transposed_convs=False,
    )
    assert shapes(Xtts(config).state_dict()) == shapes(load(mini_base / "model.pth")["model"])
    assert shapes(dvae.state_dict()) == shapes(load(mini_base / "dvae.pth"))
    extra = key_paths(json.loads((tmp_path / "config.json").read_text()))
    assert key_paths(json.loads((mini_base / "config.json").read_text())) - extra == {"model_dir"}


def test_built_in_vocabulary_has_the_layout_of_a_released_one(mini_base):
    tokenizer = VoiceBpeTokenizer(mini_base / "vocab.json")
    tokens = tokenizer.tokenizer.get_vocab()
    ids = [tokens[token] for token in ("[STOP]", "[UNK]", "[SPACE]", "[en]", "[es]", "[START]")]
    assert ids == [0, 1, 2, 259, 260, 261]
    assert sorted(tokens.values()) == list(range(module.VOCABULARY_SIZE))
    for text, language in (("Quick brown foxes, 42 of them!", "en"), ("¿Dónde está el pingüino?", "es")):
        ids = tokenizer.encode(text, language)
        assert ids[0] == tokens[f"[{language}]"]
        assert 1 not in ids
        assert tokenizer.decode(ids) == f"[{language}]" + tokenizer.preprocess_text(text, language)
    # The merges apply, so there are far fewer tokens than letters.
    assert len(tokenizer.encode("my grandmother planted apple trees", "en")) < 20


def test_same_texts_same_vocabulary(tmp_path):
    texts = {"en": sentences("en", 200), "es": sentences("es", 200)}
    for name in ("a", "b"):
        write_vocabulary(texts, 350, tmp_path / name)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_vocabulary_determines_rows_and_languages(tmp_path, shared_data):
    vocab = shared_data / "xtts_vocab.json"
    base = make_mini_base(tmp_path / "real", vocab=vocab, **SMALL)
    config = json.loads((base / "config.json").read_text())
    # The ids go up to 5412 and have two gaps.
    assert config["model_args"]["gpt_number_text_tokens"] == 5413
    assert load(base / "model.pth")["model"]["gpt.text_embedding.weight"].shape == (5413, 16)
    assert {"en", "zh-cn", "ja"} < set(config["languages"])
    assert (base / "vocab.json").read_bytes() == vocab.read_bytes()


@pytest.mark.parametrize("content", [None, "", "{}", '{"version": "1.0"}', b"\xff\xfe"])
def test_invalid_vocabulary(tmp_path, content):
    vocab = tmp_path / "vocab.json"
    if content is not None:
        vocab.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(VocabularyError, match="vocab.json"):
        make_mini_base(tmp_path / "base", vocab=vocab, **SMALL)
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    "sizes",
    [
        {"layers": 0},
        {"layers": -1},
        {"heads": 0},
        {"channels": 100, "heads": 3},
        {"channels": 20, "heads": 2},
        {"steps": -1},
        {"quality": Quality.HIGH},
    ],
)
def test_invalid_sizes(tmp_path, sizes):
    with pytest.raises(ConfigError):
        make_mini_base(tmp_path / "base", **sizes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_interruption_leaves_no_files(tmp_path, monkeypatch, error):
    def stop(content, path):
        raise error

    monkeypatch.setattr(module, "_save", stop)
    # Drawing its weights takes most of the time.
    monkeypatch.setattr(module, "make_dvae", lambda codes: torch.nn.Linear(1, 1))
    with pytest.raises(error):
        make_mini_base(tmp_path / "base", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_not_overwritten(tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "model.pth").write_text("mine")
    with pytest.raises(ConfigError, match="already exists"):
        make_mini_base(taken, **SMALL)
    assert (taken / "model.pth").read_text() == "mine"
    with pytest.raises(ConfigError, match="already exists"):
        make_mini_base(taken / "model.pth", **SMALL)
    with pytest.raises(ConfigError, match="is a file; expected a folder"):
        make_mini_base(taken / "model.pth" / "base", **SMALL)


def test_cache_is_created_once_and_repaired(tmp_path, monkeypatch):
    calls = []

    def fake(output, **arguments):
        calls.append(arguments)
        output.mkdir(parents=True)
        for name in FILES:
            (output / name).touch()
        return output

    monkeypatch.setattr(module, "make_mini_base", fake)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "መሸጎጫ"))
    base = cached_mini_base()
    assert base.parent == tmp_path / "መሸጎጫ" / "xtts_extend"
    assert cached_mini_base() == base
    assert len(calls) == 1
    assert cached_mini_base(steps=5) != base
    assert calls[1]["steps"] == 5
    (base / "dvae.pth").unlink()
    assert cached_mini_base() == base
    assert (base / "dvae.pth").exists()
    assert len(calls) == 3


def test_a_dvae_of_high_quality_is_made_once(tmp_path, monkeypatch):
    made = []

    def make_codes(dvae, recordings, quality, seed, progress):
        made.append((quality, seed))
        torch.nn.init.constant_(dvae.weight, len(made))
        return torch.full((80,), float(len(made)))

    def make(name, **arguments):
        base = make_mini_base(tmp_path / name, **SMALL, steps=2, progress=False, **arguments)
        numbers = *load(base / "dvae.pth")["weight"].unique().tolist(), *load(base / "mel_stats.pth").unique().tolist()
        assert torch.equal(load(base / "model.pth")["model"]["mel_stats"], load(base / "mel_stats.pth"))
        return numbers

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "መሸጎጫ"))
    monkeypatch.setattr(module, "make_codes", make_codes)
    monkeypatch.setattr(module, "make_dvae", lambda codes: torch.nn.Linear(2, 2))
    monkeypatch.setattr(module, "_speak_corpora", lambda work, seed, progress: work.mkdir() or {})
    for name in ("train_base", "_write_speakers"):
        monkeypatch.setattr(module, name, lambda *arguments: None)
    assert make("first", quality=Quality.HIGH) == (1, 1)
    assert make("again", quality=Quality.HIGH) == (1, 1)
    assert make("another", quality=Quality.HIGH, seed=5) == (2, 2)
    assert make("standard") == (3, 3)
    assert make("standard again") == (4, 4)
    high, standard = (Quality.HIGH, 0), (Quality.STANDARD, 0)
    assert made == [high, (Quality.HIGH, 5), standard, standard]


def train(folder: Path, sentences: int, codes: int) -> Path:
    """Make a base that is trained for two steps on some sentences of each language, with as many codes."""
    pytest.importorskip("espeakng_loader", reason="training needs speech: pip install 'xtts_extend[demo]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SENTENCES", sentences)
        patch.setattr(module, "AUDIO_CODES", codes)
        patch.setattr(module, "_DVAE_UTTERANCES", dict.fromkeys(Quality, 2 * sentences))
        patch.setattr(module, "_DECODER_STEPS", dict.fromkeys(Quality, 2))
        return make_mini_base(folder / "ሞዴል base", **SMALL, steps=2, progress=False)


@pytest.fixture(scope="module")
def trained_base(tmp_path_factory) -> Path:
    """A trained base, with enough utterances for 1,024 codes."""
    return train(tmp_path_factory.mktemp("trained"), sentences=12, codes=1024)


@pytest.mark.slow
def test_trained_base_is_complete(trained_base):
    assert sorted(file.name for file in trained_base.iterdir()) == FILES
    failed = [finding for finding in check_base(trained_base) if finding.holds is False]
    assert failed == []
    config = XttsConfig()
    config.load_json(trained_base / "config.json")
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=trained_base, strict=True)
    assert model.speaker_manager.speaker_names == ["anna", "bruno", "clara", "david"]
    voice = model.speaker_manager.speakers["bruno"]
    assert [tuple(tensor.shape) for tensor in voice.values()] == [(1, 32, 16), (1, 512, 1)]


def test_training_changes_the_right_weights(tmp_path, monkeypatch):
    train_base = module.train_base

    def keep_untrained(base, *arguments):
        shutil.copyfile(base / "model.pth", tmp_path / "untrained.pth")
        train_base(base, *arguments)

    monkeypatch.setattr(module, "train_base", keep_untrained)
    trained = train(tmp_path, sentences=4, codes=64)
    old, new = (load(file)["model"] for file in (tmp_path / "untrained.pth", trained / "model.pth"))
    assert not torch.equal(new["gpt.mel_head.weight"], old["gpt.mel_head.weight"])
    assert not torch.equal(new["gpt.text_embedding.weight"], old["gpt.text_embedding.weight"])
    decoder = [key for key in old if key.startswith("hifigan_decoder.")]
    assert all(torch.equal(new[key], old[key]) for key in decoder)
    assert torch.equal(new["mel_stats"], load(trained / "mel_stats.pth"))


@pytest.mark.slow
def test_dvae_uses_its_codes_and_decodes_them(trained_base, tmp_path):
    from xtts_extend.demo.mini_dvae import log_mels
    from xtts_extend.demo.speech import make_corpus

    stats = load(trained_base / "mel_stats.pth")
    assert (stats > 0).all()
    manifest = make_corpus(sentences("am", 30, seed=9), "am", tmp_path, progress=False)
    mels = log_mels(sorted((manifest.parent / "wavs").iterdir())) / stats[:, None]
    # The magnitudes are about 1.
    assert 0.5 < mels.abs().mean() < 2
    trained, untrained = make_dvae(1024), make_dvae(1024)
    trained.load_state_dict(load(trained_base / "dvae.pth"))
    codes, untrained_codes = (dvae.get_codebook_indices(mels[None])[0] for dvae in (trained, untrained))
    assert codes.shape == (mels.shape[1] // 4,)
    assert len(untrained_codes.unique()) < 100
    assert len(codes.unique()) > 300
    audio = codes_to_audio(codes[:64], trained, stats, iterations=4)
    assert audio.shape == (64 * 1024 - 256,)
    assert torch.isfinite(audio).all()


def test_dvae_speech_is_what_the_gpt_generates(trained_base, monkeypatch):
    xtts, speech = load_model(trained_base), DvaeSpeech(trained_base)
    latents = load(trained_base / "speakers_xtts.pth")["anna"]["gpt_cond_latent"]
    generated = torch.tensor([[5, 9, 7, 300, 1025, 1025]])
    asked = {}

    def generate(**arguments):
        asked.update(arguments, random=torch.rand(1))
        return generated

    monkeypatch.setattr(xtts.gpt, "generate", generate)
    audio = speech.speak(xtts, "Hello.", "en", latents, seed=3)
    assert audio.shape == (4 * 1024 - 256,)
    assert torch.equal(audio, speech.decode(generated[0, :4]))
    assert asked["text_inputs"].tolist() == [xtts.tokenizer.encode("Hello.", "en")]
    assert torch.equal(asked["cond_latents"], latents)
    assert torch.equal(asked["random"], torch.rand(1, generator=torch.Generator().manual_seed(3)))
    # A model that says nothing: one code has no length in Griffin-Lim.
    generated = torch.tensor([[5, 1025]])
    assert torch.equal(speech.speak(xtts, "Hello.", "en", latents), torch.zeros(1))


def test_griffin_lim_reconstructs_the_mels():
    """A gliding buzz with noise: its mels after the round trip are much closer than those of the reversed buzz."""
    time = torch.arange(22050) / 22050
    phase = 2 * torch.pi * (200 * time + 300 * time**2)
    sound = sum(0.1 * torch.sin(harmonic * phase) for harmonic in range(1, 10))
    sound += 0.01 * torch.randn(22050, generator=torch.Generator().manual_seed(0))
    spectrogram = TorchMelSpectrogram(mel_norm_file=None)
    mels = spectrogram(sound[None])[0]
    audio = mels_to_audio(mels, iterations=20)
    assert audio.shape == (256 * (mels.shape[1] - 1),)
    reconstructed = spectrogram(audio[None])[0]
    error = (reconstructed - mels).abs().mean()
    assert error < 0.5 * (mels.flip(1) - mels).abs().mean()
    assert torch.equal(mels_to_audio(mels, iterations=20), audio)
