"""Search for better settings of a recipe: one variable after the other, as the study did, or with Optuna.

ham-hf sweep RECIPE.yaml SWEEP.yaml [--output_dir FOLDER] [--flag value …]

SWEEP.yaml has `method` (greedy or optuna), `metric` (default: balanced_accuracy), for optuna `trials`, and
`variables`: for greedy a list of values each, for optuna a list or {low, high, log}. If interrupted, run the same
command again to resume. The results are `best.yaml`, a recipe, `sweep.md` and `sweep.png`.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import yaml
from matplotlib import style
from matplotlib.figure import Figure

from ham_hf.config.arguments import read_yaml
from ham_hf.config.metric_names import HEADLINE
from ham_hf.config.recipe import Recipe, parse_recipe, spell_flag
from ham_hf.labels import DISCLAIMER
from ham_hf.reporting.formats import escape, number, table
from ham_hf.reporting.plots import BLUE, GRAY, ORANGE, STYLE, save_figure
from ham_hf.system.errors import InputError, TrainingError
from ham_hf.system.files import replace_file
from ham_hf.system.installation import require
from ham_hf.system.serialization import read_text
from ham_hf.training.checkpointing import CLAIM, only_writer
from ham_hf.training.child_run import train_in_child
from ham_hf.training.sweep import Sweep, read_sweep

if TYPE_CHECKING:  # an extra
    import optuna

logger = logging.getLogger("ham_hf.training.search")

FAILED = "failed.txt"  # in the folder of a trial: why its settings do not work, so that it is not run again
SETTINGS_FAIL = "settings do not work"  # marks a trial of Optuna; one that the machine interrupted is run again


class Search(NamedTuple):
    """The variables and method of a search; `flags` follow the recipe on the command line of every trial."""

    folder: Path
    recipe: Recipe
    sweep: Sweep
    flags: Sequence[str]


class Trial(NamedTuple):
    """Settings, and their metric on validation; None if the trial failed because of its settings."""

    settings: dict
    value: float | None
    outcome: Literal["complete", "pruned", "failed"] = "complete"  # version 0.1.0 pruned


def _value_of(complete: Trial) -> float:
    assert complete.value is not None
    return complete.value


def search(recipe_path: Path, sweep_path: Path, options: Sequence[str], output_dir: Path | None = None) -> None:
    """Search for better settings of a recipe, which `options` follow as on a command line.

    The folder of the search is `output_dir`, by default runs/ and the names of both files.

    Raises:
        InputError: a file cannot be used, the folder holds another search, or a trial failed with an error that its
            settings did not cause.
        MachineError: another process writes in the folder, or the machine interrupted a trial.
    """
    recipe, sweep = _parse([str(recipe_path), *options]), read_sweep(sweep_path)
    for name, values in sweep.variables.items():  # before the first hour is spent
        for value in values if isinstance(values, list) else (values["low"], values["high"]):
            _parse([str(recipe_path), *options, *_flags({name: value})])
    folder = output_dir or Path("runs") / f"{recipe_path.stem}-{sweep_path.stem}"
    this = Search(folder, recipe, sweep, options)
    with only_writer(folder):  # another search would use this one's trials
        _claim(this, sweep_path)
        trials = _search_greedily(this) if sweep.method == "greedy" else _search_with_optuna(this)
    complete = [trial for trial in trials if trial.value is not None]
    if not complete:
        raise InputError(f"none of {len(trials)} trials completed: check the recipe itself")
    best = max(complete, key=_value_of)
    _write(this, trials, best)
    logger.info("best: %s, %s %s", best.settings, HEADLINE[sweep.metric], number(best.value))
    logger.info("recipe: %s", folder / "best.yaml")


def _parse(words: list[str]) -> Recipe:
    recipe = parse_recipe(words)
    if recipe.training.final_fit is not None:
        raise InputError("final_fit leaves no validation images to compare trials on: remove it")
    return recipe


def _claim(search: Search, sweep: Path) -> None:
    """Record what is searched in the folder; raise an InputError if it holds another search."""
    assert search.recipe.path is not None  # a search starts from a file
    files = {"recipe": read_text(search.recipe.path), "sweep": read_text(sweep)}
    asked = json.dumps({**files, "flags": list(search.flags)}, indent=2)
    path = search.folder / "search.json"
    if path.exists() and read_text(path) != asked:
        raise InputError(f"{search.folder} holds another search: choose another --output_dir")
    replace_file(path, asked)


# Methods


def _search_greedily(search: Search) -> list[Trial]:
    """Vary one variable after the other, with all others at the best value found so far."""
    best = Trial({}, _run(search, 1, {}))  # the recipe as it is
    trials = [best]
    for name, values in search.sweep.variables.items():
        for value in values:
            settings = best.settings | {name: value}
            if value == _value_in(search.recipe, name) or any(trial.settings == settings for trial in trials):
                continue
            trials.append(_try(search, len(trials) + 1, settings))
        best = max((trial for trial in trials if trial.value is not None), key=_value_of)
        logger.info("after %s: %s, %s", name, best.settings or "the recipe as it is", number(best.value))
    return trials


def _search_with_optuna(search: Search) -> list[Trial]:
    """Let Optuna's TPE sampler suggest the settings; the journal `optuna.log` holds its state."""
    require("optuna", "sweep", "method: optuna")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    assert search.sweep.trials is not None  # checked by `read_sweep`
    states = optuna.trial.TrialState
    storage = JournalStorage(JournalFileBackend(str(search.folder / "optuna.log")))
    study = optuna.create_study(storage=storage, study_name="sweep", load_if_exists=True, direction="maximize")
    study.sampler = optuna.samplers.TPESampler(seed=search.recipe.training.seed + len(_finished(study)))
    for interrupted in study.get_trials(states=[states.RUNNING]):
        study.tell(interrupted.number, state=states.FAIL)
        study.enqueue_trial(interrupted.params)
    while (done := len(_finished(study))) < search.sweep.trials:
        trial = study.ask()
        settings = {name: _suggest(trial, name, space) for name, space in search.sweep.variables.items()}
        result = _try(search, done + 1, settings)
        if result.value is None:
            trial.set_user_attr(SETTINGS_FAIL, True)
            study.tell(trial, state=states.FAIL)
        else:
            study.tell(trial, result.value)
    outcomes: dict[Any, Literal["complete", "pruned", "failed"]] = {
        states.COMPLETE: "complete",
        states.PRUNED: "pruned",
        states.FAIL: "failed",
    }
    return [
        Trial(trial.params, trial.value if trial.state == states.COMPLETE else None, outcomes[trial.state])
        for trial in _finished(study)
    ]


