"""Numbers that run through the reference's own code to find how far a rounded computation may stray.

`RunningError` carries a rigorous bound of the error along with every value; `MonteCarlo` disturbs every operation at
random.
"""

from conformance.arithmetic.model import BINARY32, Arithmetic
from conformance.arithmetic.monte_carlo import MonteCarlo
from conformance.arithmetic.running_error import RunningError
from conformance.arithmetic.tracked import Tracked, plain

__all__ = ["BINARY32", "Arithmetic", "MonteCarlo", "RunningError", "Tracked", "plain"]
