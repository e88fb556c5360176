"""Numbers that the definition of the model fixes, shared by every backend."""

SCALE_SMALLEST = 2.0**-14  # smallest normal float16: a stored scale can neither vanish nor lose precision
FLOAT16_LARGEST = 65504.0
THRESHOLD_RANGE = (0.3, 1.2)  # of a row's mean |w|
GATE_SLOPE = 5.0  # of the depth predictor's surrogate sigmoid(5 (D - i))
