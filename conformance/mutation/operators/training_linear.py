"""Faults in the NumPy trainer's linear layers, above the compiled kernels."""

from conformance.mutation.operator import Operator

FILE = "ghost_ref/training_linear.py"
BOTH, TERNARY, CODEBOOK = ("training_linear", "training_codebook_linear"), ("training_linear",), (
    "training_codebook_linear",)

OPERATORS = (
    Operator("training_scale_unrounded", "the row scales not rounded to float16", FILE,
             "        stored = np.clip(scale, SCALE_SMALLEST, FLOAT16_LARGEST).astype(np.float16).astype(np.float32)\n",
             "        stored = np.clip(scale, SCALE_SMALLEST, FLOAT16_LARGEST) * np.float32(1.001)\n", TERNARY),
    Operator("training_threshold_unclipped", "thresholds outside of 0.3..1.2 used as they are", FILE,
             "    return np.clip(threshold, *THRESHOLD_RANGE).astype(np.float16).astype(np.float32)\n",
             "    return threshold.astype(np.float16).astype(np.float32)\n", BOTH),
    Operator("training_scale_gradient_per_element", "the mean over the row in place of the sum in a scale's gradient",
             FILE, "        return dweight, dthreshold, dmagnitude[:, 0]\n",
             "        return dweight, dthreshold, dmagnitude[:, 0] / matrix.shape[1]\n", TERNARY),
    Operator("training_threshold_gradient_of_scale", "the gradients of threshold and scale exchanged", FILE,
             "        return dweight, dthreshold, dmagnitude[:, 0]\n",
             "        return dweight, dmagnitude[:, 0], dthreshold\n", TERNARY),
    Operator("training_codebook_gradient_last", "of the groups that share an entry, only the last one counts", FILE,
             "    return np.bincount(index.ravel(), per_group.ravel(), len(codebook)).astype(np.float32)\n",
             "    total = np.zeros(len(codebook), np.float32)\n    total[index] = per_group\n    return total\n",
             CODEBOOK),
    Operator("training_index_where_nothing_is_kept", "the nearest entry to 0 in place of entry 0 where nothing is kept",
             FILE, "    return np.where(kept == 0, np.uint8(0), _train.nearest_entries(kept, codebook))\n",
             "    return _train.nearest_entries(kept, codebook)\n", CODEBOOK),
    Operator("training_sums_not_forced", "the sums of the codes not those of the codes that are multiplied", FILE,
             "        sums[:] = np.add.reduceat(q, np.arange(0, k, whole.group), axis=1, dtype=np.int32)\n",
             "        sums[:] = np.add.reduceat(q, np.arange(0, k, whole.group), axis=1, dtype=np.int32) + 1\n", BOTH),
    Operator("training_shards_share_a_buffer", "the shards' gradients written over each other", FILE,
             "        if number not in self.gradients:\n            self.gradients[number] =",
             "        number = 0\n        if number not in self.gradients:\n            self.gradients[number] =",
             BOTH),
)
