"""The models of a benchmark's run: the data and weights they are trained with, and the tasks they are scored on.

mini, <task>-plus-mini    the N+1 models of the standard and the precise form (Eq. 3-7)
base                      the pretrained model before tuning, which the simpler form compares with (Eq. 10)
STL-<task>                single-task models: the baseline of dI%, V_i(i) of Eq. 10-12
mini-STL-<task>           single-task models on the mini subset: V_i(mini_i) of Eq. 11 and 12
EW, <weight method>       all tasks with equal weights, or by another strategy (`baselines`)
sampling-<kind>           all tasks with equal weights, drawn at other rates (`baselines`)
VisATB, <ablation>        all tasks with the weights of this run

With a `measure` other than `full`, the models that it makes differently carry its name: short-<task>-plus-mini,
lora-mini, proxy-base, ...; all other models are the same.
"""

from dataclasses import dataclass, replace
from functools import partial

from scripts_visatb.data.mixes import balanced_units
from visatb.benchmark import (
    BASE,
    EW,
    FORMS,
    FULL,
    MINI,
    MINI_STL,
    PLUS_MINI,
    PRECISE,
    SAMPLING,
    SIMPLER,
    STANDARD,
    STL,
    VISATB,
    Ablation,
    Benchmark,
    Task,
    measured_name,
    method_name,
)
from visatb.measure_section import Measure
from visatb.sampling import PROPORTIONAL, WEIGHTS
from visatb.weighting.settings import GRADIENT, LORA, PROXY, SHORT

# Tables of validation scores, by file name.
STANDARD_SCORES, SIMPLER_SCORES, SINGLE_SCORES = "scores", "scores_simpler", "single_scores"
TABLES = (STANDARD_SCORES, SIMPLER_SCORES, SINGLE_SCORES)


@dataclass(frozen=True)
class Model:
    """One model of a run.

    Attributes:
        name: used for its checkpoint, answers and scores.
        data: key of its training file in the manifest of the sub-datasets; None for the base, which is not trained.
        val, test: the tasks it is scored on.
        method: `--weight_method` of its training.
        weighting: the settings of its weights; None for equal weights, or those that the method computes.
        sampling: `--task_sampling` of its training.
        measure: how it is made; `full` for all but preparation models.
    """

    name: str
    data: str | None
    val: tuple[Task, ...] = ()
    test: tuple[Task, ...] = ()
    method: str = EW
    weighting: Ablation | None = None
    sampling: str = PROPORTIONAL
    measure: Measure = Measure()

    def tasks(self, split: str) -> tuple[Task, ...]:
        """The tasks it is scored on in a split."""
        return self.val if split == "val" else self.test


def forms_of(benchmark: Benchmark) -> tuple[str, ...]:
    """The forms of the weights that a benchmark asks for, its ablations' included, in the order of FORMS."""
    asked = {benchmark.form, *(ablation.form for ablation in benchmark.ablations)}
    return tuple(form for form in FORMS if form in asked)


def drawn_forms(benchmark: Benchmark) -> tuple[str, ...]:
    """The forms for which sub-datasets are drawn.

    With the standard form always the precise one as well, and the simpler one where it adds no file but the small ones:
    to draw anew for an ablation that is added later would repeat what follows from the files.
    """
    asked = forms_of(benchmark)
    if asked == (SIMPLER,):
        return asked
    grouped = any(task.group for task in benchmark.measured)
    return (STANDARD, PRECISE, SIMPLER) if SIMPLER in asked or not grouped else (STANDARD, PRECISE)


def models_of(benchmark: Benchmark) -> dict[str, Model]:
    """Every model of a benchmark's run by name, whether or not a target needs it."""
    measured = tuple(benchmark.measured)
    found = {model.name: model for model in _preparation(benchmark)}
    for task in measured:
        single = found.get(STL + task.name, Model(STL + task.name, f"single/{task.name}"))
        found[single.name] = replace(single, test=(task,))
    own = Ablation(VISATB, benchmark.form, benchmark.temperature, benchmark.alpha)
    final = [Model(EW, "entire", test=measured)]
    final += [baseline_model(method, measured, own) for method in benchmark.baselines]
    for weighting in (own, *benchmark.ablations):
        final.append(Model(weighting.name, "entire", test=measured, weighting=weighting))
    return found | {model.name: model for model in final}


