"""Networks that are built to be loaded: what would only be overwritten is not drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.overrides import TorchFunctionMode


class BlankWeights(TorchFunctionMode):
    """A context in which modules are built without drawing their weights, which takes longer than all else about them.

    What `torch.nn.init` would fill is whatever the memory held: load every tensor before one is used. As
    `torch.nn.utils.skip_init`, for modules that others build out of modules.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, unless it draws weights."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
