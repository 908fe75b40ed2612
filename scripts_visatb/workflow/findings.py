"""The findings of a run in plain sentences, also when VisATB did not help."""

from typing import Any

from visatb.weighting.report import unit_weights


def overall_sentences(data: dict[str, Any]) -> list[str]:
    """Sentences on the final models: dI%, dE%, and where VisATB is better and worse than equal weights."""
    test, overall = data["test"], data["overall"]
    zero = [row["task"] for row in test if overall["VisATB"] is None or overall["VisATB"]["tasks"][row["task"]] is None]
    sentences = []
    if overall["VisATB"] is not None:
        mine, equal = overall["VisATB"], overall["EW"]
        spread = data["overall_spread"]["models"]
        sentences.append(_verdict(mine["dI"], equal["dI"], spread["VisATB"]["gap"] if spread else None))
        lost = [f"{entry['dE']:.2f}%{_ends(spread, name)}" for name, entry in (("VisATB", mine), ("EW", equal))]
        sentences.append(
            f"Tasks that fell behind their single-task model lost {lost[0]} on average over all tasks with VisATB and "
            f"{lost[1]} with equal weights (dE%)."
        )
    if zero:
        rest = "; dI% and dE% are over the other tasks" if overall["VisATB"] is not None else ""
        sentences.append(f"The single-task model scores 0 on {', '.join(zero)}: no percentage there{rest}.")
    return [*sentences, _wins(test), *failed_sentences(data)]


def failed_sentences(data: dict[str, Any]) -> list[str]:
    """A sentence for every task whose own data did not raise its score, with what `on_failed` did about it."""
    return [f"{entry['about']}." for entry in data["weighting"].get("failed", ())]


def weight_sentence(data: dict[str, Any]) -> str:
    """Which task got the highest and the lowest weight, as far as the intervals support it."""
    weighting = data["weighting"]
    names, values = weighting["tasks"], unit_weights(weighting)
    high, low = (pick(range(len(names)), key=values.__getitem__) for pick in (max, min))
    share = "1 would be an equal share"
    claims = [f"{names[n]} got the {rank} weight ({values[n]:.2f})" for n, rank in ((high, "highest"), (low, "lowest"))]
    above = _clearly_above(weighting)
    if above is None:
        return f"{claims[0]}, {claims[1]}; {share}. Without intervals this order may be chance."
    if not any(map(any, above)):
        return (
            f"No weight can be distinguished from another: {claims[0]}, {claims[1]}, but that may be chance; {share}."
        )
    for k, n in enumerate((high, low)):
        pairs = [(n, m) if n == high else (m, n) for m in range(len(names)) if m != n]
        alike = [names[b if n == high else a] for a, b in pairs if not above[a][b]]
        if len(alike) == len(pairs):
            claims[k] += ", not distinguishable from any other"
        elif alike:
            claims[k] += f", not distinguishable from {', '.join(alike)}"
    return f"{claims[0]}; {claims[1]}. {share}."


def _clearly_above(weighting: dict[str, Any]) -> list[list[bool]] | None:
    """Whether a weight [row] exceeds another [column], by the interval of their difference; None without intervals."""
    spread = weighting["spread"]
    if spread is None or "weight_difference" not in spread["low"]:
        return None
    return [[least > 0 for least in row] for row in spread["low"]["weight_difference"]]


def seed_sentence(data: dict[str, Any]) -> str:
    """Whether the heaviest and the lightest task are the same for every seed."""
    order = data["seed_order"]
    rows = order["rows"]
    if len(rows) == 1:
        return (
            f"Only one seed ({rows[0]['seed']}) was run, so nothing can be said about other seeds. "
            "To see whether the order holds, run the preparation with more seeds: add --seeds 0 1 2 to the command."
        )
    seeds = ", ".join(str(row["seed"]) for row in rows)
    parts = []
    for rank in ("highest", "lowest"):
        names = [row[rank] for row in rows]
        if order[f"{rank}_holds"]:
            parts.append(f"{names[0]} has the {rank} weight with every seed")
        else:
            found = ", ".join(f"{row[rank]} with seed {row['seed']}" for row in rows)
            parts.append(f"the {rank} weight CHANGES: {found}")
    holds = order["highest_holds"] and order["lowest_holds"]
    start = "The order holds" if holds else "The order does not hold"
    return f"{start} over the seeds {seeds}: {parts[0]}, and {parts[1]}."


def _verdict(mine: float, equal: float, ends: list[float] | None) -> str:
    gap = mine - equal
    scores = f"({mine:+.2f}% against single-task models, equal weights {equal:+.2f}%)"
    if abs(gap) < 0.005:
        sentence = f"VisATB and equal weights give the same result: {mine:+.2f}% against single-task models (dI%)"
    elif gap > 0:
        sentence = f"VisATB is ahead of equal weights by {gap:.2f} points of dI% {scores}"
    else:
        sentence = f"VisATB did not help in this run: it is behind equal weights by {-gap:.2f} points of dI% {scores}"
    if ends is None:
        return sentence + "."
    sentence += f"; the 95% interval of the difference is {ends[0]:+.2f} .. {ends[1]:+.2f}"
    return sentence + (", which contains 0: it may be chance." if ends[0] <= 0 <= ends[1] else ".")


def _ends(spread: dict[str, Any], model: str) -> str:
    return "" if not spread else f" ({spread[model]['dE'][0]:.2f} .. {spread[model]['dE'][1]:.2f})"


def _wins(test: list[dict[str, Any]]) -> str:
    clear = {
        word: [row["task"] for row in test if is_clear(row) and sign * row["difference"] > 0]
        for word, sign in (("better", 1), ("worse", -1))
    }
    higher, lower = (sum(sign * row["difference"] > 0 for row in test) for sign in (1, -1))
    sentence = f"VisATB scores higher than equal weights on {higher} of {len(test)} tasks and lower on {lower}. "
    if not any(clear.values()):
        return sentence + "No difference exceeds two standard errors: with test sets of this size each may be chance."
    named = ", ".join(f"clearly {word} on {', '.join(tasks)}" for word, tasks in clear.items() if tasks)
    rest = "" if sum(map(len, clear.values())) == len(test) else "; on the others the difference may be chance"
    return f"{sentence}It is {named} (by more than two standard errors){rest}."


def is_clear(row: dict[str, Any]) -> bool:
    """Whether VisATB and EW differ on a task by more than two standard errors of the paired difference."""
    error = row["standard_error"]
    return error is not None and abs(row["difference"]) > 2 * error
