"""The network: loading a base into a larger vocabulary, frozen rows, stock state dicts."""

import pytest
import torch
from networks import NEW, base_weights
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

from xtts_extend.errors import CheckpointError, ConfigError
from xtts_extend.model.blank import BlankWeights
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, GPTTrainer, row_digests, xtts_weights
from xtts_extend.setup.base import config_for_base


def test_a_loaded_base_keeps_its_rows_and_all_other_weights(extended, mini_base):
    state = extended.xtts.state_dict()
    for key, tensor in base_weights(mini_base).items():
        if key.removeprefix("gpt.") in TOKEN_TENSORS:
            assert torch.equal(state[key][: len(tensor)], tensor)
            assert len(state[key]) == len(tensor) + NEW
        elif key != "mel_stats":
            assert torch.equal(state[key], tensor), key


def test_freezing_changes_no_key_and_no_value(extended, mini_base, larger_vocab):
    with BlankWeights():
        stock = GPTTrainer(config_for_base(mini_base, larger_vocab))
    before = {key: tensor.clone() for key, tensor in extended.state_dict().items()}
    extended.freeze_base_rows()
    after = extended.state_dict()
    assert list(after) == list(before) == list(stock.state_dict())
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_the_optimizer_sees_only_new_rows(extended):
    extended.freeze_base_rows()
    optimizer = extended.get_optimizer()
    seen = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    names = {name for name, parameter in extended.xtts.gpt.named_parameters() if id(parameter) in seen}
    token_rows = {
        name: tuple(p.shape)
        for name, p in extended.xtts.gpt.named_parameters()
        if name.split(".")[0] in ("text_embedding", "text_head")
    }
    assert token_rows == {
        "text_embedding.new.weight": (NEW, 64),
        "text_head.new.weight": (NEW, 64),
        "text_head.new.bias": (NEW,),
    }
    assert names == {name for name, _ in extended.xtts.gpt.named_parameters()}
    # As in coqui, matrices are decayed, embeddings and biases are not.
    decayed = {id(parameter) for parameter in optimizer.param_groups[0]["params"]}
    gpt = extended.xtts.gpt
    assert id(gpt.text_head.new.weight) in decayed
    assert id(gpt.text_embedding.new.weight) not in decayed
    assert id(gpt.text_head.new.bias) not in decayed


def test_the_log_counts_rows_and_parameters(extended):
    total = sum(parameter.numel() for parameter in extended.xtts.gpt.parameters())
    extended.freeze_base_rows()
    rows = extended.base_rows
    frozen = rows * 64 * 2 + rows
    text = extended.describe_rows("start: mean")
    assert f"Tokens 0–{rows - 1} come from the base (pretrained, frozen)." in text
    assert f"Tokens {rows}–{rows + NEW - 1} are new (7, start: mean)." in text
    assert f"{frozen:,} of the GPT's {total:,} parameters" in text


def test_without_new_tokens_nothing_is_frozen(mini_base):
    model = ExtendedGPTTrainer(config_for_base(mini_base))
    weights = base_weights(mini_base)
    model.load_base(weights, model.vocab_size)
    model.freeze_base_rows()
    assert not model.rows_frozen
    assert isinstance(model.xtts.gpt.text_embedding, torch.nn.Embedding)


def test_stock_xtts_loads_the_checkpoint_state(extended, larger_vocab, tmp_path):
    extended.freeze_base_rows()
    state = extended.checkpoint_state()
    assert not any(key.startswith(("dvae", "torch_mel")) for key in state)
    torch.save({"model": state}, tmp_path / "model.pth")
    config = XttsConfig()
    for name in vars(config.model_args):
        setattr(config.model_args, name, getattr(extended.config.model_args, name))
    file = tmp_path / "model.pth"
    with BlankWeights():
        stock = Xtts(config)
        stock.load_checkpoint(config, checkpoint_path=file, vocab_path=larger_vocab, strict=True, eval=False)
    assert torch.equal(stock.gpt.text_embedding.weight, extended.xtts.gpt.text_embedding.weight)


