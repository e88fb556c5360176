"""The C++ runtime (ext/bindings). Wrong dtypes are TypeError, wrong shapes or values ValueError."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview | NDArray[np.generic]
Float32 = NDArray[np.float32]

def levels() -> list[str]:
    """The instruction-set levels this CPU can run, best last: scalar, avx2, avxvnni, avx512vnni, or
    scalar, neon, neondot."""

def default_level() -> str:
    """The level of GHOST_ISA, or the best one. Raises ValueError if GHOST_ISA names a level this CPU cannot run."""

def levels_not_used(level: str = "", chosen_by: str = "GHOST_ISA") -> dict[str, str]:
    """{better level of this architecture: why it is not used} beside `level`, "": beside default_level().
    chosen_by: what asks for the level. Raises ValueError as default_level does."""

def crc32c(buffer: Buffer, before: int = 0) -> int:
    """CRC-32C (Castagnoli) of a contiguous buffer."""

class State:
    """The recurrent state of one stream (docs/semantics.md section 6); made by Model.new_state."""

    def fork(self) -> State:
        """An independent copy. Raises RuntimeError while a call uses the state."""

    def to_dict(self) -> dict[str, NDArray[np.generic]]:
        """The arrays of the reference's state, with a leading batch axis of 1."""

    def load_dict(self, values: dict[str, NDArray[np.generic]]) -> None:
        """Become the state of such a dict; statistics start at zero. Raises ValueError or TypeError, unchanged."""

    def processed(self) -> tuple[list[int], int]:
        """(tokens each layer has processed, tokens seen), through this state and those it was forked from."""

    def work(self) -> tuple[int, float, float]:
        """(bytes, multiply-accumulates of the integer matrices, scan updates) of what was read, by the layers that the
        routers chose; without memory layers."""

    @property
    def bytes(self) -> int:
        """Memory of the state."""

    @property
    def position(self) -> int:
        """Bytes read."""

