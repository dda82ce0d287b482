"""Build networks without random initialization, for use when weights are loaded right afterward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.overrides import TorchFunctionMode


class BlankWeights(TorchFunctionMode):
    """Context manager that skips the initialization of weights, which is the slowest part of building modules.

    Tensors that `torch.nn.init` would have filled contain arbitrary values, so load every tensor before using the
    network. This does what `torch.nn.utils.skip_init` does, but also for modules that contain other modules.
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
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
