"""The `measure` section of a benchmark file: how the models are made that the weights are measured with.

    measure: full                                       as the paper does: the final run's recipe on the large subsets
    measure: {short: {samples_per_task: 10000}}         large subsets cut to that many records of a task
    measure: {lora: {r: 128, alpha: 256}}               adapters instead of whole models
    measure: {proxy: {environment: {BASE_MODEL_PATH: ...}}}   a smaller model of the same kind
    measure: {gradient: {samples_per_task: 512}}        one `mini` model and gradients: an approximation

The final models are trained by the `training` section alone. docs/cheaper_measurement.md compares the measures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from visatb.errors import shown
from visatb.flag_section import check_flags, flags
from visatb.inference_section import SERVER
from visatb.schema import BrokenError, Check
from visatb.training_section import check_training
from visatb.weighting.settings import FULL_MEASURE, GRADIENT, LORA, MEASURES, PROXY, SHORT

LARGE_ENOUGH = 10_000  # samples of a large subset (the paper's Appendix B)
GRADIENT_KINDS = {
    "samples_per_task": "count",
    "batch_size": "count",
    "step_size": "count",
    "steps": "count",
    "buckets": "count",
    "dtype": "bf16|fp16|fp32",
}
_LORA_VARIABLES = {"r": "LORA_R", "alpha": "LORA_ALPHA", "dropout": "LORA_DROPOUT", "learning_rate": "LEARNING_RATE"}
_KINDS: dict[str, dict[str, str]] = {
    FULL_MEASURE: {},
    SHORT: {"samples_per_task": "count"},
    LORA: {"r": "count", "alpha": "number", "dropout": "number", "learning_rate": "number", "merge": "truth"}
    | {"script": "text", "samples_per_task": "count"},
    PROXY: {"environment": "any", "script": "text", "samples_per_task": "count"},
    GRADIENT: GRADIENT_KINDS,
}
_HF_SCRIPT = "finetune_hf.sh"
_PROJECTOR = "PRETRAIN_MM_MLP_ADAPTER"
# Finetune script of whole models -> that of adapters with the same flags otherwise.
_ADAPTER_SCRIPTS = {
    "finetune_academic.sh": "finetune_lora.sh",
    "finetune_academic_vicuna13b.sh": "finetune_lora.sh",
    "finetune_chat.sh": "finetune_lora.sh",
    "finetune_task.sh": "finetune_task_lora.sh",
}


@dataclass(frozen=True)
class Measure:
    """How preparation models are made.

    Attributes:
        kind: one of MEASURES.
        samples_per_task: of a large subset at most (`short`; if given, `lora` and `proxy`); None for all that
            `large_rate` gives.
        script: of their trainings; None for that of the `training` section.
        environment: variables of their trainings, over those of the `training` section.
        merge: adapters are merged into their base before they answer (`lora`).
        flags: of `visatb gradients`, by name (`gradient`).
    """

    kind: str = FULL_MEASURE
    samples_per_task: int | None = None
    script: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    merge: bool = False
    flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        """Behind the names of files that depend on the measure: `_lora`; nothing for `full`."""
        return "" if self.kind == FULL_MEASURE else f"_{self.kind}"

    def __str__(self) -> str:
        own = {"script": self.script, "samples_per_task": self.samples_per_task, "merge": self.merge or None}
        settings = own | dict(self.environment) | dict(self.flags)
        given = [f"{name} {value}" for name, value in settings.items() if value is not None]
        return self.kind + (f" ({', '.join(given)})" if given else "")

    def training(self, section: Mapping[str, Any]) -> dict[str, Any]:
        """The `training` section as preparation models are trained."""
        if self.kind not in (LORA, PROXY):
            return dict(section)
        script, environment = section.get("script"), dict(section.get("environment") or {})
        if self.kind == LORA and not _trains_adapters(script, environment):
            environment.pop("LEARNING_RATE", None)  # that of whole models is a tenth of what adapters need
            script = adapter_script(script)
            environment |= {"LORA_ENABLE": "True"} if _is_hf(script) else {}
        return dict(section) | {"script": self.script or script, "environment": environment | dict(self.environment)}


def adapter_script(script: str | None) -> str | None:
    """The shipped script that trains adapters where `script` trains whole models; None for a custom script."""
    path = PurePath(script or "")
    if "lora" in path.name or _is_hf(script):
        return script
    return str(path.with_name(_ADAPTER_SCRIPTS[path.name])) if path.name in _ADAPTER_SCRIPTS else None


def _is_hf(script: str | None) -> bool:
    return PurePath(script or "").name == _HF_SCRIPT


def _trains_adapters(script: str | None, environment: Mapping[str, Any]) -> bool:
    """Whether the final models are adapters already."""
    return "lora" in PurePath(script or "").name or str(environment.get("LORA_ENABLE")).lower() == "true"


def _full(given: dict[str, Any]) -> Measure:
    return Measure()


def _short(given: dict[str, Any]) -> Measure:
    return Measure(SHORT, _samples(given) or LARGE_ENOUGH)


def _samples(given: dict[str, Any]) -> int | None:
    return int(given["samples_per_task"]) if "samples_per_task" in given else None


def _lora(given: dict[str, Any]) -> Measure:
    variables = {_LORA_VARIABLES[key]: value for key, value in given.items() if key in _LORA_VARIABLES}
    merge = str(given.get("merge", False)) in ("True", "true")
    return Measure(LORA, _samples(given), given.get("script"), variables, merge)


def _proxy(given: dict[str, Any]) -> Measure:
    environment = given.get("environment")
    if not isinstance(environment, dict) or not environment.get("BASE_MODEL_PATH"):
        raise BrokenError(
            f" must be a mapping with the smaller model as BASE_MODEL_PATH, got {shown(environment)}. Set it.",
            f"{PROXY}.environment",
        )
    return Measure(PROXY, _samples(given), given.get("script"), environment)


def _gradient(given: dict[str, Any]) -> Measure:
    return Measure(GRADIENT, flags={key.replace("-", "_"): value for key, value in given.items() if value is not None})


_READERS: dict[str, Callable[[dict[str, Any]], Measure]] = {
    FULL_MEASURE: _full,
    SHORT: _short,
    LORA: _lora,
    PROXY: _proxy,
    GRADIENT: _gradient,
}


def read_measure(value: Any) -> Measure:
    """The measure that a benchmark file names: one of MEASURES, or a mapping of one to its settings.

    Raises:
        BrokenError: anything else.
    """
    content = {value: None} if isinstance(value, str) else value
    if not isinstance(content, dict) or len(content) != 1 or next(iter(content)) not in MEASURES:
        known = ", ".join(MEASURES)
        raise BrokenError(f" must be one of {known}, with its settings in a mapping, got {shown(value)}. Correct it.")
    kind, given = next(iter(content.items()))
    if given is not None and not isinstance(given, dict):
        raise BrokenError(f" must be a mapping, got {shown(given)}. Correct it.", kind)
    try:
        check_flags({key: one for key, one in (given or {}).items() if key != "environment"}, _KINDS[kind])
    except BrokenError as error:
        raise type(error)(str(error), f"{kind}.{error.key}") from None
    return _READERS[kind]({key: one for key, one in (given or {}).items() if one is not None})


def check_measure(measure: Measure, training: Mapping[str, Any], inference: Mapping[str, Any]) -> None:
    """Refuse, by BrokenError, a measure whose models the other two sections can neither train nor ask."""
    script = training.get("script")
    if script is None or measure.kind not in (LORA, PROXY, GRADIENT):
        return
    own = (training.get("environment") or {}).get("BASE_MODEL_PATH")
    if measure.kind == GRADIENT and _is_hf(script):
        raise BrokenError(f" is for LLaVA's own trainings, got training.script {script}. Choose another.", GRADIENT)
    if measure.kind != PROXY and not own:
        raise BrokenError(" needs training.environment.BASE_MODEL_PATH, the base of all models. Set it.", measure.kind)
    if measure.kind == GRADIENT:
        return
    if measure.merge and _is_hf(script):
        raise BrokenError(f" is for LLaVA's own trainings, got training.script {script}. Leave it out.", "lora.merge")
    if measure.kind == LORA and _is_hf(script) and inference.get("engine") == SERVER:
        raise BrokenError(" trains adapters, which inference.engine server does not serve. Use engine hf.", LORA)
    if (
        measure.kind == PROXY
        and _PROJECTOR in (training.get("environment") or {})
        and _PROJECTOR not in measure.environment
    ):
        raise BrokenError(
            f" must name {_PROJECTOR} too: another model's projector does not fit. Set it.", "proxy.environment"
        )
    changed = measure.training(training)
    if changed["script"] is None:
        raise BrokenError(
            f" must name the script that trains adapters where {script} trains models. Set it.", "lora.script"
        )
    try:
        check_training({"script": changed["script"], "environment": changed["environment"]})
    except BrokenError as error:
        raise BrokenError(str(error), f"{measure.kind}.{error.key}") from None


_SETTINGS = {
    kind: dict(flags(kinds, lambda given: None).schema) | {"type": ["object", "null"], "additionalProperties": False}
    for kind, kinds in _KINDS.items()
}
MEASURE = Check(
    read_measure,
    {
        "anyOf": [
            {"enum": list(MEASURES)},
            {"type": "object", "properties": _SETTINGS, "additionalProperties": False, "maxProperties": 1},
        ]
    },
)
