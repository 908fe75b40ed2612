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
HF = "hf"
INFERENCE_KINDS = GENERATION_KINDS | {"engine": "llava|hf", "on-bad-image": "text"}
_PLACE_KINDS = {"script": "text", "launcher": "text", "gpus": "place", "threads": "place"}


def check_inference(given: dict) -> None:
    """Refuse an invalid section by BrokenError."""
    own = "script" in given  # a program of the user's own has flags of its own
    check_flags(given, _PLACE_KINDS | ({} if own else INFERENCE_KINDS), known=not own)
    if own:
        return
    template = next((key for key in given if str(key).replace("_", "-") == "conv-mode"), None)
    if given.get("engine") == HF and given.get(template) is not None:
        raise BrokenError(
            f" is for LLaVA, other models have their own: got {shown(given[template])}. Remove it.", template
        )


INFERENCE = flags(_PLACE_KINDS | INFERENCE_KINDS, check_inference)