def _preparation(benchmark: Benchmark) -> list[Model]:
    """The models that the forms of the weights are measured with, as the benchmark's measure makes them."""
    measured = tuple(benchmark.measured)
    units, forms = balanced_units(benchmark), forms_of(benchmark)
    if benchmark.measure.kind == GRADIENT:
        return [Model(MINI, "mini", val=measured), Model(BASE, None, val=measured)]
    found = []
    if forms != (SIMPLER,):
        found.append(Model(MINI, "mini", val=measured))
        found += [Model(unit + PLUS_MINI, f"plus_mini/{unit}", val=measured) for unit in units]
    if SIMPLER in forms:
        found.append(Model(BASE, None, val=measured))
        groups = [unit for unit in units if unit not in benchmark.task_names]
        found += [Model(STL + group, f"single/{group}", val=measured) for group in groups]
    for task in measured if forms != (STANDARD,) else ():
        val = measured if SIMPLER in forms and task.group is None else (task,)
        found.append(Model(STL + task.name, f"single/{task.name}", val=val))
        found.append(Model(MINI_STL + task.name, f"mini_single/{task.name}", val=(task,)))
    return [_as_measured(model, benchmark.measure) for model in found]


def _as_measured(model: Model, measure: Measure) -> Model:
    """A preparation model as a measure makes it; the same model if `full` makes it in the same way."""
    name = _name_in(measure, model.name)
    if name == model.name:
        return model
    is_cut = measure.samples_per_task is not None and _is_large(model.name)
    data = f"{SHORT}/{model.data}" if is_cut else model.data
    return replace(model, name=name, data=data, measure=measure)


def _is_large(name: str) -> bool:
    """Whether a preparation model learns from a large subset, or from all of a task."""
    return name.endswith(PLUS_MINI) or name.startswith(STL)


def _name_in(measure: Measure, name: str) -> str:
    """The name of a preparation model in a measure."""
    other = {
        SHORT: _is_large(name),
        LORA: name != BASE,
        PROXY: True,
    }.get(measure.kind, False)
    return measured_name(measure.kind, name) if other else name


def baseline_model(method: str, measured: tuple[Task, ...], own: Ablation) -> Model:
    """The model of an entry of `baselines`; one that draws tasks by VisATB's weights has a weights file of its own."""
    name = method_name(method)
    if not method.startswith(SAMPLING):
        return Model(name, "entire", test=measured, method=method)
    sampling = method.removeprefix(SAMPLING)
    weighting = replace(own, name=name) if sampling == WEIGHTS else None
    return Model(name, "entire", test=measured, weighting=weighting, sampling=sampling)


def preparation_models(benchmark: Benchmark) -> list[str]:
    """The models that VisATB's own weights are measured with; N counts groups where the benchmark balances groups."""
    tables = tables_of(benchmark.form)
    return list(dict.fromkeys(name for table in tables for name in scored_by(benchmark, table)))


def baseline_models(benchmark: Benchmark) -> list[str]:
    """The models of `baselines`."""
    return [method_name(method) for method in benchmark.baselines]


def ablation_models(benchmark: Benchmark) -> list[str]:
    """The models of `ablations`."""
    return [ablation.name for ablation in benchmark.ablations]


def final_models(benchmark: Benchmark) -> list[str]:
    """The models that are always compared on the test sets."""
    return [VISATB, EW] + [STL + task.name for task in benchmark.measured]


def tables_of(form: str) -> tuple[str, ...]:
    """The tables of validation scores that weights of a form are computed from: the matrix first."""
    if form == STANDARD:
        return (STANDARD_SCORES,)
    return (SIMPLER_SCORES if form == SIMPLER else STANDARD_SCORES, SINGLE_SCORES)


def scored_by(benchmark: Benchmark, table: str) -> list[str]:
    """The models whose validation scores a table contains."""
    return list(dict.fromkeys(name for row in table_rows(benchmark, table).values() for name in row.values()))


def table_rows(benchmark: Benchmark, table: str) -> dict[str, dict[str, str]]:
    """The content of a table of validation scores for weighting_visatb.py: row -> task -> model."""
    tasks = [task.name for task in benchmark.measured]
    named = partial(_name_in, benchmark.measure)
    if table == SINGLE_SCORES:
        singles = {MINI: MINI_STL, FULL: STL}
        return {row: {task: named(before + task) for task in tasks} for row, before in singles.items()}
    units = balanced_units(benchmark)
    if benchmark.measure.kind == GRADIENT:
        rows = {BASE: BASE, MINI: MINI}
    elif table == SIMPLER_SCORES:
        rows = {BASE: BASE} | {unit: STL + unit for unit in units}
    else:
        rows = {MINI: MINI} | {unit: unit + PLUS_MINI for unit in units}
    return {row: dict.fromkeys(tasks, named(model)) for row, model in rows.items()}
