"""Which model a command line says: options of vLLM, SGLang, llama.cpp, Ollama's runner, others."""

from collections.abc import Collection, Iterator, Sequence

MAX_NAME = 100
# The names that a server gives its model; where these are absent, where it has the model from.
SERVED = ("--served-model-name", "--alias", "-a", "--model-alias", "--model_alias")
SOURCE = ("--model", "--model-path", "--model_path", "--model-id", "-hf", "--hf-repo")
FILE = "-m"  # python's is a module
SUFFIX = ".gguf"


def said_models(arguments: Sequence[str]) -> list[str]:
    """What the options say: the served names, else the model's source; empty without either."""
    found = list(_options(arguments))
    served = [value for option, value in found if option in SERVED]
    source = [value for option, value in found if option in SOURCE or _is_file(option, value)]
    return served or source or list(_positional(arguments))


def named_model(arguments: Sequence[str], names: Collection[str]) -> str | None:
    """Which one of `names` the command line means: `NAME`, `--model=NAME`, `/models/NAME` or
    `/models/NAME.gguf`. Bare words count where no option says a model. None when none is meant, or
    several are (by a script that tests them, a proxy that starts them)."""
    words = said_models(arguments) or arguments
    meant = {name for word in words if (name := _meant(word, names)) is not None}
    return meant.pop() if len(meant) == 1 else None


def short_name(said: str) -> str:
    """A model's name for people, of what an option said: without path and suffix."""
    return said.rstrip("/").rpartition("/")[2].removesuffix(SUFFIX)[:MAX_NAME]


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`--option=value`, `--option value` and, as vLLM's served names may be, several values."""
    option = ""
    for word in arguments:
        if word.startswith("-"):
            option, is_joined, value = word.partition("=")
            if is_joined:
                yield option, value
                option = ""
        elif word and option:
            yield option, word
            option = option if option == SERVED[0] else ""


def _is_file(option: str, value: str) -> bool:
    return option == FILE and value.endswith(SUFFIX)


def _positional(arguments: Sequence[str]) -> Iterator[str]:
    """`vllm serve MODEL`."""
    for before, word, following in zip(arguments, arguments[1:], arguments[2:], strict=False):
        if word == "serve" and before.rpartition("/")[2] == "vllm" and following[:1] != "-":
            yield following


def _meant(word: str, names: Collection[str]) -> str | None:
    """The longest of `names` that `word` may mean."""
    stem = word.removesuffix(SUFFIX)
    meant = [name for name in names if stem == name or stem.endswith((f"={name}", f"/{name}"))]
    return max(meant, key=len, default=None)
