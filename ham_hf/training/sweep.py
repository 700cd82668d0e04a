"""Read SWEEP.yaml: which variables a search tries, how, and by which metric."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from ham_hf.config.arguments import read_yaml
from ham_hf.config.metric_names import SELECTION_METRICS
from ham_hf.system.errors import InputError


class Sweep(NamedTuple):
    """The content of a sweep file, checked."""

    method: Literal["greedy", "optuna"]
    metric: str
    trials: int | None
    variables: dict[str, list | dict]


def read_sweep(path: Path) -> Sweep:
    """Read and check SWEEP.yaml.

    Raises:
        InputError: the file is missing, or a key or value does not fit.
    """
    values = read_yaml(path, "sweep", "recipes/sweeps/greedy.yaml")
    known = ("method", "metric", "trials", "variables")
    if not isinstance(values, dict) or not set(values) <= set(known) or not isinstance(values.get("variables"), dict):
        raise InputError(f"{path}: expected the keys {', '.join(known)}, and under variables a name: values each")
    method: Any = values.get("method")
    sweep = Sweep(method, values.get("metric", SELECTION_METRICS[0]), values.get("trials"), values["variables"])
    if sweep.method not in ("greedy", "optuna"):
        raise InputError(f"{path}: method is {sweep.method!r}: expected greedy or optuna")
    if sweep.metric not in SELECTION_METRICS:
        raise InputError(f"{path}: metric is {sweep.metric!r}: expected one of {', '.join(SELECTION_METRICS)}")
    trials_fit = isinstance(sweep.trials, int) and sweep.trials > 0
    if (sweep.trials is None) != (sweep.method == "greedy") or (sweep.method == "optuna" and not trials_fit):
        raise InputError(f"{path}: trials is {sweep.trials!r}: expected a number above 0 for optuna, none for greedy")
    from ham_hf.config.recipe import recipe_parser  # here, because it takes seconds to import

    flags = recipe_parser()._option_string_actions
    for name, space in sweep.variables.items():
        _check_variable(path, sweep.method, name, space)
        if isinstance(space, list) and f"--{name}" in flags:
            space[:] = [_as_number(value, flags[f"--{name}"].type) for value in space]
    return sweep


def _check_variable(path: Path, method: str, name: str, space) -> None:
    if method == "optuna" and isinstance(space, dict) and {"low", "high"} <= set(space) <= {"low", "high", "log"}:
        _check_range(path, name, space)
    elif not (isinstance(space, list) and space):
        ranges = ", or {low: …, high: …, log: true}" if method == "optuna" else ""
        raise InputError(f"{path}: {name} is {space!r}: expected a list of values{ranges}")
    elif method == "optuna" and any(isinstance(value, list | dict) for value in space):
        raise InputError(f"{path}: {name} has lists or mappings as values, which only method: greedy supports")


def _check_range(path: Path, name: str, space: dict) -> None:
    low, high = (_as_number(space[end], float) for end in ("low", "high"))
    space.update(low=low, high=high)
    numbers = [isinstance(end, int | float) and not isinstance(end, bool) and abs(end) < 1e300 for end in (low, high)]
    if not all(numbers) or not low < high or (space.get("log") and low <= 0):
        raise InputError(
            f"{path}: {name} goes from {str(low)[:80]!r} to {str(high)[:80]!r}: expected two numbers, low below high, "
            "and above 0 with log: true"
        )


def _as_number(value, flag_type):
    """Return a number for a string such as 1e-4, which YAML does not read as one; other values as they are."""
    if not isinstance(value, str) or flag_type not in (int, float):
        return value
    try:
        return flag_type(value)
    except ValueError:
        return value
