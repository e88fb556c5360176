"""Types of the compiled training kernels (ext/training/_train.pyx)."""

from typing import Any

from numpy import float32, integer
from numpy.typing import NDArray

Array = NDArray[float32]
Lengths = NDArray[integer[Any]] | None
Saved = tuple[Any, ...]

def causal_conv1d_forward(
    x: Array, weight: Array, bias: Array, past: Array | None = None, length: Lengths = None
) -> tuple[tuple[Array, Array], Saved]: ...
def causal_conv1d_backward(dy: Array, saved: Saved) -> tuple[Array, Array, Array]: ...
def selective_scan_forward(
    x: Array,
    dt: Array,
    A: Array,
    Bm: Array,
    Cm: Array,
    D: Array,
    past: Array | None = None,
    length: Lengths = None,
) -> tuple[tuple[Array, Array], Saved]: ...
def selective_scan_backward(dy: Array, saved: Saved) -> tuple[Array, Array, Array, Array, Array, Array]: ...
def silu_forward(x: Array) -> tuple[Array, Saved]: ...
def silu_backward(dy: Array, saved: Saved) -> tuple[Array]: ...
def softplus_forward(x: Array) -> tuple[Array, Saved]: ...
def softplus_backward(dy: Array, saved: Saved) -> tuple[Array]: ...
def adamw_update(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    c1: float,
    c2: float,
) -> None: ...
