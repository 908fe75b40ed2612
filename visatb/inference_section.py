"""The `inference` section of a benchmark file: flags of inference_visatb.py but for those that the run graph sets."""

from visatb.errors import shown
from visatb.flag_section import check_flags, flags
from visatb.schema import BrokenError

# Flag -> kind (flag_section.broken_rule).
GENERATION_KINDS = {
    "conv-mode": "text",
    "temperature": "number",
    "top_p": "number",
    "num_beams": "count",
    "max_new_tokens": "count",
    "seed": "whole",
    "batch-size": "count",
    "workers": "whole",
    "dtype": "text",
    "device": "text",
}
LLAVA, HF, SERVER = "llava", "hf", "server"
INFERENCE_KINDS = GENERATION_KINDS | {
    "engine": "llava|hf|server",
    "start": "text",
    "concurrency": "count",
    "retries": "whole",
    "timeout": "number",
    "on-bad-image": "text",
}
_PLACE_KINDS = {"script": "text", "launcher": "text", "gpus": "place", "threads": "place"}
# Flags that not every engine takes. What a server loads, and in which dtype, its own command says.
_OF_SOME = {"conv-mode": (LLAVA,)}
_OF_SOME |= dict.fromkeys(("num-beams", "batch-size", "dtype", "device"), (LLAVA, HF))
_OF_SOME |= dict.fromkeys(("start", "concurrency", "retries", "timeout"), (SERVER,))
MODEL_MARK, PORT_MARK = "{model}", "{port}"  # in `start`


def check_inference(given: dict) -> None:
    """Refuse an invalid section by BrokenError."""
    own = "script" in given  # a program of the user's own has flags of its own
    check_flags(given, _PLACE_KINDS | ({} if own else INFERENCE_KINDS), known=not own)
    if own:
        return
    engine = given.get("engine") or LLAVA
    for key, value in given.items():
        engines = _OF_SOME.get(str(key).replace("_", "-"), (engine,))
        if engine not in engines and value is not None:
            raise BrokenError(f" is for engine {' and '.join(engines)}, got engine {engine}. Remove it.", key)
    command = given.get("start") or ""
    if engine == SERVER and not (MODEL_MARK in command and PORT_MARK in command):
        raise BrokenError(
            f" must be a command with {MODEL_MARK} and {PORT_MARK} for engine server, got {shown(command)}. Set it.",
            "start",
        )


INFERENCE = flags(_PLACE_KINDS | INFERENCE_KINDS, check_inference)
