"""Parameter groups: the same as coqui's if there is one rate, and every parameter exactly once for any rates."""

import pytest
import torch

from xtts_extend.model.anchor import Anchor
from xtts_extend.model.gpt_trainer import GPTTrainer
from xtts_extend.model.learning_rates import parameter_groups


def names_by_rate(model, **rates):
    groups = parameter_groups(model.xtts.gpt, **{"rate": 1.0, "new_row_rate": None, "layer_decay": 1.0, **rates})
    names = {id(parameter): name for name, parameter in model.xtts.gpt.named_parameters()}
    by_rate: dict[float, set[str]] = {}
    for group in groups:
        by_rate.setdefault(group["lr"], set()).update(names[id(parameter)] for parameter in group["params"])
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(names)
    return groups, by_rate


@pytest.mark.parametrize("only_weights", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_groups_with_one_rate_equal_coquis(extended, frozen, only_weights):
    extended.config.optimizer_wd_only_on_weights = only_weights
    if frozen:
        extended.freeze_base_rows()
    ours, stocks = extended.get_optimizer(), GPTTrainer.get_optimizer(extended)
    assert len(ours.param_groups) == len(stocks.param_groups) == 1 + only_weights
    for mine, theirs in zip(ours.param_groups, stocks.param_groups, strict=True):
        assert [id(parameter) for parameter in mine["params"]] == [id(parameter) for parameter in theirs["params"]]
        assert (mine["lr"], mine["weight_decay"]) == (theirs["lr"], theirs["weight_decay"])


def test_new_rows_can_have_their_own_rate(extended):
    extended.freeze_base_rows()
    groups, by_rate = names_by_rate(extended, new_row_rate=10.0, weight_decay=0.01)
    assert by_rate[10.0] == {"text_embedding.new.weight", "text_head.new.weight", "text_head.new.bias"}
    # The first group's rate is logged.
    assert groups[0]["lr"] == 1.0
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1, 0.01), (1, 0), (10, 0.01), (10, 0)]


def test_rates_decay_from_the_top_layer_down(extended):
    extended.freeze_base_rows()
    _, by_rate = names_by_rate(extended, layer_decay=0.5, weight_decay=None)
    assert set(by_rate) == {1.0, 0.5, 0.25}
    assert all(name.startswith("gpt.h.0.") for name in by_rate[0.5])
    assert {name for name in by_rate[1.0] if not name.startswith("gpt.h.1.")} == {
        *("gpt.ln_f.weight", "gpt.ln_f.bias", "final_norm.weight", "final_norm.bias", "mel_head.weight"),
        *("mel_head.bias", "text_embedding.new.weight", "text_head.new.weight", "text_head.new.bias"),
    }
    assert "mel_embedding.weight" in by_rate[0.25]


def test_the_anchor_pulls_everything_except_new_rows(extended):
    extended.freeze_base_rows()
    gpt = extended.xtts.gpt
    anchor = Anchor(gpt, extended.base_rows)
    base = {name: parameter.detach().clone() for name, parameter in gpt.named_parameters()}
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(1.0)
    groups = parameter_groups(gpt, rate=0.01, new_row_rate=0.02, layer_decay=0.5, weight_decay=0.0)
    anchor.pull(gpt, torch.optim.AdamW(groups, lr=0.01), strength=10.0)
    for name, parameter in gpt.named_parameters():
        moved = base[name] + 1.0
        if ".new." in name:
            assert torch.equal(parameter, moved)
        elif name.startswith("gpt.h.0."):
            assert torch.equal(parameter, torch.lerp(moved, base[name], 0.05))
        elif name.startswith("gpt.h.1."):
            assert torch.equal(parameter, torch.lerp(moved, base[name], 0.1))


def test_the_anchor_pulls_only_base_rows_if_all_rows_are_trained(extended):
    gpt = extended.xtts.gpt
    anchor = Anchor(gpt, extended.base_rows)
    before = gpt.text_embedding.weight.detach().clone()
    with torch.no_grad():
        gpt.text_embedding.weight.add_(1.0)
    anchor.pull(gpt, torch.optim.AdamW(gpt.parameters(), lr=0.1), strength=10.0)
    rows = extended.base_rows
    assert torch.equal(gpt.text_embedding.weight[:rows], before[:rows])
    assert torch.equal(gpt.text_embedding.weight[rows:], before[rows:] + 1)
