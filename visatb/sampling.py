"""The values of `task_sampling`: how often each task's records are drawn in an epoch."""

from collections.abc import Sequence

from visatb.errors import InputError

PROPORTIONAL, SQRT, TEMPERATURE, WEIGHTS = "proportional", "sqrt", "temperature", "weights"
RULE = f"{PROPORTIONAL}, {SQRT}, {TEMPERATURE}:T with T in (0, 100], or {WEIGHTS}"


def read_sampling(text: str) -> tuple[str, float]:
    """The kind of sampling and its temperature (1 where it has none).

    Raises:
        ValueError: another value than RULE names.
    """
    kind, colon, number = text.partition(":")
    try:
        temperature = float(number) if colon else 1.0
    except ValueError:
        temperature = 0.0
    kinds = (TEMPERATURE,) if colon else (PROPORTIONAL, SQRT, WEIGHTS)
    if kind not in kinds or not 0 < temperature <= 100:
        raise ValueError(f"task_sampling must be {RULE}, got {text[:80]!r}. Choose one.")
    return kind, temperature


def check_sampling(text: str, weights: Sequence[float] | None, method: str) -> str:
    """The kind of a training's `task_sampling`, checked against its weights and weight method.

    Raises:
        InputError: another value than RULE names; `weights` without weights.
    """
    try:
        kind, _ = read_sampling(text)
    except ValueError as error:
        raise InputError(str(error)) from None
    if kind == WEIGHTS and not (weights and method in ("EW", "equal")):
        raise InputError("task_sampling weights draws tasks by --visatb_weights with --weight_method EW. Set both.")
    return kind