def _finished(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """Return the trials that are not run again, which excludes those that the machine interrupted."""
    return [
        trial
        for trial in study.trials
        if trial.state.is_finished() and (trial.state.name != "FAIL" or SETTINGS_FAIL in trial.user_attrs)
    ]


def _suggest(trial: "optuna.Trial", name: str, space: list | dict) -> Any:
    if isinstance(space, list):
        return trial.suggest_categorical(name, space)
    low, high = space["low"], space["high"]
    whole = isinstance(low, int) and isinstance(high, int)
    suggest = trial.suggest_int if whole else trial.suggest_float
    return suggest(name, low, high, log=bool(space.get("log")))


# Trials


def _try(search: Search, trial: int, settings: dict) -> Trial:
    """Run a trial, unless it is finished or has failed because of its settings."""
    run = _folder(search, trial)
    if (run / FAILED).exists():
        return Trial(settings, None, "failed")
    try:
        return Trial(settings, _run(search, trial, settings))
    except TrainingError as error:
        logger.warning("%s has failed: %s", run.name, error)
        run.mkdir(exist_ok=True)
        replace_file(run / FAILED, f"{error}\n")
        (run / CLAIM).unlink(missing_ok=True)
        return Trial(settings, None, "failed")


def _run(search: Search, trial: int, settings: dict) -> float:
    """Train in a child process, unless that is done, and return the metric on validation.

    Raises:
        TrainingError: the settings do not work.
        InputError, MachineError: see `train_in_child`; or the recipe file was edited.
    """
    run, recipe = _folder(search, trial), search.recipe
    assert recipe.path is not None
    # The test images are for the recipe that the search finds
    ours = ["--do_predict", "false", "--output_dir", str(run), "--resume"]
    words = [str(recipe.path), *search.flags, *_flags(settings), *ours]
    logger.info("%s: %s", run.name, settings or "the recipe as it is")
    if read_text(recipe.path) != recipe.text:
        raise InputError(f"{recipe.path} was edited during the search: undo that, or choose another --output_dir")
    try:
        parse_recipe(words)
    except InputError as error:
        raise TrainingError(str(error)) from error
    train_in_child(run, recipe.path, words)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return report["results"]["validation"]["metrics"][search.sweep.metric]["value"]


def _folder(search: Search, trial: int) -> Path:
    return search.folder / f"trial_{trial}"


def _flags(settings: Mapping) -> list[str]:
    return [word for name, value in settings.items() for word in spell_flag(name, value)]


def _value_in(recipe: Recipe, name: str) -> Any:
    """Return the value of an option in a recipe, or its default."""
    [part] = [part for part in recipe[:5] if name in type(part).__dataclass_fields__]
    return getattr(part, name)


# Results


def _write(search: Search, trials: Sequence[Trial], best: Trial) -> None:
    folder, recipe, sweep, flags = search
    assert recipe.path is not None
    values = read_yaml(recipe.path, "recipe", "recipes/quickstart.yaml") | best.settings
    header = f"# {recipe.path.name} with the best of {len(trials)} trials by {HEADLINE[sweep.metric]} on validation.\n"
    if flags:
        header += f"# Its trials also had: {' '.join(flags)}\n"
    replace_file(folder / "best.yaml", f"{header}\n{yaml.safe_dump(values, sort_keys=False)}")
    results = {"metric": sweep.metric, "trials": [trial._asdict() for trial in trials]}
    replace_file(folder / "sweep.json", json.dumps(results, indent=2) + "\n")
    replace_file(folder / "sweep.md", render_sweep(sweep, trials, best))
    _draw(folder / "sweep.png", sweep, trials, best)


def render_sweep(sweep: Sweep, trials: Sequence[Trial], best: Trial) -> str:
    """Return the trials as a Markdown page, the best first."""
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
        f"By {HEADLINE[sweep.metric]} on the validation images. The best of {len(trials)} trials is the best partly "
        f"by luck, so {number(best.value)} is too optimistic: evaluate the recipe with `ham-hf cross-validate`, or "
        "once on the test images.",
    ]
    return "\n".join(lines) + "\n"


def _draw(path: Path, sweep: Sweep, trials: Sequence[Trial], best: Trial) -> None:
    """Draw one panel for each variable: the metric of every trial that set it."""
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(3.4 * len(sweep.variables), 3.4))
        panels = figure.subplots(1, len(sweep.variables), sharey=True, squeeze=False)[0]
        for axes, (name, space) in zip(panels, sweep.variables.items(), strict=True):
            tried = [trial for trial in trials if trial.value is not None and name in trial.settings]
            numeric = all(isinstance(trial.settings[name], int | float) for trial in tried)
            places = [trial.settings[name] if numeric else str(trial.settings[name]) for trial in tried]
            axes.plot(places, [trial.value for trial in tried], "o", color=GRAY, alpha=0.7)
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
