"""The divergence from the base: compared with torch's, at its bounds, and in a training step."""

import pytest
import torch
import torch.nn.functional as F

from xtts_extend.data.encoded import TOP_K
from xtts_extend.model.distillation import Teacher, divergence, top_distribution
from xtts_extend.model.forward import Layout


def logits(positions: int, codes: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(positions, codes, generator=torch.Generator().manual_seed(seed))


def test_divergence_is_zero_only_for_equal_distributions():
    base = logits(50, 1026, 0)
    ids, log_probs = top_distribution(base)
    assert ids.shape == log_probs.shape == (50, TOP_K)
    assert divergence(ids, log_probs, base).abs().max() < 1e-5
    assert divergence(ids, log_probs, base + 0.3 * logits(50, 1026, 1)).min() > 0.01


def test_divergence_is_exact_if_all_codes_are_stored():
    base, model = logits(20, TOP_K, 0), logits(20, TOP_K, 1)
    exact = F.kl_div(model.log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert (divergence(*top_distribution(base), model) - exact).abs().max() < 1e-4


def test_divergence_of_stored_codes_is_a_lower_bound():
    base, model = logits(200, 1026, 0), logits(200, 1026, 1)
    exact = F.kl_div(model.log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    stored = divergence(*top_distribution(base), model)
    assert (stored <= exact + 1e-4).all()
    assert stored.mean() > 0.8 * exact.mean()


@pytest.fixture
def batch(extended):
    """Three formatted samples, the last two of them replayed, without stored distributions."""
    generator = torch.Generator().manual_seed(0)
    gpt = extended.xtts.gpt
    lengths = torch.tensor([12, 10, 14])
    codes = torch.randint(gpt.start_audio_token, (3, 14), generator=generator)
    return {
        "text_inputs": torch.randint(2, 60, (3, 9), generator=generator),
        "text_lengths": torch.tensor([9, 7, 8]),
        "audio_codes": codes,
        "wav_lengths": lengths * gpt.code_stride_len,
        "cond_mels": torch.randn(3, 1, 80, 40, generator=generator),
        "cond_idxs": torch.zeros(3, 2, dtype=torch.long),
        "cond_lens": None,
        "replay": torch.tensor([False, True, True]),
        "has_distribution": torch.tensor([False, False, False]),
        "top_ids": None,
        "top_log_probs": None,
    }


def with_stored_distribution(batch, teacher: Teacher, row: int):
    """Return the batch with the stored distribution of one row, as in a replay set."""
    sample = {name: batch[name][row : row + 1] for name in ("text_inputs", "audio_codes", "cond_mels")}
    layout = Layout.of(batch["text_lengths"][row : row + 1], batch["wav_lengths"][row : row + 1], None, teacher.gpt)
    ids, log_probs = (part.unsqueeze(0) for part in teacher.distributions(**sample, layout=layout))
    count = int(batch["wav_lengths"][row]) // 1024 + 1
    is_stored = torch.zeros(3, dtype=torch.bool)
    is_stored[row] = True
    return batch | {"has_distribution": is_stored, "top_ids": ids[:, :count], "top_log_probs": log_probs[:, :count]}


def test_distillation_loss_of_an_unchanged_base_is_zero(extended, batch):
    extended.create_teacher()
    extended.distill_weight = 1.0
    extended.eval()
    # This enables the distillation loss, but not dropout.
    extended.xtts.gpt.training = True
    losses = extended.train_step(extended.format_batch(dict(batch)), None)[1]
    # The tolerance is for the teacher's bfloat16.
    assert 0 <= losses["loss_distill"] < 1e-3
    assert torch.equal(losses["loss"], losses["loss_text_ce"] + losses["loss_mel_ce"] + losses["loss_distill"])


def test_only_replayed_samples_count_and_stored_distributions_equal_the_teachers(extended, batch):
    extended.create_teacher()
    extended.distill_weight = 2.0
    with torch.no_grad():
        for parameter in extended.xtts.gpt.gpt.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    extended.eval()
    extended.xtts.gpt.training = True

    def distillation_loss(samples):
        return float(extended.train_step(extended.format_batch(dict(samples)), None)[1]["loss_distill"].detach())

    expected = distillation_loss(batch)
    assert expected > 0.01
    assert distillation_loss(batch | {"replay": torch.zeros(3, dtype=torch.bool)}) == 0
    for row in (1, 2):
        stored = with_stored_distribution(batch, extended.teacher, row)
        assert distillation_loss(stored) == pytest.approx(expected, rel=1e-5)
    # Row 0 is not replayed, so its stored distribution is ignored.
    stored = with_stored_distribution(batch, extended.teacher, 0)
    assert distillation_loss(stored) == pytest.approx(expected, rel=1e-5)
    extended.distill_weight = 1.0
    assert distillation_loss(batch) == pytest.approx(expected / 2, rel=1e-5)


def test_evaluation_has_no_distillation_loss(extended, batch):
    extended.distill_weight = 1.0
    extended.eval()
    assert set(extended.train_step(extended.format_batch(batch), None)[1]) == {"loss", "loss_text_ce", "loss_mel_ce"}


def test_the_teacher_is_a_frozen_copy_in_low_precision(extended):
    extended.create_teacher()
    parameters = dict(extended.teacher.gpt.named_parameters())
    assert not any(parameter.requires_grad for parameter in parameters.values())
    assert parameters["gpt.h.0.mlp.c_fc.weight"].dtype == torch.bfloat16
    assert not any("teacher" in key for key in extended.state_dict())
