"""Faults in the joined-up model and its training objective, and in what they leave to the ops, of the NumPy
reference."""

from conformance.mutation.operator import Operator

MODEL, OBJECTIVE, ROUTING = "ghost_ref/model.py", "ghost_ref/objective.py", "ghost_ref/ops/routing.py"
NORM = "ghost_ref/ops/norm.py"

OPERATORS = (
    Operator("model_epsilon", "a whole model with RMSNorm's epsilon 1e-6", NORM, "RMS_EPSILON = 1e-5",
             "RMS_EPSILON = 1e-6", ("forward", "objective")),
    Operator("residual_dropped", "a mixer without its residual", MODEL,
             "    u = h + c.dropout(_mixer(", "    u = c.dropout(_mixer(", ("forward", "objective")),
    Operator("gate_without_silu", "the mixer's gate without SiLU", MODEL, "y * ops.silu(xz[..., E:])",
             "y * xz[..., E:]", ("forward", "objective")),
    Operator("dt_bias_dropped", "dt without its bias", MODEL, ' + c[f"{name}.dt_proj.bias"])', ")",
             ("forward", "objective")),
    Operator("model_swapped_B_C", "B and C swapped", MODEL, "rbc[..., R : R + N], rbc[..., R + N :],",
             "rbc[..., R + N :], rbc[..., R : R + N],", ("forward", "objective")),
    Operator("tokenizer_bias_after", "the tokenizer's bias after the activation", MODEL,
             'windows) + c["tokenizer.conv1d.bias"])', 'windows)) + c["tokenizer.conv1d.bias"]',
             ("forward", "objective")),
    Operator("stale_state_after_skip", "skipped tokens enter a layer's state", MODEL,
             "    u = _block(c, i, kept, ops.select(tokens, index), embedding)\n",
             "    u = ops.select(_block(c, i, h, tokens, embedding), index)\n", ("forward", "objective")),
    Operator("past_ignored", "a chunk starts from nothing", MODEL,
             "        return None if self.past is None else self.past[name]\n", "        return None\n",
             ("forward", "any_split")),
    Operator("surprise_state_first", "the surprise carried is that of the chunk's first byte", MODEL,
             "= log_q[:, -1]", "= log_q[:, 0]", ("forward", "any_split")),
    Operator("attention_count", "attention's count is not advanced", MODEL,
             'c.past[f"{name}.count"] + length', 'c.past[f"{name}.count"]', ("forward", "any_split")),
    Operator("memory_off_by_one", "memory values weighted by the entry before", MODEL, "p[..., 1:]", "p[..., :-1]",
             ("forward", "objective")),
    Operator("memory_ungated", "the memory query without its gate", MODEL, " * gate[..., None]", "",
             ("forward", "objective")),
    Operator("ffn_swapped", "SiLU of the wrong half of the feed-forward network", MODEL,
             'c.ops.silu(c.linear(f"{name}.gate_proj", x)) * c.linear(f"{name}.up_proj", x)',
             'c.ops.silu(c.linear(f"{name}.up_proj", x)) * c.linear(f"{name}.gate_proj", x)', ("forward", "objective")),
    Operator("depth_next_layer", "the depth of the next layer decides", MODEL, "exceeds(output.depth, float(i))",
             "exceeds(output.depth, float(i + 1))", ("forward_decisions",)),
    Operator("router_threshold", "the router's threshold at 0.1", MODEL, "exceeds(routing.scores, 0.0)",
             "exceeds(routing.scores, 0.1)", ("forward_decisions",)),
    Operator("pad_processed", "padding is processed by routed layers", MODEL, "tokens != PAD)", "tokens >= 0)",
             ("forward",), raises="recorded run"),
    Operator("top_k_when_answering", "Mixture of Depths takes the best of the whole chunk, future included", MODEL,
             "        if c.mod_top_k:\n", "        if True:\n", ("causality", "any_split")),
    Operator("surprise_of_next_byte", "surprise of the byte to come decides", ROUTING,
             "    return -np.take_along_axis(previous, tokens[..., None].astype(np.intp), -1)[..., 0]\n",
             "    following = np.concatenate([tokens[:, 1:], tokens[:, -1:]], 1)\n"
             "    return -np.take_along_axis(log_q, following[..., None].astype(np.intp), -1)[..., 0]\n",
             ("causality", "any_split")),
    Operator("prompt_counted", "bytes outside the loss mask count", OBJECTIVE,
             "batch.targets, batch.loss_mask,", "batch.targets, batch.valid,", ("objective",)),
    Operator("router_loss_not_averaged", "the routers' losses added up, not averaged", OBJECTIVE,
             "(training.mod_weight / len(config.mod_layers))", "training.mod_weight", ("objective",)),
    Operator("depth_loss_slope", "the depth loss without its slope", OBJECTIVE,
             "(output.depth + (-float(i))) * GATE_SLOPE)", "(output.depth + (-float(i))))", ("objective",)),
    Operator("surprise_loss_dropped", "no loss of the surprise head", OBJECTIVE,
             "        loss = loss + ops.cross_entropy(output.surprise_logits, batch.targets, batch.valid, "
             "count=valid_count)\n",
             "        loss = loss + 0 * ops.cross_entropy(output.surprise_logits, batch.targets, batch.valid, "
             "count=valid_count)\n", ("objective",)),
)
