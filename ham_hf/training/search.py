"""Search for better settings of a recipe: one variable after the other, as the study did, or with Optuna.

ham-hf sweep RECIPE.yaml SWEEP.yaml [--output_dir FOLDER] [--flag value …]

SWEEP.yaml says `method` (greedy or optuna), `metric` (balanced_accuracy when left out), for optuna `trials`, and
`variables`: for greedy a list of values each, for optuna a list or {low, high, log}. What is there of a broken-off
search is kept: the same command goes on with it. It ends with `best.yaml`, a recipe, and `sweep.png`.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import yaml
from matplotlib import style
from matplotlib.figure import Figure

from ham_hf.config.arguments import SELECTION_METRICS, read_yaml
from ham_hf.config.metric_names import HEADLINE
from ham_hf.config.recipe import Recipe, parse_recipe, recipe_parser, spell_flag
from ham_hf.labels import DISCLAIMER
from ham_hf.reporting.plots import BLUE, GREY, ORANGE, STYLE, save_figure
from ham_hf.reporting.sections import escape, number, table
from ham_hf.system.errors import InputError, TrainingError
from ham_hf.system.files import replace_file
from ham_hf.system.installation import require
from ham_hf.system.serialization import read_text
from ham_hf.training.checkpointing import only_writer
from ham_hf.training.subprocess_run import CLAIM, train_once

if TYPE_CHECKING:  # an extra
    import optuna

logger = logging.getLogger("ham_hf.training.search")

# What the Trainer reads anew for every trial of Optuna; all else is settled before the first one
OPTUNA_VARIES = (
    "learning_rate",
    "head_learning_rate",
    "layer_decay",
    "weight_decay",
    "warmup_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "adam_beta1",
    "adam_beta2",
)
IN_BASE_RATE = ("per_device_train_batch_size", "gradient_accumulation_steps")
FAILED = "failed.txt"  # in the folder of a greedy trial: why its settings do not work, so that it is not run again
DOES_NOT_WORK = "settings do not work"  # of a trial of Optuna, so that one that the machine ended is run again
# A trial of Optuna keeps no checkpoint: the best settings are trained afterwards, from best.yaml
WITHOUT_CHECKPOINTS = ("--save_strategy", "no", "--load_best_model_at_end", "false")


class Sweep(NamedTuple):
    """SWEEP.yaml, checked."""

    method: Literal["greedy", "optuna"]
    metric: str
    trials: int | None
    variables: dict[str, list | dict]


class Trial(NamedTuple):
    """`value` is the metric on validation, None where the trial was pruned or failed, as `outcome` says.

    A trial fails by its settings alone: they do not fit together, or the training diverges.
    """

    settings: dict
    value: float | None
    outcome: Literal["complete", "pruned", "failed"] = "complete"


def search(recipe_path: Path, sweep_path: Path, options: Sequence[str], output_dir: Path | None = None) -> None:
    """Search for better settings of a recipe.

    Args:
        recipe_path: the recipe.
        sweep_path: the description of the search.
        options: words of the command line that follow the recipe.
        output_dir: the folder of the search; by default runs/ and the names of both files.

    Raises:
        InputError: a file cannot be used, the folder holds another search, or a trial ended with an error that its
            settings did not cause.
        MachineError: another process is at work in the folder, or the machine was in the way of a trial.
    """
    recipe, sweep = parse_recipe([str(recipe_path), *options]), read_sweep(sweep_path)
    folder = output_dir or Path("runs") / f"{recipe_path.stem}-{sweep_path.stem}"
    _check_against(recipe, sweep)
    for name, values in sweep.variables.items():  # before the first hour is spent
        for value in values if isinstance(values, list) else (values["low"], values["high"]):
            parse_recipe([str(recipe_path), *options, *_flags({name: value})])
    run_trials = _greedy if sweep.method == "greedy" else _with_optuna
    with only_writer(folder):  # a second search would take the first one's trials for its own
        _claim(folder, recipe_path, sweep_path, options)
        trials = run_trials(folder, recipe, sweep, options)
    complete = [trial for trial in trials if trial.value is not None]
    if not complete:
        raise InputError(f"no trial of {len(trials)} came to its end: is the recipe itself sound?")
    best = max(complete, key=lambda trial: trial.value)
    _write(folder, recipe, sweep, trials, best, options)
    logger.info("best: %s, %s %s", best.settings, HEADLINE[sweep.metric], number(best.value))
    logger.info("recipe: %s", folder / "best.yaml")


def read_sweep(path: Path) -> Sweep:
    """Read SWEEP.yaml.

    Raises:
        InputError: it is missing, or not as expected.
    """
    values = read_yaml(path, "sweep", "recipes/sweeps/greedy.yaml")
    known = ("method", "metric", "trials", "variables")
    if not isinstance(values, dict) or not set(values) <= set(known) or not isinstance(values.get("variables"), dict):
        raise InputError(f"{path}: expected the keys {', '.join(known)}, and under variables a name: values each")
    sweep = Sweep(
        values.get("method"), values.get("metric", SELECTION_METRICS[0]), values.get("trials"), values["variables"]
    )
    if sweep.method not in ("greedy", "optuna"):
        raise InputError(f"{path}: method is {sweep.method!r}: expected greedy or optuna")
    if sweep.metric not in SELECTION_METRICS:
        raise InputError(f"{path}: metric is {sweep.metric!r}: expected one of {', '.join(SELECTION_METRICS)}")
    trials_fit = isinstance(sweep.trials, int) and sweep.trials > 0
    if (sweep.trials is None) != (sweep.method == "greedy") or (sweep.method == "optuna" and not trials_fit):
        raise InputError(f"{path}: trials is {sweep.trials!r}: expected a number above 0 for optuna, none for greedy")
    flags = recipe_parser()._option_string_actions
    for name, space in sweep.variables.items():
        _check_variable(path, sweep.method, name, space)
        if isinstance(space, list) and f"--{name}" in flags:
            space[:] = [_as_number(value, flags[f"--{name}"].type) for value in space]
    return sweep


def _as_number(value, of_flag):
    """YAML takes 1e-4 for a word; what is no number stays one, for `parse_recipe` to refuse."""
    if not isinstance(value, str) or of_flag not in (int, float):
        return value
    try:
        return of_flag(value)
    except ValueError:
        return value


def _check_variable(path: Path, method: str, name: str, space) -> None:
    is_range = isinstance(space, dict) and {"low", "high"} <= set(space) <= {"low", "high", "log"}
    if method == "optuna" and is_range:
        _check_range(path, name, space)
    elif not (isinstance(space, list) and space):
        ranges = ", or {low: …, high: …, log: true}" if method == "optuna" else ""
        raise InputError(f"{path}: {name} is {space!r}: expected a list of values{ranges}")
    if method == "optuna" and name not in OPTUNA_VARIES:
        raise InputError(f"{path}: optuna varies {', '.join(OPTUNA_VARIES)}; for {name} use method: greedy")


def _check_range(path: Path, name: str, space: dict) -> None:
    low, high = (_as_number(space[end], float) for end in ("low", "high"))
    space.update(low=low, high=high)
    numbers = [isinstance(end, int | float) and not isinstance(end, bool) and abs(end) < 1e300 for end in (low, high)]
    if not all(numbers) or not low < high or (space.get("log") and low <= 0):
        raise InputError(
            f"{path}: {name} goes from {str(low)[:80]!r} to {str(high)[:80]!r}: expected two numbers, low below high, "
            "and above 0 with log: true"
        )


def _check_against(recipe: Recipe, sweep: Sweep) -> None:
    """What the recipe would not let have any effect."""
    varied, optuna = set(sweep.variables), sweep.method == "optuna"
    base_rate, optimizer = recipe.training.base_learning_rate, recipe.training.optimizer
    if "learning_rate" in varied and base_rate is not None:
        raise InputError("learning_rate follows from the recipe's base_learning_rate: vary that one, with greedy")
    if optuna and base_rate is not None and (batch := sorted(varied & set(IN_BASE_RATE))):
        raise InputError(
            f"base_learning_rate sets the rate before optuna varies {batch[0]}: its trials would have another rate "
            "than best.yaml; use greedy, or learning_rate in the recipe"
        )
    betas = varied & {"adam_beta1", "adam_beta2"}
    if betas and optimizer == "sgd" and "optimizer" not in varied:
        raise InputError(f"{min(betas)} has no effect on optimizer: sgd: leave it out")
    if optuna and optimizer != "adamw" and (fixed := sorted(varied & {"learning_rate"} | betas)):
        raise InputError(f"optuna varies the {fixed[-1]} of optimizer: adamw alone, not of {optimizer}: use greedy")


def _claim(folder: Path, recipe: Path, sweep: Path, flags: Sequence[str]) -> None:
    """A folder belongs to one search: what it says, and with which flags."""
    asked = json.dumps(
        {
            "recipe": recipe.read_text(encoding="utf-8"),
            "sweep": sweep.read_text(encoding="utf-8"),
            "flags": list(flags),
        },
        indent=2,
    )
    path = folder / "search.json"
    if path.exists() and path.read_text(encoding="utf-8") != asked:
        raise InputError(f"{folder} holds another search: choose another --output_dir")
    replace_file(path, asked)


def _flags(settings: Mapping) -> list[str]:
    return [word for name, value in settings.items() for word in spell_flag(name, value)]


def _own_value(recipe: Recipe, name: str):
    """What the recipe itself says, or leaves as it is."""
    [part] = [part for part in recipe[:5] if name in type(part).__dataclass_fields__]
    return getattr(part, name)


# Greedy


def _greedy(folder: Path, recipe: Recipe, sweep: Sweep, flags: Sequence[str]) -> list[Trial]:
    """Each variable in turn, all others at the best found so far; what was tried once is not tried again."""
    best = Trial({}, _run(folder / "trial_1", {}, recipe, sweep, flags))  # the recipe as it is
    trials = [best]
    for name, values in sweep.variables.items():
        for value in values:
            settings = best.settings | {name: value}
            if value == _own_value(recipe, name) or any(trial.settings == settings for trial in trials):
                continue
            trials.append(_try(folder / f"trial_{len(trials) + 1}", settings, recipe, sweep, flags))
        best = max((trial for trial in trials if trial.value is not None), key=lambda trial: trial.value)
        logger.info("after %s: %s, %s", name, best.settings or "the recipe as it is", number(best.value))
    return trials


def _try(run: Path, settings: dict, recipe: Recipe, sweep: Sweep, flags: Sequence[str]) -> Trial:
    """Run a trial unless it is done; one whose settings do not work has failed, and is not run again."""
    if (run / FAILED).exists():
        return Trial(settings, None, "failed")
    try:
        return Trial(settings, _run(run, settings, recipe, sweep, flags))
    except TrainingError as error:
        logger.warning("%s has failed: %s", run.name, error)
        run.mkdir(exist_ok=True)
        replace_file(run / FAILED, f"{error}\n")
        (run / CLAIM).unlink(missing_ok=True)
        return Trial(settings, None, "failed")


def _run(run: Path, settings: dict, recipe: Recipe, sweep: Sweep, flags: Sequence[str]) -> float:
    """Train in a process of its own, unless that is done, and return the metric.

    Raises:
        TrainingError: the settings do not work.
        InputError, MachineError: see `train_once`; or the recipe's file has changed.
    """
    # The test images are for the recipe that the search ends with
    ours = ["--do_predict", "false", "--output_dir", str(run), "--resume"]
    words = [str(recipe.path), *flags, *_flags(settings), *ours]
    logger.info("%s: %s", run.name, settings or "the recipe as it is")
    if read_text(recipe.path) != recipe.text:
        raise InputError(f"{recipe.path} was edited during the search: undo that, or choose another --output_dir")
    try:
        parse_recipe(words)
    except InputError as error:
        raise TrainingError(str(error)) from error
    train_once(run, recipe.path, words)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return report["results"]["validation"]["metrics"][sweep.metric]["value"]


# Optuna


def _with_optuna(folder: Path, recipe: Recipe, sweep: Sweep, flags: Sequence[str]) -> list[Trial]:
    """`Trainer.hyperparameter_search`, journalled in `optuna.log`; hopeless trials are pruned at an evaluation."""
    require("optuna", "sweep", "method: optuna")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from ham_hf.training.build import build_for_search, settings_at_fault

    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.log")))
    study = optuna.create_study(storage=storage, study_name="sweep", load_if_exists=True, direction="maximize")
    done = _finished(study)
    if len(done) < sweep.trials:
        quiet = [*flags, *WITHOUT_CHECKPOINTS, "--output_dir", str(folder / "trials")]
        trainer = build_for_search(parse_recipe([str(recipe.path), *quiet]))
        trainer.args.warmup_steps = float(trainer.args.warmup_steps)  # the search casts to the type it finds
        train = trainer.train

        def train_or_fail(*args, trial, **kwargs):
            try:
                with settings_at_fault():
                    return train(*args, trial=trial, **kwargs)
            except TrainingError:
                trial.set_user_attr(DOES_NOT_WORK, True)
                raise

        trainer.train = train_or_fail
        trainer.hyperparameter_search(
            hp_space=lambda trial: {name: _suggest(trial, name, space) for name, space in sweep.variables.items()},
            compute_objective=lambda metrics: metrics[f"eval_{sweep.metric}"],
            n_trials=sweep.trials - len(done),
            direction="maximize",
            backend="optuna",
            storage=storage,
            study_name="sweep",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=recipe.training.seed + len(done)),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
            catch=(TrainingError,),
        )
    states = optuna.trial.TrialState
    outcomes = {states.COMPLETE: "complete", states.PRUNED: "pruned", states.FAIL: "failed"}
    return [
        Trial(trial.params, trial.value if trial.state == states.COMPLETE else None, outcomes[trial.state])
        for trial in _finished(optuna.load_study(study_name="sweep", storage=storage))
    ]


def _finished(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """Return the trials that are not run again: Optuna also calls those failed that the machine ended."""
    return [
        trial
        for trial in study.trials
        if trial.state.is_finished() and (trial.state.name != "FAIL" or DOES_NOT_WORK in trial.user_attrs)
    ]


def _suggest(trial, name: str, space: list | dict):
    if isinstance(space, list):
        return trial.suggest_categorical(name, space)
    suggest = (
        trial.suggest_int if isinstance(space["low"], int) and isinstance(space["high"], int) else trial.suggest_float
    )
    return suggest(name, space["low"], space["high"], log=bool(space.get("log")))


# What it ends with


def _write(
    folder: Path, recipe: Recipe, sweep: Sweep, trials: Sequence[Trial], best: Trial, flags: Sequence[str]
) -> None:
    values = read_yaml(recipe.path, "recipe", "recipes/quickstart.yaml") | best.settings
    header = f"# {recipe.path.name} with the best of {len(trials)} trials by {HEADLINE[sweep.metric]} on validation.\n"
    if flags:
        header += f"# Its trials also had: {' '.join(flags)}\n"
    replace_file(folder / "best.yaml", f"{header}\n{yaml.safe_dump(values, sort_keys=False)}")
    replace_file(
        folder / "sweep.json",
        json.dumps({"metric": sweep.metric, "trials": [trial._asdict() for trial in trials]}, indent=2) + "\n",
    )
    replace_file(folder / "sweep.md", render_sweep(sweep, trials, best))
    _draw(folder / "sweep.png", sweep, trials, best)


def render_sweep(sweep: Sweep, trials: Sequence[Trial], best: Trial) -> str:
    """The trials as a page, the best first."""
    ranked = sorted(trials, key=lambda trial: -1.0 if trial.value is None else trial.value, reverse=True)
    rows = [
        [escape(trial.settings.get(name, "–")) for name in sweep.variables]
        + [trial.outcome if trial.value is None else number(trial.value)]
        for trial in ranked
    ]
    lines = [f"# Sweep: {len(trials)} trials, {sweep.method}", "", f"*{DISCLAIMER}*", ""]
    lines += table([*map(escape, sweep.variables), HEADLINE[sweep.metric]], rows)
    lines += [
        "",
        f"By {HEADLINE[sweep.metric]} of the validation images. The best of {len(trials)} is the best partly by luck, "
        f"and {number(best.value)} too high a figure for it: judge it with `ham-hf cross-validate`, or once on the "
        "test images.",
    ]
    return "\n".join(lines) + "\n"


def _draw(path: Path, sweep: Sweep, trials: Sequence[Trial], best: Trial) -> None:
    """A panel a variable: the metric of every trial that had set it, the best of each value joined."""
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(3.4 * len(sweep.variables), 3.4))
        panels = figure.subplots(1, len(sweep.variables), sharey=True, squeeze=False)[0]
        for axes, (name, space) in zip(panels, sweep.variables.items(), strict=True):
            tried = [trial for trial in trials if trial.value is not None and name in trial.settings]
            numeric = all(isinstance(trial.settings[name], int | float) for trial in tried)
            places = [trial.settings[name] if numeric else str(trial.settings[name]) for trial in tried]
            axes.plot(places, [trial.value for trial in tried], "o", color=GREY, alpha=0.7)
            if name in best.settings:
                chosen = best.settings[name] if numeric else str(best.settings[name])
                axes.plot([chosen], [best.value], "o", color=ORANGE, markersize=9, label="best")
            if isinstance(space, dict) and space.get("log"):
                axes.set_xscale("log")
            axes.axhline(best.value, color=BLUE, linewidth=0.8, linestyle=":")
            axes.set(xlabel=name)
            axes.grid(alpha=0.3)
        panels[0].set_ylabel(f"{HEADLINE[sweep.metric]}, validation")
        save_figure(figure, path)
