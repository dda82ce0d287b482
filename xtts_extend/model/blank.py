"""Build networks without random initialization, for use when weights are loaded right afterward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
from TTS.tts.models.xtts import Xtts

#: Tensor methods that draw random numbers. Some initializers of coqui and of torch call only these.
_DRAWS = {Tensor.normal_, Tensor.uniform_}


class BlankWeights(TorchFunctionMode):
    """Context manager that skips the initialization of weights, which is the slowest part of building modules.

    Tensors that `torch.nn.init` or random numbers would have filled contain arbitrary values, so load every tensor
    before using the network. This does what `torch.nn.utils.skip_init` does, but also for modules that contain other
    modules.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a torch function, unless it initializes weights."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in _DRAWS:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def build_xtts(config: Any, tokenizer: VoiceBpeTokenizer) -> Xtts:
    """Return a blank `Xtts` for a tokenizer; see `BlankWeights`.

    coqui builds the vocoder in the constructor, and again with the GPT once there is a tokenizer. If the configuration
    already has what coqui takes from the tokenizer, the constructor builds everything.

    Args:
        config: Configuration with the architecture; its token numbers are set to those of the tokenizer.
        tokenizer: The tokenizer, with a vocabulary.
    """
    config.model_args.gpt_number_text_tokens = tokenizer.get_number_tokens()
    config.model_args.gpt_start_text_token = tokenizer.tokenizer.token_to_id("[START]")
    config.model_args.gpt_stop_text_token = tokenizer.tokenizer.token_to_id("[STOP]")
    with BlankWeights():
        xtts = Xtts(config)
    xtts.tokenizer = tokenizer
    # In coqui, the GPT comes after the vocoder, so state dicts keep their order.
    gpt = xtts.gpt
    del xtts.gpt
    xtts.gpt = gpt
    return xtts
