"""check-base: every assumption about a base directory is checked, and failures are reported."""

import json
import os
import shutil

import pytest
import torch
from checkpoints import cut
from runs import only_run
from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
from TTS.tts.models.xtts import Xtts

from xtts_extend.errors import ConfigError
from xtts_extend.model.blank import BlankWeights
from xtts_extend.model.codec import make_dvae
from xtts_extend.run.config import NewLanguageConfig, copy_architecture, read_json
from xtts_extend.setup.base import check_base, config_for_base
from xtts_extend.speech.speaking import load_model


@pytest.fixture
def base(mini_base, tmp_path):
    return shutil.copytree(mini_base, tmp_path / "base", copy_function=os.link)


def replace(path, content):
    path.unlink()
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        torch.save(content, path)


def failed(base):
    return {finding.assumption: finding.found for finding in check_base(base) if finding.holds is False}


def test_intact_base_passes_all_checks(mini_base):
    findings = check_base(mini_base)
    assert [finding for finding in findings if finding.holds is False] == []
    found = {finding.assumption: finding.found for finding in findings}
    assert found["number of layers matches config.json"] == "2 / 2"
    assert found["one row per token id"] == "400 rows, ids 0–399"
    diversity = found["the DVAE produces more than one distinct code"]
    assert "distinct codes for two seconds of noise: " in diversity
    assert diversity.endswith(" out of 44")
    assert found["memory for weights, gradients and AdamW in float32"].endswith("free here")


def test_base_with_unusual_weight_format(base):
    """Weights from a distributed and compiled model, in half precision, old names, as a bare state dict."""
    content = torch.load(base / "model.pth", weights_only=True)["model"]
    half = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in content.items()}
    saved = {f"module.{key.replace('.gpt.', '.gpt._orig_mod.')}": tensor for key, tensor in half.items()}
    for new, old in (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    ):
        saved = {key.replace(new, old): tensor for key, tensor in saved.items()}
    replace(base / "model.pth", saved)
    assert failed(base) == {}
    speaking = load_model(base).state_dict()
    assert all(torch.equal(speaking[key], tensor.to(speaking[key].dtype)) for key, tensor in half.items())


def test_missing_files(base):
    (base / "dvae.pth").unlink()
    (base / "vocab.json").unlink()
    assert failed(base) == {"vocab.json exists": "missing", "dvae.pth exists": "missing"}


@pytest.fixture
def odd_base(base):
    """A base that differs from coqui's in every file."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config["model_args"] |= {"gpt_layers": 30, "gpt_num_audio_tokens": 8194, "gpt_new_thing": 1}
    config["languages"].append("de")
    replace(base / "config.json", json.dumps(config))
    with BlankWeights():
        dvae = make_dvae(1024).state_dict()
    dvae["codebook.embed"] = torch.zeros(512, 8)
    del dvae["encoder.0.0.weight"]
    replace(base / "dvae.pth", dvae)
    replace(base / "mel_stats.pth", torch.zeros(80))
    return base


def test_differences_are_reported(odd_base):
    found = failed(odd_base)
    assert found["number of layers matches config.json"] == "2 / 30"
    assert found["number of audio tokens matches config.json"] == "1026 / 8194"
    assert found["all languages in config.json have a tag"] == "missing: de"
    assert found["dvae.pth is complete"] == "missing: encoder.0.0.weight"
    assert "codebook.embed: expected (" in found["dvae.pth has 8192 codes and coqui's tensor shapes"]
    assert ", got (512, 8)" in found["dvae.pth has 8192 codes and coqui's tensor shapes"]
    assert found["mel_stats.pth has 80 finite, nonzero numbers"] == "shape (80,)"
    unknown = [finding for finding in check_base(odd_base) if "unknown model_args" in finding.assumption]
    assert [(finding.found, finding.holds) for finding in unknown] == [("gpt_new_thing", None)]


def test_weights_with_nan(base):
    content = torch.load(base / "model.pth", weights_only=True)
    content["model"]["gpt.final_norm.bias"][0] = float("nan")
    replace(base / "model.pth", content)
    assert failed(base)["all weights are finite"] == "gpt.final_norm.bias"


def test_damaged_file_stops_the_check(base, mini_base):
    path = base / "model.pth"
    path.unlink()
    shutil.copyfile(mini_base / "model.pth", path)
    cut(path, path.stat().st_size // 2)
    assert "truncated" in failed(base)["all checks can run"]


def test_missing_base_folder(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        check_base(tmp_path / "none")


def test_config_for_base(mini_base, tmp_path):
    config = config_for_base(mini_base)
    sizes = read_json(mini_base / "config.json")["model_args"]
    args = config.model_args
    assert (args.gpt_layers, args.gpt_n_model_channels) == (sizes["gpt_layers"], sizes["gpt_n_model_channels"])
    assert config.base_dir == str(mini_base)
    files = (args.dvae_checkpoint, args.mel_norm_file, args.tokenizer_file)
    assert files == tuple(str(mini_base / name) for name in ("dvae.pth", "mel_stats.pth", "vocab.json"))

    (tmp_path / "config.json").write_text(json.dumps({"model_args": {**sizes, "gpt_layers": 7}}))
    other = config_for_base(mini_base, tmp_path / "vocab.json", model=tmp_path)
    assert (other.model_args.gpt_layers, other.base_dir) == (7, str(mini_base))
    assert other.model_args.tokenizer_file == str(tmp_path / "vocab.json")


def test_published_config_is_read(shared_data):
    config = NewLanguageConfig()
    copy_architecture(config, read_json(shared_data / "xtts_v2_config.json"))
    args = config.model_args
    assert (args.gpt_layers, args.gpt_n_model_channels, args.gpt_n_heads) == (30, 1024, 16)
    assert (args.gpt_num_audio_tokens, args.gpt_start_audio_token, args.gpt_stop_audio_token) == (1026, 1024, 1025)
    assert config.audio.dvae_sample_rate == 22050
    assert len(config.languages) == 17
    # The published file has null and infinite values, which must not replace our defaults.
    assert (config.epochs, config.optimizer) == (1000, "AdamW")


@pytest.mark.slow
def test_base_made_with_stock_coqui(mini_base, tmp_path, corpus, recipe):
    """The base is made with `Xtts(config).state_dict()`, `config.save_json` and an untrained `DiscreteVAE`."""
    base = tmp_path / "stock base"
    base.mkdir()
    shutil.copy(mini_base / "vocab.json", base / "vocab.json")
    config = XttsConfig(
        model_args=XttsArgs(
            gpt_layers=2, gpt_n_model_channels=64, gpt_n_heads=2, decoder_input_dim=64, gpt_number_text_tokens=400,
            gpt_num_audio_tokens=1026, gpt_start_audio_token=1024, gpt_stop_audio_token=1025,
            gpt_use_perceiver_resampler=True, tokenizer_file=str(base / "vocab.json"),
        ),
        languages=["en", "es"],
    )  # fmt: skip
    torch.save({"model": Xtts(config).state_dict()}, base / "model.pth")
    config.save_json(base / "config.json")
    torch.save(make_dvae(1024).state_dict(), base / "dvae.pth")
    torch.save(torch.ones(80), base / "mel_stats.pth")
    assert failed(base) == {}
    recipe(corpus.flags(base_dir=base, codes=None, output_dir=tmp_path / "runs", max_steps=1))
    assert (only_run(tmp_path / "runs") / "checkpoint_1.pth").is_file()
