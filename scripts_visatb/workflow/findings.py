"""What the numbers of a run say, in plain sentences: also when they say that VisATB did not help."""

from typing import Any


def overall_sentences(data: dict[str, Any]) -> list[str]:
    """Sentences on the final models: dI%, dE%, and on how many tasks VisATB beats equal weights."""
    test, overall = data["test"], data["overall"]
    if overall["VisATB"] is None:
        zero = ", ".join(row["task"] for row in test if row["STL"] <= 0)
        return [f"The single-task model scores 0 on {zero}: changes in percent cannot be computed."] + _wins(test)
    mine, equal = overall["VisATB"], overall["EW"]
    sentences = [_verdict(mine["dI"], equal["dI"])]
    sentences.append(
        f"Tasks that fell behind their single-task model lost {mine['dE']:.2f}% on average over all tasks with VisATB "
        f"and {equal['dE']:.2f}% with equal weights (dE%)."
    )
    return sentences + _wins(test)


def weight_sentence(data: dict[str, Any]) -> str:
    """Which task got the highest and the lowest weight."""
    weights = data["seed_order"]["rows"][0]
    values = weights["weights"]
    high, low = weights["highest"], weights["lowest"]
    return (
        f"{high} got the highest weight ({values[high]:.2f}), {low} the lowest ({values[low]:.2f}); "
        "1 would be an equal share."
    )


def seed_sentence(data: dict[str, Any]) -> str:
    """Whether the heaviest and the lightest task are the same for every seed."""
    order = data["seed_order"]
    rows = order["rows"]
    if len(rows) == 1:
        return (
            f"One seed ({rows[0]['seed']}) was run, so nothing can be said about other seeds. "
            "To see whether the order holds, run the preparation with more: add --seeds 0 1 2 to the run command."
        )
    seeds = ", ".join(str(row["seed"]) for row in rows)
    parts = []
    for rank in ("highest", "lowest"):
        names = [row[rank] for row in rows]
        if order[f"{rank}_holds"]:
            parts.append(f"{names[0]} has the {rank} weight with every seed")
        else:
            told = ", ".join(f"{row[rank]} with seed {row['seed']}" for row in rows)
            parts.append(f"the {rank} weight CHANGES: {told}")
    holds = order["highest_holds"] and order["lowest_holds"]
    start = "The order holds" if holds else "The order does not hold"
    return f"{start} over the seeds {seeds}: {parts[0]}, and {parts[1]}."


def _verdict(mine: float, equal: float) -> str:
    gap = mine - equal
    if abs(gap) < 0.005:
        return f"VisATB and equal weights come out the same: {mine:+.2f}% against single-task models (dI%)."
    if gap > 0:
        start = f"VisATB is ahead of equal weights by {gap:.2f} points of dI%"
    else:
        start = f"VisATB did not help in this run: it is behind equal weights by {-gap:.2f} points of dI%"
    return f"{start} ({mine:+.2f}% against single-task models, equal weights {equal:+.2f}%)."


def _wins(test: list[dict[str, Any]]) -> list[str]:
    better = [row["task"] for row in test if row["difference"] > 0]
    clear = [row["task"] for row in test if is_clear(row)]
    sentence = f"VisATB scores higher than equal weights on {len(better)} of {len(test)} tasks. "
    if clear:
        sentence += f"The difference exceeds two standard errors on {', '.join(clear)}; on the others it may be chance."
    else:
        sentence += "No difference exceeds two standard errors: with test sets of this size each may be chance."
    return [sentence]


def is_clear(row: dict[str, Any]) -> bool:
    """Whether VisATB and EW differ on a task by more than two standard errors of the paired difference."""
    error = row["standard_error"]
    return error is not None and abs(row["difference"]) > 2 * error
