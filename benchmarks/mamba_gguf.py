"""A Mamba-1 model with random ternary weights as a GGUF file, for llama.cpp.

    python benchmarks/mamba_gguf.py out.gguf [--d-model 512] [--layers 6]

Shapes and names as llama.cpp's converter writes them for state-spaces/mamba, vocabulary 256 and no tokenizer. The
matrices hold trits times a scale, which each of its quantisations can represent closely.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

VOCABULARY, STATES, TAPS = 256, 16, 4


def write_mamba(path: Path, d_model: int = 512, layers: int = 6, seed: int = 0) -> int:
    """Write the float32 model. Returns its number of parameters."""
    import gguf

    channels, rank = 2 * d_model, d_model // 16
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_name("random")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(d_model)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_ssm_conv_kernel(TAPS)
    writer.add_ssm_inner_size(channels)
    writer.add_ssm_state_size(STATES)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    size = 0
    for name, values in _tensors(d_model, layers, channels, rank, np.random.default_rng(seed)):
        writer.add_tensor(name, values)
        size += values.size
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return size


def _tensors(d: int, layers: int, channels: int, rank: int, random: np.random.Generator):
    def trits(rows: int, columns: int) -> np.ndarray:
        return (random.integers(-1, 2, (rows, columns)) / np.sqrt(columns)).astype(np.float32)

    yield "token_embd.weight", random.normal(size=(VOCABULARY, d)).astype(np.float32)
    yield "output_norm.weight", np.ones(d, np.float32)
    for layer in range(layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", np.ones(d, np.float32)
        yield block + "ssm_in.weight", trits(2 * channels, d)
        yield block + "ssm_conv1d.weight", random.uniform(-0.5, 0.5, (channels, TAPS)).astype(np.float32)
        yield block + "ssm_conv1d.bias", np.zeros(channels, np.float32)
        yield block + "ssm_x.weight", trits(rank + 2 * STATES, channels)
        yield block + "ssm_dt.weight", trits(channels, rank)
        yield block + "ssm_dt.bias", np.log(np.expm1(np.exp(random.uniform(np.log(1e-3), np.log(0.1), channels)))
                                            ).astype(np.float32)
        yield block + "ssm_a", -np.tile(np.arange(1, STATES + 1, dtype=np.float32), (channels, 1))
        yield block + "ssm_d", np.ones(channels, np.float32)
        yield block + "ssm_out.weight", trits(d, channels)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    options = parser.parse_args()
    print(f"{options.path}: {write_mamba(options.path, options.d_model, options.layers):,} parameters")


if __name__ == "__main__":
    main()
