"""A tape that chains hand-written forward/backward pairs.

An op is a pair ``x_forward(*arrays, **static) -> (out, saved)`` and ``x_backward(dout, saved) -> one gradient per
array (or None)``. Called with plain arrays an op is plain NumPy; called with a ``Var`` it is recorded. When ``out``
is a tuple, its first ``outputs`` members are differentiable and the rest (states, indices) are plain arrays;
with ``outputs > 1`` the backward gets a tuple of gradients, None where nothing flowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray


class Tape(list):
    """Recorded ops in order: (backward, saved, inputs, outputs)."""


class Var:
    """An array under differentiation."""

    __array_ufunc__ = None  # ndarray + Var must reach Var.__radd__
    __slots__ = ("grad", "tape", "value")

    def __init__(self, value: Array, tape: Tape) -> None:
        self.value, self.tape = value, tape
        self.grad: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    def __add__(self, other: Any) -> Any:
        return add(self, other)

    def __sub__(self, other: Any) -> Any:
        return add(self, -other)

    def __mul__(self, other: Any) -> Any:
        return multiply(self, other)

    def __neg__(self) -> Any:
        return multiply(self, -1.0)

    def __getitem__(self, index: Any) -> Any:
        return getitem(self, index=index)

    __radd__, __rmul__ = __add__, __mul__


def detach(x: Any) -> Array:
    """The plain array: gradients stop here."""
    return x.value if isinstance(x, Var) else x


def op(forward: Callable, backward: Callable, outputs: int = 1) -> Callable:
    """Make an op of a pair (see the module's text)."""

    def call(*arrays: Any, **static: Any) -> Any:
        tape = next((a.tape for a in arrays if isinstance(a, Var)), None)
        out, saved = forward(*(detach(a) for a in arrays), **static)
        if tape is None:
            return out
        single = not isinstance(out, tuple)
        values = (out,) if single else out
        made = [Var(value, tape) for value in values[:outputs]]
        tape.append((backward, saved, arrays, made))
        return made[0] if single else (*made, *values[outputs:])

    call.__name__ = forward.__name__.removesuffix("_forward")
    call.__doc__ = forward.__doc__
    return call


def value_and_grad(function: Callable, params: dict[str, Array]) -> tuple[Any, Any, dict[str, Array]]:
    """Run ``function(params) -> (loss, extras)`` and differentiate the scalar loss.

    Returns (loss value, extras, gradients); a parameter the loss does not depend on gets a zero gradient."""
    variables = record(params)
    loss, extras = function(variables)
    loss.grad = np.ones_like(loss.value)
    run_backward(loss.tape)
    return loss.value, extras, gradients(variables)


def record(params: dict[str, Array]) -> dict[str, Var]:
    """The arrays as variables of a new tape."""
    tape = Tape()
    return {name: Var(value, tape) for name, value in params.items()}


def gradients(variables: dict[str, Var]) -> dict[str, Array]:
    """What `run_backward` left in the variables, zeros where nothing arrived."""
    return {name: np.zeros_like(v.value) if v.grad is None else v.grad for name, v in variables.items()}


def run_backward(tape: Tape) -> None:
    """Run the recorded backward passes from last to first; outputs whose gradient is set are the seeds."""
    while tape:
        backward, saved, inputs, made = tape.pop()
        douts = tuple(v.grad for v in made)
        if all(d is None for d in douts):
            continue
        grads = backward(douts[0] if len(made) == 1 else douts, saved)
        for variable, grad in zip(inputs, grads, strict=True):
            if isinstance(variable, Var) and grad is not None:
                variable.grad = grad if variable.grad is None else variable.grad + grad
        for v in made:
            v.grad = None


def _sum_to(grad: Array, shape: tuple[int, ...]) -> Array:
    """Undo broadcasting."""
    grad = grad.sum(tuple(range(grad.ndim - len(shape)))) if grad.ndim > len(shape) else grad
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and grad.shape[i] != 1)
    return grad.sum(axes, keepdims=True) if axes else grad


def _add_forward(a, b):
    return a + b, (np.shape(a), np.shape(b))


def _add_backward(dout, saved):
    return _sum_to(dout, saved[0]), _sum_to(dout, saved[1])


def _multiply_forward(a, b):
    return a * b, (a, b)


def _multiply_backward(dout, saved):
    a, b = saved
    return _sum_to(dout * b, np.shape(a)), _sum_to(dout * a, np.shape(b))


def _getitem_forward(x, *, index):
    return x[index], (x.shape, index)


def _getitem_backward(dout, saved):
    shape, index = saved
    dx = np.zeros_like(dout, shape=shape)
    dx[index] = dout
    return (dx,)


add = op(_add_forward, _add_backward)
multiply = op(_multiply_forward, _multiply_backward)
getitem = op(_getitem_forward, _getitem_backward)
