"""`python -m bench.random_models FOLDER`: model folders of published shapes with random weights.

For a GPU host without network: engines load them from disk, sleep, wake and reload them as they do
models that were trained. Every id of the vocabulary is a word (`t7`), so a prompt of N such words
is N tokens beside the chat template's, and no answer is empty. Needs torch and transformers there.

    python -m bench.random_models /data/models tinyllama-1.1b qwen2.5-3b yi-6b
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

LLAMA = {"model_type": "llama", "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
QWEN = {"model_type": "qwen2", "rms_norm_eps": 1e-6, "tie_word_embeddings": True}
# sizes from the config.json that each model was published with; toy is for a try without GPU
SHAPES: dict[str, dict[str, Any]] = {
    "tinyllama-1.1b": LLAMA | {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000,
        "max_position_embeddings": 2048,
    },
    "qwen2.5-3b": QWEN | {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
        "max_position_embeddings": 32768,
    },
    "yi-6b": LLAMA | {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 64000,
        "max_position_embeddings": 4096,
    },
    "toy": LLAMA | {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000,
        "max_position_embeddings": 512,
    },
}  # fmt: skip
SPECIAL = ("<unk>", "<s>", "</s>")
CHAT = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
SEED = 1234


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.random_models", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("folder", type=Path)
    p.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SHAPES)}; default: "
                   "all but toy")  # fmt: skip
    return p


def main() -> int:
    a = parser().parse_args()
    names = a.names or [name for name in SHAPES if name != "toy"]
    for name in names:
        if name not in SHAPES:
            raise SystemExit(f"{name}: no such shape; there are {', '.join(SHAPES)}")
    for name in names:
        began = time.perf_counter()
        count = write_model(name, a.folder / name)
        write_tokenizer(SHAPES[name], a.folder / name / "tokenizer")
        print(f"{name}: {count / 1e9:.2f} G parameters, {time.perf_counter() - began:.1f} s",
              flush=True)  # fmt: skip
    return 0


def write_model(name: str, folder: Path) -> int:
    """Its config.json and weights in bfloat16; the number of its parameters."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {k: v for k, v in SHAPES[name].items() if k != "model_type"}
    config = AutoConfig.for_model(SHAPES[name]["model_type"], bos_token_id=1, eos_token_id=2,
                                  **shape)  # fmt: skip
    torch.manual_seed(SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def write_tokenizer(shape: dict[str, Any], folder: Path) -> None:
    """Apart from config.json, whose model type would choose another class of tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *(f"\u2581t{i}" for i in range(len(SPECIAL), shape["vocab_size"]))]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        chat_template=CHAT, model_max_length=shape["max_position_embeddings"],
    )  # fmt: skip
    fast.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
