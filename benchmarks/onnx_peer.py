"""The peer onnxruntime: its 2-bit matrix product (MatMulNBits of com.microsoft) on ternary weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ghost_ref.errors import GhostError

NODES = 16  # of them in one graph, so that a call's start weighs little; or 1: the caller takes the quicker
VARIANTS = {f"block {block}{', look-up table' if lut else ''}{'' if nodes > 1 else ', alone'}": (block, lut, nodes)
            for block in (64, 128) for lut in (False, True) for nodes in (1, NODES)}
WRONG_RESULT = 0.05


def pack_two_bit(trits: np.ndarray, block: int) -> np.ndarray:
    """Trits (rows, columns) -> (rows, blocks, block / 4) uint8, four codes w + 2 to a byte, the first one lowest."""
    rows, columns = trits.shape
    codes = (trits + 2).astype(np.uint8).reshape(rows, columns // block, block // 4, 4)
    return codes[..., 0] | codes[..., 1] << 2 | codes[..., 2] << 4 | codes[..., 3] << 6


def _model(trits: np.ndarray, scale: float, block: int, nodes: int) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    rows, columns = trits.shape
    weights = numpy_helper.from_array(pack_two_bit(trits, block), "codes")
    scales = numpy_helper.from_array(np.full((rows, columns // block), scale, np.float32), "scales")
    # accuracy_level 4: activations become int8, the quickest kernels.
    made = [helper.make_node("MatMulNBits", ["x", "codes", "scales"], [f"y{i}"], domain="com.microsoft", K=columns,
                             N=rows, bits=2, block_size=block, accuracy_level=4) for i in range(nodes)]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["tokens", rows]) for i in range(nodes)]
    graph = helper.make_graph(made, "products", [helper.make_tensor_value_info("x", TensorProto.FLOAT,
                                                                               ["tokens", columns])],
                              outputs, [weights, scales])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21),
                                                                   helper.make_opsetid("com.microsoft", 1)])
    return model.SerializeToString()


def product(trits: np.ndarray, x: np.ndarray, threads: int, variant: str) -> tuple[Callable[[], Any], int]:
    """(a call that computes x @ (0.05 trits).T, how often one call computes it). Raises GhostError with
    onnxruntime's own message where it cannot, or where the result is wrong."""
    import onnxruntime as ort

    block, table, nodes = VARIANTS[variant]
    if trits.shape[1] % block:
        raise GhostError(f"columns are no multiple of {block}")
    if nodes > 1 and trits.size * len(x) >= 1 << 22:
        raise GhostError("long enough alone")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # would merge the equal nodes
    options.log_severity_level = 4
    if table:
        options.add_session_config_entry("mlas.use_lut_gemm", "1")
    try:
        session = ort.InferenceSession(_model(trits, 0.05, block, nodes), options, ["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
        results = [np.empty((len(x), len(trits)), np.float32) for _ in range(nodes)]
        for i, y in enumerate(results):
            binding.bind_ortvalue_output(f"y{i}", ort.OrtValue.ortvalue_from_numpy(y))
        session.run_with_iobinding(binding)
        y = binding.copy_outputs_to_cpu()[-1]
    except Exception as error:  # onnxruntime's exception classes are not public
        raise GhostError(str(error).splitlines()[0]) from None
    expected = x @ (0.05 * trits).T
    if not np.abs(y - expected).max() <= WRONG_RESULT * np.abs(expected).max():
        raise GhostError(f"wrong by {np.abs(y - expected).max() / np.abs(expected).max():.0%}")
    return lambda: session.run_with_iobinding(binding), nodes