class Model:
    """A packed model in memory. Calls from several threads take turns."""

    def __init__(self, path: str, threads: int = 1, level: str = "") -> None:
        """Load a packed file. level "": default_level(). Raises ValueError with one sentence."""

    @property
    def config_json(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def memory_bytes(self) -> int:
        """Memory of the weights, the work space and the memory snapshot."""

    def new_state(self) -> State:
        """The state before the first byte."""

    def step(self, states: list[State], tokens: NDArray[np.uint8], hidden: bool = False
             ) -> tuple[Float32, Float32 | None]:
        """Feed one byte to each of n different states, together. Returns logits (n, 256), and hidden (n, d) or None.
        Raises RuntimeError if two states are the same, or one is in use or of another model; then none has changed."""

    def forward(self, state: State, tokens: NDArray[np.uint8], logits: Literal["all", "last", "none"] = "all",
                hidden: bool = False) -> tuple[Float32 | None, Float32 | None]:
        """Feed bytes (n,). Returns logits (n, 256) or (1, 256) or None, and hidden (n or 1, d) after the final norm, of
        the same positions, or None. Raises RuntimeError if another call uses the state."""

    def speed(self, repeats: int) -> dict[str, Any]:
        """Measure how fast the model runs here (ext/core/measure.h), without anything of Python's: prefill and decode
        in bytes per second, first_byte in seconds, each {median, lowest, highest} of the repeats; products_per_byte and
        scan_updates_per_byte of decoding; floor, None where the level has no peak, else {times: the time of a decoded
        byte in floors, instruction, integer_peak and float_peak: per second of one core}."""

    def set_memory(self, keys: Float32, values: NDArray[np.uint8], counts: NDArray[np.int32]) -> None:
        """Replace the snapshot that memory layers query: unit keys (M, d), value bytes (M, 8), counts (M,) in 1..8."""

    def generate(self, state: State, prompt: bytes, *, temp: float = 0.0, top_k: int = 0, top_p: float = 1.0,
                 min_p: float = 0.0, seed: int = 0, max_bytes: int = 256,
                 on_byte: Callable[[int], object] | None = None) -> tuple[bytes, bool]:
        """Feed the prompt, then choose and feed bytes until EOS or max_bytes; returns (bytes, whether EOS was reached).

        EOS is neither in the bytes nor in the state. on_byte gets every byte and stops the generation by returning
        False or raising. Raises RuntimeError if the logits are not finite or another call uses the state."""

    def generate_batch(self, states: Sequence[State], prompts: Sequence[bytes],
                       options: Sequence[tuple[float, int, float, float, int, int]],
                       on_byte: Callable[[int, int], object] | None = None) -> list[tuple[bytes, bool]]:
        """`generate` of many streams together, each with a state of its own and (temp, top_k, top_p, min_p, seed,
        max_bytes): the same bytes. on_byte gets (stream, byte) and ends that stream by returning False.
        Raises RuntimeError if two states are the same, besides what `generate` raises."""

    def judge(self, states: Sequence[State], texts: Sequence[NDArray[np.uint8]]) -> list[Float32]:
        """Feed every text (n,) but its last byte, together. Returns -log softmax(logits)[byte] (n - 1,) of every byte
        but the first. Raises as generate_batch does, ValueError on a text of fewer than two bytes."""

def numerics_map(name: str, x: Float32, level: str) -> Float32:
    """exp, log, log1p, sigmoid, silu, softplus or rint of every element of x (n,); lane_sum and lane_sum_squares
    give the canonical sum of x or x * x as an array of one element."""

def choose_byte(logits: Float32, temp: float, top_k: int, top_p: float, min_p: float, seed: int, step: int,
                level: str) -> int:
    """The next byte from logits (256,), or -1 if they are not usable."""

def quantise_rows(x: Float32, level: str) -> tuple[NDArray[np.int8], Float32]:
    """x (t, k) -> (q (t, k), scale (t,)). A row that is not finite has q = 0 and scale NaN."""

def ternary_linear(x: Float32, trits: NDArray[np.uint8], scale: NDArray[np.float16], level: str) -> Float32:
    """x (t, k), packed trits of (n, k), scale (n,) -> (t, n)"""

def codebook_linear(x: Float32, trits: NDArray[np.uint8], index: NDArray[np.uint8], codebook: NDArray[np.float16],
                    group: int, level: str) -> Float32:
    """x (t, k), packed trits of (n, k), index (n, ceil(k / group)), codebook (256,) -> (t, n)"""

def int8_linear(x: Float32, weight: NDArray[np.int8], scale: NDArray[np.float16], level: str) -> Float32:
    """x (t, k), weight (256, k), scale (256,) -> (t, 256)"""

def rms_norm(x: Float32, gain: Float32, level: str) -> Float32:
    """x (t, k), gain (k,) -> (t, k)"""

def unit(x: Float32, level: str) -> Float32:
    """x (t, k) -> (t, k): x / sqrt(Σ₁₆ x·x + 1e-12) of every row"""

def softmax(x: Float32, level: str) -> Float32:
    """Scores over slots x (t, m) -> (t, m): exp(x - max) over their sum in index order, every row"""

def log_softmax(x: Float32, level: str) -> Float32:
    """x (t, k) -> (t, k): (x - max) - log(Σ₁₆ exp(x - max)), every row"""

def lane_dot(a: Float32, b: Float32, level: str) -> Float32:
    """a (t, k), b (k,) -> Σ₁₆ a·b (t,)"""

def slot_sum(p: Float32, values: Float32, level: str) -> Float32:
    """p (t, m), values (m, k) -> Σ_j p_j·values_j (t, k), slots in index order from +0"""

def swiglu(gate: Float32, up: Float32, level: str) -> Float32:
    """gate, up (t, k) -> silu(gate)·up (t, k)"""

def conv_silu(x: Float32, weight: Float32, bias: Float32, past: Float32, level: str) -> tuple[Float32, Float32]:
    """silu(causal depthwise convolution + bias): x (t, e), weight (e, taps), bias (e,), past (taps - 1, e), the inputs
    before x, oldest first -> y (t, e), present (taps - 1, e). At most 16 taps."""

def scan_gated(dt_raw: Float32, dt_bias: Float32, x: Float32, z: Float32, Bm: Float32, Cm: Float32, A: Float32,
               D: Float32, past: Float32, level: str) -> tuple[Float32, Float32]:
    """The selective scan (arXiv:2312.00752) with dt = softplus(dt_raw + dt_bias), its output y·silu(z).

    dt_raw, x, z (t, e), dt_bias, D (e,), Bm, Cm (t, n), A = -exp(A_log) (e, n), past (e, n), the state before
    -> out (t, e), present (e, n)"""

def strided_attention(q: Float32, k: Float32, v: Float32, bias: Float32, keys: Float32, values: Float32,
                      slot_bias: Float32, count: int, n_heads: int, stride: int, level: str
                      ) -> tuple[Float32, Float32, Float32, Float32]:
    """Attention over a ring of s slots for the tokens at positions count, count + 1, … of their stream.

    q (t, d); k, v (j, d), bias (j,) of the tokens whose position is a multiple of stride; the ring before them: keys,
    values (s, d), slot_bias (s,) -> out (t, d) and the ring after them: keys, values, slot_bias"""
