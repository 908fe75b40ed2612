"""`--weight_method`: a strategy by its name, or a class of the user's own.

    build_weighter("DWA", num_tasks=8, window=50)
    build_weighter("my_strategies.py:Mine", num_tasks=8)

Code of the user's runs only when the user names it here.
"""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from transformers_patch.strategies import OTHER_NAMES, STRATEGIES
from transformers_patch.weighter import Weighter, refuse_parameters
from visatb.errors import shown


def build_weighter(
    method: str, num_tasks: int, weights: Sequence[float] | None = None, *, seed: int = 0, **constants: Any
) -> Weighter:
    """The strategy of a `--weight_method`.

    Args:
        method: a name of STRATEGIES or OTHER_NAMES, `module:Class`, or `path/to/file.py:Class` with a subclass of
            `Weighter`.
        num_tasks: K.
        weights: K numbers > 0, for strategies that do not compute their own.
        seed: handed to strategies whose constructor names it.
        constants: arguments of the strategy's constructor (window, temperature, lr, ...); those that are None are left
            at its defaults.

    Raises:
        ValueError: unknown name, unfit weights, a constant the strategy does not have, or a class that does not work.
    """
    strategy = STRATEGIES.get(OTHER_NAMES.get(method, method))
    is_users = strategy is None
    if strategy is None:
        strategy = _load(method)
    given = {name: value for name, value in constants.items() if value is not None}
    accepted = inspect.signature(strategy).parameters
    for name, value in given.items():
        if name not in accepted:
            raise ValueError(
                f"weight_{name} must not be given to {method}, which has no such constant, got {value} "
                f"(--weight_{name}). Leave it out."
            )
    if "seed" in accepted:
        given["seed"] = seed
    unset_K = _try_out(strategy, num_tasks, given, method) if is_users else None
    weighter = strategy(num_tasks, **given)
    if weights is not None:
        weighter.set_weights(weights)
        if is_users and unset_K == _try_out(strategy, num_tasks, given, method, range(2, num_tasks + 2)):
            raise ValueError(
                f"visatb_weights must not be given to {method}, whose steps overwrite them, got {shown(list(weights))} "
                "(--visatb_weights). Leave it out, or use --weight_method EW."
            )
    return weighter


def strategy_file(method: str) -> Path | None:
    """The file of `file.py:Class`, or of `module:Class` in the working directory; None for an installed module."""
    source = method.rpartition(":")[0]
    file = Path(source if source.endswith(".py") else f"{source}.py")
    return file if file.is_file() else None


def _load(method: str) -> type[Weighter]:
    source, _, name = method.rpartition(":")
    if not source or not name:
        known = ", ".join(STRATEGIES)
        raise ValueError(
            f"weight_method must be one of {known}, module:Class or file.py:Class, got {method!r} (--weight_method). "
            "Choose one of them."
        )
    strategy = getattr(_module(source, method), name, None)
    if not (isinstance(strategy, type) and issubclass(strategy, Weighter)):
        what = "nothing of that name" if strategy is None else repr(strategy)
        raise ValueError(
            f"weight_method must name a subclass of transformers_patch.Weighter, got {what} ({method}). "
            "Derive the class from Weighter."
        )
    return strategy


def _module(source: str, method: str) -> ModuleType:
    """The module `source`: a .py file, a module in the working directory, or an installed one, in this order.

    Nothing is added to sys.path: a file in the working directory is loaded by its path.
    """
    file = strategy_file(method)
    if file is None and source.endswith(".py"):
        raise ValueError(f"weight_method: no file {source} ({method}). Give its path from the working directory.")
    try:
        return importlib.import_module(source) if file is None else _load_file(file)
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"weight_method: {source} cannot be imported ({_described(error)}). Fix it.") from error


def _load_file(file: Path) -> ModuleType:
    name = f"weight_method_{file.stem}"  # no module of that name can be in the way
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _try_out(
    strategy: type[Weighter], num_tasks: int, given: dict[str, Any], method: str, weights: Sequence[float] | None = None
) -> list[float]:
    """Let another object of a user's class take trial steps, before a model loads.

    The first step has one task alone, so that the others have not been seen yet; then all; then another one alone.

    Args:
        strategy, num_tasks, given, method: class, arguments of its constructor, and where the class comes from.
        weights: task weights at the start, if any are given.

    Returns:
        The token weight of each task after these steps.

    Raises:
        ValueError: what it raised; a loss or weight that is not finite, or a loss without gradient; state that
            would be neither moved to the GPU nor saved.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            weighter = strategy(num_tasks, **given)
            if weights is not None:
                weighter.set_weights(weights)
            refuse_parameters(weighter)
            before = _plain_state(weighter)
            for n, tasks in enumerate((range(1), range(num_tasks), range(num_tasks - 1, num_tasks))):
                _trial_step(weighter, torch.tensor(tasks), 2.5 - 0.5 * n)
            _refuse_unsaved_state(weighter, before)
            return weighter.token_weights(torch.ones(num_tasks, dtype=torch.long))[0].tolist()
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"weight_method: {method} does not work ({_described(error)}). Fix it.") from error


def _trial_step(weighter: Weighter, present_T: torch.Tensor, mean: float) -> None:
    """A step with one token of each task that is present, at losses around `mean`."""
    num_tasks = weighter.num_tasks
    where = f"with {len(present_T)} of {num_tasks} tasks present"
    loss_T = (mean + present_T / num_tasks).requires_grad_()
    count_K = torch.bincount(present_T, minlength=num_tasks)
    weighter.begin_step()
    loss = weighter(loss_T, present_T, count_K)
    loss.backward()
    if not loss.isfinite():
        raise ValueError(f"its loss is {float(loss.detach())} {where}")
    mean_K = torch.zeros(num_tasks, dtype=torch.float64).index_add(0, present_T, loss_T.detach().double())
    weighter.observe(mean_K / count_K, count_K)
    weight_K = weighter.weight_K
    if weight_K.shape != (num_tasks,) or not (weight_K.isfinite() & (weight_K >= 0)).all():
        raise ValueError(f"weight_K must be {num_tasks} finite numbers >= 0, got {weight_K.tolist()!s:.80} {where}")


def _plain_state(weighter: Weighter) -> dict[str, str]:
    """The attributes of a strategy that are numbers or containers, which neither move nor are saved."""
    names = vars(weighter).keys() - vars(Weighter(1)).keys()
    kinds = int | float | list | tuple | dict | set | deque
    return {name: repr(vars(weighter)[name]) for name in names if isinstance(vars(weighter)[name], kinds)}


def _refuse_unsaved_state(weighter: Weighter, before: dict[str, str]) -> None:
    """Refuse a tensor that is not a buffer, and numbers or containers that the trial steps have changed."""
    for name, value in vars(weighter).items():
        if isinstance(value, torch.Tensor):
            raise ValueError(f"{name} must be a buffer, got a tensor that is neither moved nor saved: register_buffer")
    if type(weighter).get_extra_state is not Weighter.get_extra_state:  # it saves what is not in buffers
        return
    for name, value in _plain_state(weighter).items():
        if value != before.get(name):
            raise ValueError(
                f"{name} changes from step to step and is not saved: keep it in a buffer (register_buffer)"
            )


def _described(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if text else ''}{text}, {Path(frame.filename).name} line {frame.lineno}"
