"""One thread for BLAS and OpenMP in tests: small arrays, and other processes may hold the cores.

All threads of a native model take part in every run, so that every split is tested, however busy the machine is.
"""

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("GHOST_TEAM", "all")