def test_restore_accepts_our_state_and_stocks(extended, mini_base, larger_vocab):
    fresh = ExtendedGPTTrainer(config_for_base(mini_base, larger_vocab))
    for state in (extended.checkpoint_state(), extended.state_dict()):
        with torch.no_grad():
            fresh.xtts.gpt.final_norm.weight.zero_()
        fresh.restore_state(state)
        assert torch.equal(fresh.xtts.gpt.final_norm.weight, extended.xtts.gpt.final_norm.weight)


def test_restore_accepts_names_and_types_of_earlier_releases(extended):
    """Names without "xtts.", a second copy of the transformer, and other precisions."""
    state = {key.removeprefix("xtts."): tensor for key, tensor in extended.checkpoint_state().items()}
    copies = {"gpt.gpt_inference.lm_head.0.weight": torch.ones(1), "gpt.gpt.wte.weight": torch.ones(1)}
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        saved = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
        extended.restore_state({**saved, **copies})
        weight = extended.xtts.gpt.final_norm.weight
        assert weight.dtype == torch.float32
        assert torch.equal(weight, saved["gpt.final_norm.weight"].float())


def test_restore_names_tensors_that_do_not_match(extended):
    state = extended.checkpoint_state()
    missing = {key: tensor for key, tensor in state.items() if key != "xtts.gpt.final_norm.weight"}
    with pytest.raises(CheckpointError, match=r"missing: xtts\.gpt\.final_norm\.weight"):
        extended.restore_state(missing)
    with pytest.raises(CheckpointError, match="unexpected: xtts.stranger"):
        extended.restore_state({**state, "xtts.stranger": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"final_norm\.bias: expected \(64,\), got \(3,\)"):
        extended.restore_state({**state, "xtts.gpt.final_norm.bias": torch.zeros(3)})
    damaged = {**state, "xtts.gpt.final_norm.bias": torch.full((64,), float("nan"))}
    with pytest.raises(CheckpointError, match=r"some tensors differ.*\(1 in total\).*final_norm\.bias"):
        extended.restore_state(damaged)


def test_the_second_copy_in_early_files_is_omitted():
    keys = ["gpt.text_embedding.weight", "gpt.gpt_inference.lm_head.0.weight", "gpt.gpt.wte.weight", "mel_stats"]
    assert list(xtts_weights({key: torch.zeros(1) for key in keys})) == ["gpt.text_embedding.weight", "mel_stats"]
    trainer_keys = ["xtts.gpt.final_norm.bias", "dvae.codebook.embed", "torch_mel_spectrogram_dvae.mel_stft.window"]
    assert list(xtts_weights({key: torch.zeros(1) for key in trainer_keys})) == ["gpt.final_norm.bias"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_become_float32(dtype):
    weights = xtts_weights({"xtts.gpt.final_norm.bias": torch.ones(2, dtype=dtype), "mel_stats": torch.arange(3)})
    assert {name: tensor.dtype for name, tensor in weights.items()} == {
        "gpt.final_norm.bias": torch.float32,
        "mel_stats": torch.int64,
    }
    assert xtts_weights({"a": torch.ones(2, dtype=dtype, device="meta")})["a"].is_meta


def test_digests_change_with_a_single_bit():
    state = {f"gpt.{name}": torch.ones(4, 2) if "weight" in name else torch.ones(4) for name in TOKEN_TENSORS}
    before = row_digests(state, 3)
    state["gpt.text_head.weight"][3, 0] += 1
    assert row_digests(state, 3) == before
    state["gpt.text_head.weight"][2, 0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    after = row_digests(state, 3)
    assert {name for name in TOKEN_TENSORS if after[name] != before[name]} == {"text_head.weight"}


def test_a_config_that_loads_weights_is_refused(mini_base):
    config = config_for_base(mini_base)
    config.model_args.gpt_checkpoint = "somewhere.pth"
    with pytest.raises(ConfigError, match=r"gpt_checkpoint is somewhere\.pth; expected no value"):
        ExtendedGPTTrainer(config)
