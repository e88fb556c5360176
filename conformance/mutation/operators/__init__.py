"""The tables of faults, by target: NUMPY over ghost_ref, NATIVE over the C++ core, MLX over mlx_backend, TRAINING over
the NumPy trainer's linear layers."""

from conformance.mutation.operators import (
    mlx_ops,
    native_core,
    numpy_functions,
    numpy_matmuls,
    numpy_model,
    numpy_sequence,
    numpy_training,
    training_linear,
)

NUMPY = (*numpy_functions.OPERATORS, *numpy_matmuls.OPERATORS, *numpy_sequence.OPERATORS, *numpy_training.OPERATORS,
         *numpy_model.OPERATORS)
TABLES = {"numpy": NUMPY, "native": native_core.OPERATORS, "mlx": mlx_ops.OPERATORS,
          "training": training_linear.OPERATORS}
