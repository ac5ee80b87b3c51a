"""A tiny llama model with random weights, as a GGUF file that real llama.cpp loads and runs.

One token is one printable ASCII character; every other byte has a token too, so any text can be
tokenized, but the model never generates those: each token of its output arrives as a character.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

SPECIAL = (b"<unk>", b"<s>", b"</s>")
PRINTABLE = tuple(bytes([c]) for c in range(0x21, 0x7F))
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"
NEVER = -1e3


def _vocabulary() -> tuple[list[bytes], list[int], list[float]]:
    """Tokens, their types and scores: specials, all 256 bytes, then the printable characters.

    The space is SentencePiece's U+2581, a token of its own.
    """
    tokens = [*SPECIAL, *(b"<0x%02X>" % b for b in range(256)), "\u2581".encode(), *PRINTABLE]
    kind = gguf.TokenType
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256]
    types += [kind.NORMAL] * (len(tokens) - len(types))
    return tokens, [int(t) for t in types], [0.0] * len(tokens)


def _metadata(out: gguf.GGUFWriter, layers: int, dim: int, context: int) -> None:
    out.add_context_length(context)
    out.add_embedding_length(dim)
    out.add_block_count(layers)
    out.add_feed_forward_length(2 * dim)
    out.add_head_count(4)
    out.add_head_count_kv(4)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(dim // 4)
    tokens, types, scores = _vocabulary()
    out.add_vocab_size(len(tokens))
    out.add_tokenizer_model("llama")
    out.add_token_list(tokens)
    out.add_token_scores(scores)
    out.add_token_types(types)
    out.add_unk_token_id(0)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_add_space_prefix(False)
    out.add_chat_template(TEMPLATE)


def _output_rows(
    words: int, dim: int, rng: np.random.Generator, ends: float
) -> NDArray[np.float32]:
    """Logits' weights. Dimension 0 of the last state is a positive constant, so a row's first
    weight is a bias: printable characters 0, `</s>` `ends`, all else never."""
    rows = rng.normal(0, 1 / np.sqrt(dim), (words, dim)).astype(np.float32)
    rows[:, 0] = NEVER
    rows[-len(PRINTABLE) - 1 :, 0] = 0.0
    rows[2] = 0.0
    rows[2, 0] = ends
    return rows


def write_model(
    path: Path, *, layers: int = 2, dim: int = 64, seed: int = 1, context: int = 4096,
    ends: float = NEVER,
) -> Path:  # fmt: skip
    """Write a model to `path`, the same bytes for the same arguments: 0.3 MB unless it is told to
    be larger, 40 * layers * dim**2 bytes.

    `ends` is the bias of `</s>`: by default the model never stops by itself, at 100.0 it stops
    at once unless the request says `ignore_eos`.
    """
    rng = np.random.default_rng(seed)
    out = gguf.GGUFWriter(str(path), "llama")
    _metadata(out, layers, dim, context)

    def add(name: str, *shape: int, keeps_constant: bool = False) -> None:
        weights = rng.normal(0, 2.4 / np.sqrt(dim), shape).astype(np.float32)
        if keeps_constant:  # what is added to the state leaves its dimension 0 alone
            weights[0] = 0.0
        out.add_tensor(f"{name}.weight", weights)

    words = len(_vocabulary()[0])
    embedding = rng.normal(0, 1, (words, dim)).astype(np.float32)
    embedding[:, 0] = 4.0
    out.add_tensor("token_embd.weight", embedding)
    out.add_tensor("output_norm.weight", np.ones(dim, np.float32))
    out.add_tensor("output.weight", _output_rows(words, dim, rng, ends))
    for i in range(layers):
        out.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(dim, np.float32))
        out.add_tensor(f"blk.{i}.ffn_norm.weight", np.ones(dim, np.float32))
        for part in ("attn_q", "attn_k", "attn_v"):
            add(f"blk.{i}.{part}", dim, dim)
        add(f"blk.{i}.attn_output", dim, dim, keeps_constant=True)
        add(f"blk.{i}.ffn_gate", 2 * dim, dim)
        add(f"blk.{i}.ffn_up", 2 * dim, dim)
        add(f"blk.{i}.ffn_down", dim, 2 * dim, keeps_constant=True)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="write a tiny random llama model as GGUF")
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print(write_model(args.path, seed=args.seed))
