"""Hand-written forward/backward pairs as differentiable MLX functions, the twin of ghost_ref.autodiff."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import mlx.core as mx


def detach(x: Any) -> Any:
    """The same values: gradients stop here."""
    return mx.stop_gradient(x) if isinstance(x, mx.array) else x


def op(forward: Callable, backward: Callable) -> Callable:
    """Make an op of ``forward(*arrays, **static) -> (out, saved)`` and ``backward(dout, saved)``.

    backward gives one gradient per array, None where none flows; with several outputs dout is the tuple of theirs,
    zeros where nothing flowed."""

    def call(*arrays: Any, **static: Any) -> Any:
        saved: list[Any] = []

        @mx.custom_function
        def function(*inputs: Any) -> Any:
            out, kept = forward(*inputs, **static)
            saved[:] = [kept]
            return out

        @function.vjp
        def gradient(_inputs: Any, dout: Any, _out: Any) -> Any:
            grads = backward(dout, saved[0])
            return tuple(mx.zeros_like(a) if g is None else g for a, g in zip(arrays, grads, strict=True))

        return function(*arrays)

    call.__name__ = forward.__name__.removesuffix("_forward")
    call.__doc__ = forward.__doc__
    call.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return call
