"""One thread for BLAS and OpenMP in tests: small arrays, and other processes may hold the cores."""

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
