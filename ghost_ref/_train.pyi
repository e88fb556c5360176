"""Types of the compiled training kernels (ext/training/_train.pyx)."""

from typing import Any

from numpy import float32, int8, int32, integer, uint8
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
    clip: float = 1.0,
) -> None: ...
def integer_product_available() -> bool: ...
def padded_rows(rows: int) -> int: ...
def quantise_rows(x: Array, group: int) -> tuple[NDArray[int8], Array, NDArray[int32]]: ...
def dequantise_rows(q: NDArray[int8], scale: Array, columns: int) -> Array: ...
def pack_weights(
    weight: NDArray[int8], magnitude: Array, group: int, offset: int, effective: Array, codes: NDArray[uint8]
) -> None: ...
def integer_product(
    codes: NDArray[uint8],
    q: NDArray[int8],
    sums: NDArray[int32],
    magnitude: Array,
    scale: Array,
    rows: int,
    group: int,
    offset: int,
) -> Array: ...
def ternarise_rows(
    weight: Array, threshold: Array, trits: NDArray[int8], group: int = 0
) -> tuple[Array, Array, Array | None]: ...
def ternarise_backward_rows(
    dweight: Array, weight: Array, mean: Array, delta: Array, magnitude: Array, group: int
) -> tuple[Array, Array]: ...
def nearest_entries(values: Array, codebook: Array) -> NDArray[uint8]: ...
def rms_norm_forward(x: Array, gain: Array) -> tuple[Array, Saved]: ...
def rms_norm_backward(dy: Array, saved: Saved) -> tuple[Array, Array]: ...
