"""Our forward pass compared with coqui's `GPT.forward` on the same batch."""

import copy
import math

import pytest
import torch
from transformers.activations import ACT2FN
from TTS.tts.layers.tortoise.arch_utils import GroupNorm32, QKVAttentionLegacy

from xtts_extend.model.forward import Layout, forward


def batch_for(gpt, prompts=None, extra=0):
    """Return four utterances of different lengths, with `extra` columns of unneeded padding."""
    generator = torch.Generator().manual_seed(0)
    text_lengths, code_counts = torch.tensor([9, 3, 12, 7]), torch.tensor([20, 31, 12, 25])
    codes = torch.randint(gpt.start_audio_token, (4, 31 + extra), generator=generator)
    codes[torch.arange(31 + extra) >= code_counts.unsqueeze(1)] = 83
    text = torch.randint(2, 60, (4, 12 + extra), generator=generator, dtype=torch.int32)
    text[torch.arange(12 + extra) >= text_lengths.unsqueeze(1)] = 0
    return {
        "text_inputs": text,
        "text_lengths": text_lengths,
        "audio_codes": codes,
        # No recording ends at a code boundary.
        "wav_lengths": code_counts * gpt.code_stride_len - 100,
        "cond_mels": torch.randn(4, 1, 80, 40, generator=generator),
        "cond_idxs": prompts,
    }


PROMPTS = torch.tensor([[0, 3000], [100, 9000], [0, 9999], [600, 4100]])


def restore_stock_modules(gpt):
    """Undo `use_fast_kernels`."""
    for block in gpt.gpt.h:
        block.attn.config = gpt.gpt.config
        block.mlp.act = ACT2FN["gelu_new"]
    for block in gpt.conditioning_encoder.attn:
        block.attention = QKVAttentionLegacy(block.num_heads)


def losses_of(gpt, batch, stock, is_share=False):
    """Return the text loss, the audio loss and the gradients by parameter name."""
    gpt.zero_grad()
    if stock:
        inputs = {**batch, "cond_idxs": None if batch["cond_idxs"] is None else batch["cond_idxs"].clone()}
        loss_text, loss_mel, _ = gpt(**inputs, cond_lens=None)
    else:
        layout = Layout.of(batch["text_lengths"], batch["wav_lengths"], batch["cond_idxs"], gpt, is_share=is_share)
        outputs = forward(gpt, batch["text_inputs"], batch["audio_codes"], batch["cond_mels"], layout)
        loss_text, loss_mel = outputs.loss_text, outputs.loss_mel
    (loss_text + loss_mel).backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in gpt.named_parameters() if parameter.grad is not None
    }
    return loss_text.item(), loss_mel.item(), gradients


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("prompts", "extra"), [(None, 0), (PROMPTS, 0), (PROMPTS, 5)])
@pytest.mark.parametrize(
    ("dtype", "loss_tolerance", "gradient_tolerance"), [(torch.float64, 1e-10, 1e-10), (torch.float32, 1e-6, 1e-5)]
)
def test_losses_and_gradients_equal_stocks(
    extended, monkeypatch, frozen, prompts, extra, dtype, loss_tolerance, gradient_tolerance
):
    # The original computes in float32 regardless of its input's type.
    monkeypatch.setattr(GroupNorm32, "forward", torch.nn.GroupNorm.forward)
    if frozen:
        extended.freeze_base_rows()
    gpt = extended.eval().xtts.gpt.to(dtype)
    batch = batch_for(gpt, prompts, extra)
    batch["cond_mels"] = batch["cond_mels"].to(dtype)
    ours = losses_of(gpt, batch, stock=False)
    restore_stock_modules(gpt)
    theirs = losses_of(gpt, batch, stock=True)
    assert ours[0] == pytest.approx(theirs[0], rel=loss_tolerance)
    assert ours[1] == pytest.approx(theirs[1], rel=loss_tolerance)
    assert ours[2].keys() == theirs[2].keys()
    names = sorted(theirs[2])
    joined = [torch.cat([gradients[name].flatten() for name in names]) for gradients in (ours[2], theirs[2])]
    assert (joined[0] - joined[1]).norm() <= gradient_tolerance * joined[1].norm()


def test_a_single_sample_keeps_its_targets(extended):
    gpt = extended.eval().xtts.gpt
    batch = {name: value[:1] for name, value in batch_for(gpt, PROMPTS).items()}
    # This prompt leaves some targets, so the loss equals stock's.
    batch["cond_idxs"] = torch.tensor([[600, 1400]])
    assert losses_of(gpt, batch, stock=False)[1] == pytest.approx(losses_of(gpt, batch, stock=True)[1], rel=1e-6)
    unmasked = losses_of(gpt, batch | {"cond_idxs": None}, stock=False)
    assert losses_of(gpt, batch, stock=False)[1] != unmasked[1]
    # A third of the recording, which is all of it in coqui's units.
    batch["cond_idxs"] = torch.tensor([[0, 20 * 1024 // 3]])
    assert math.isnan(losses_of(gpt, batch, stock=True)[1])
    assert losses_of(gpt, batch, stock=False)[:2] == unmasked[:2]
    # In a micro-batch of a larger batch, the sample then has no targets.
    _, loss_mel, gradients = losses_of(gpt, batch, stock=False, is_share=True)
    assert loss_mel == 0
    assert not gradients["mel_head.weight"].any()
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_values_in_the_padding_are_ignored(extended):
    extended.eval()
    gpt = extended.xtts.gpt
    batch = batch_for(gpt, PROMPTS, extra=3)
    other = copy.deepcopy(batch)
    other["audio_codes"][torch.arange(34) >= torch.tensor([20, 31, 12, 25]).unsqueeze(1)] = 5
    # The position after the last token is a target, as in coqui.
    other["text_inputs"][torch.arange(15) > batch["text_lengths"].unsqueeze(1)] = 7
    assert losses_of(gpt, batch, stock=False)[:2] == losses_of(gpt, other, stock=False)[:2]


def test_a_batch_is_as_wide_as_its_longest_sample(extended):
    batch = batch_for(extended.xtts.gpt)
    layout = Layout.of(batch["text_lengths"], batch["wav_lengths"], None, extended.xtts.gpt)
    # 3 + 1 and 31 + 4. With separate padding, it would be 13 + 35.
    assert layout.order.shape == (4, 39)
    assert len(layout.text_positions) == 9 + 3 + 12 + 7 + 4
    assert len(layout.audio_positions) == 20 + 31 + 12 + 25 + 4 * 4


@pytest.mark.slow
def test_compiled_layers_are_compiled_once(extended):
    gpt = extended.eval().xtts.gpt

    def loss(samples):
        batch = {name: value[:samples] for name, value in batch_for(gpt).items() if value is not None}
        layout = Layout.of(batch["text_lengths"], batch["wav_lengths"], None, gpt)
        return forward(gpt, batch["text_inputs"], batch["audio_codes"], batch["cond_mels"], layout).loss_mel

    # Three batches of different widths.
    expected = [loss(samples).item() for samples in (4, 3, 2)]
    for block in gpt.gpt.h:
        block.compile(dynamic=True)
    losses = [loss(4).item()]
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled >= 1
    losses += [loss(3).item(), loss(2).item()]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
    assert losses == pytest.approx(expected, rel=1e-5)
    gpt.train()
    loss(4).backward()
    trained = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    loss(3).backward()
    loss(2).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == trained
