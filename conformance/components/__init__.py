"""Every component of Ghost with its cases: the rows of the matrix."""

from conformance.case import Component
from conformance.components import (
    elementwise,
    embedding,
    files,
    fused,
    linear,
    losses,
    networks,
    optimizers,
    routing,
    rows,
    sampling,
    sequence,
    storage,
    training_linear,
)

MODULES = (elementwise, rows, linear, storage, training_linear, embedding, sequence, fused, routing, losses, optimizers,
           networks, sampling, files)
COMPONENTS: tuple[Component, ...] = tuple(component for module in MODULES for component in module.COMPONENTS)
