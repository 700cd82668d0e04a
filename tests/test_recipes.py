"""Every shipped recipe parses, has the settings of the study's tables, and trains on its own architecture."""

import json
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from transformers import AutoModel, AutoModelForImageClassification, PreTrainedModel, set_seed

from ham_hf.config.recipe import Recipe, parse_recipe
from ham_hf.config.recipe_file import read_header
from ham_hf.labels import LABELS, NEVUS_OR_OTHER
from ham_hf.models.build import Revisions, build_model, classifier_of
from ham_hf.train import main as train
from ham_hf.training.build import build_trainer
from ham_hf.training.datasets import read_data
from ham_hf.training.sweep import read_sweep
from tests.helpers.tiny_checkpoints import IMAGE_SIZE
from tests.helpers.tiny_runs import flags_of

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "recipes"
ACCELERATE = sorted((FOLDER / "accelerate").glob("*.yaml"))
SWEEPS = sorted((FOLDER / "sweeps").glob("*.yaml"))
RECIPES = sorted(set(FOLDER.rglob("*.yaml")) - set(ACCELERATE) - set(SWEEPS))
STUDY = sorted((FOLDER / "study").glob("*.yaml"))


class Trial(NamedTuple):
    model: str
    optimizer: str
    batch: int
    accumulation: int
    epochs: int
    learning_rate: float
    schedule: str
    warmup: int = 0  # epochs in appendix A, steps in appendix B
    decay: tuple[float, int] | None = None  # factor, epochs
    patient: str | None = None  # how MMBT reads it


def _cnn(model, batch, epochs, rate, warmup, decay) -> Trial:
    return Trial(f"timm/{model}.tv_in1k", "adam", batch, 1, epochs, rate, "constant", warmup, decay)


def _transformer(model, batch, accumulation, epochs, rate, warmup=0) -> Trial:
    return Trial(model, "adamw", batch, accumulation, epochs, rate, "cosine", warmup)


def _mmbt(accumulation, epochs, base, patient="codes") -> Trial:
    rate = base * 64 * accumulation / 256
    return Trial("microsoft/resnet-50", "adamw", 64, accumulation, epochs, rate, "cosine", patient=patient)


VIT = "google/vit-base-patch16-224"
TRIALS = {  # appendices A to C; the rates of B and C are base x batch x accumulation / 256
    "A1": _cnn("resnet18", 4, 10, 1e-5, 0, (0.1, 7)),
    "A2": _cnn("resnet34", 8, 5, 3e-4, 0, (0.2, 3)),
    "A3": _cnn("resnet18", 8, 5, 3e-4, 0, (0.2, 2)),
    "A4": _cnn("resnet50", 8, 5, 3e-3, 0, (0.1, 2)),
    "A5": _cnn("resnet34", 4, 7, 2e-3, 3, (0.5, 1)),
    "A6": _cnn("resnet34", 4, 7, 1e-4, 4, (0.5, 1)),
    "A7": _cnn("resnet50", 4, 7, 1e-4, 4, (0.5, 1)),
    "A8": _cnn("resnet50", 8, 15, 5e-5, 5, (0.8, 1)),
    "A9": _cnn("resnet50", 8, 7, 5e-5, 5, (0.8, 1)),
    "A10": _cnn("vgg19", 8, 15, 5e-5, 5, (0.8, 1)),
    "B1": _transformer(VIT, 8, 4, 5, 0.000125),
    "B2": _transformer(VIT, 16, 8, 5, 0.0005),
    "B3": _transformer("facebook/vit-mae-large", 16, 8, 5, 0.0005),
    "B4": _transformer("microsoft/beit-base-patch16-224-pt22k", 16, 8, 5, 0.0005),
    "B5": _transformer("facebook/deit-base-patch16-224", 16, 8, 5, 0.0005),
    "B6": _transformer(VIT, 64, 1, 9, 0.00025, warmup=3),
    "B7": _transformer(VIT, 64, 1, 9, 0.00025),
    "C1": _mmbt(1, 3, 1e-4),
    "C2": _mmbt(1, 3, 1e-2),
    "C3": _mmbt(8, 2, 1),
    "C4": _mmbt(1, 3, 1e-3),
    "C5": _mmbt(1, 5, 1e-3),
    "C6": _mmbt(1, 10, 2e-3),
    "Model 4": _mmbt(1, 5, 1e-3),
    "Model 5": _mmbt(1, 5, 1e-3, patient="sentence"),
}
CROPS = {"C": 0.3, "M": 0.35}  # the smallest share of a training crop, where it is not 0.2


def _name(path: Path) -> str:
    return str(path.relative_to(FOLDER))


def _command(path: Path) -> list[str]:
    """The command line in a file's header, as words after `accelerate launch`."""
    [command] = [line for line in read_header(path) if line.startswith("accelerate launch")]
    return shlex.split(command)[2:]


def _trial(path: Path) -> str:
    return read_header(path)[0].partition(":")[0]


def _parse(path: Path) -> Recipe:
    """Parse a recipe with the flags that its header's command gives it."""
    module, recipe, *flags = _command(path)[1:]
    assert module == "ham_hf.train"
    assert ROOT / recipe == path
    return parse_recipe([str(path), *flags])


@pytest.mark.parametrize("path", RECIPES, ids=_name)
def test_a_recipe_parses_with_the_command_in_its_header(path):
    _parse(path)


@pytest.mark.parametrize("path", SWEEPS, ids=_name)
def test_a_sweep_varies_what_the_recipe_in_its_header_has(path):
    [command] = [line for line in read_header(path) if line.startswith("ham-hf sweep")]
    _, _, recipe, sweep, *flags = shlex.split(command)
    assert ROOT / sweep == path
    for name, values in read_sweep(path).variables.items():
        for value in values if isinstance(values, list) else (values["low"], values["high"]):
            parse_recipe([str(ROOT / recipe), *flags, f"--{name}", str(value)])


@pytest.mark.parametrize("path", ACCELERATE, ids=_name)
def test_an_accelerate_config_holds_processes_and_names_its_command(path):
    config = load_config_from_file(str(path))
    assert config.mixed_precision is None and config.num_machines == 1
    keys = [key.value for key, _ in yaml.compose(path.read_text(encoding="utf-8")).value]
    assert len(keys) == len(set(keys))
    arguments = launch_command_parser().parse_args(_command(path))
    assert ROOT / arguments.config_file == path
    assert arguments.training_script == "ham_hf.train"
    assert all((ROOT / word).is_file() for word in arguments.training_script_args)
    # If the file leaves the number of processes open, its command gives it
    assert (config.num_processes == -1) == (arguments.num_processes is not None)


def test_every_trial_of_the_study_has_one_recipe():
    assert sorted(map(_trial, STUDY)) == sorted(TRIALS)


@pytest.mark.parametrize("path", STUDY, ids=_name)
def test_a_recipe_is_the_trial_that_the_study_printed(path):
    expected = TRIALS[_trial(path)]
    recipe = _parse(path)
    args = recipe.training
    assert recipe.model.model_name_or_path == expected.model
    assert args.optimizer == expected.optimizer
    assert args.per_device_train_batch_size == expected.batch
    assert args.gradient_accumulation_steps == expected.accumulation
    assert args.num_train_epochs == expected.epochs
    assert args.learning_rate == pytest.approx(expected.learning_rate, rel=1e-12)
    assert args.lr_scheduler_type == expected.schedule
    assert recipe.model.fusion == ("mmbt" if expected.patient else "none")
    if expected.patient:
        assert recipe.model.text_model_name_or_path == "google-bert/bert-base-uncased"
        assert recipe.model.patient_encoding == expected.patient
        assert recipe.model.image_position_range == 1.0
    if expected.decay:
        assert (args.lr_decay_factor, args.lr_decay_epochs) == expected.decay
        assert args.warmup_epochs == expected.warmup
        assert args.max_grad_norm == 0
    else:
        assert args.lr_decay_factor is None
        assert args.warmup_steps == expected.warmup


@pytest.mark.parametrize("path", STUDY, ids=_name)
def test_a_trial_has_the_study_s_data_and_images(path):
    recipe, trial = _parse(path), _trial(path)
    assert recipe.data.split == "study"
    assert recipe.data.classes == ("nevus_or_other" if trial == "Model 4" else "diagnoses")
    assert (recipe.image.image_size, recipe.image.eval_resize) in [(224, None), (224, 256)]
    assert recipe.image.crop_scale == [CROPS.get(trial[0], 0.2), 1.0]
    assert recipe.image.horizontal_flip and recipe.image.vertical_flip
    normalization = "none" if trial == "A9" else "twice" if trial[0] in CROPS else "imagenet"
    assert recipe.image.normalization == normalization
    assert recipe.model.freeze == ("backbone" if trial in ("A2", "B1") else "none")
    assert recipe.training.metric_for_best_model == ("loss" if trial[0] in CROPS else "accuracy")
    assert not recipe.training.bf16


def test_the_readme_lists_every_trial_with_its_recipe():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| ([ABC]\d+|Model \d) \|.*\]\(study/([^)]+)\)", text, flags=re.MULTILINE))
    assert listed == {_trial(path): path.name for path in STUDY}


def _table_rows() -> dict[str, dict[str, str]]:
    """Trial → column → cell, of the tables in recipes/README.md."""
    rows, columns = {}, []
    for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "trial":
            columns = cells
        elif re.fullmatch(r"[ABC]\d+|Model \d", cells[0]):
            rows[cells[0]] = dict(zip(columns, cells, strict=True))
    return rows


def test_the_readme_has_the_figures_that_the_headers_report_and_no_others():
    rows = _table_rows()
    for path in STUDY:
        [reported] = [line for line in read_header(path) if line.startswith("Reported:")]
        cells = [cell for column, cell in rows[_trial(path)].items() if re.match("reported|time", column)]
        in_table, in_header = (sorted(re.findall(r"\d*\.\d+|\d+m \d+s", text)) for text in (" ".join(cells), reported))
        assert in_table == in_header, path.name


# Two steps of training, end to end; of recipes that differ only in numbers, the first one

FILES = set(
    """config.json model.safetensors recipe.yaml arguments.json run.json trainer_state.json predictions_validation.csv
    predictions_test.csv report.html report.json""".split()
)
ABLATION_AND_CODE = set(
    """ablation processor_config.json configuration_mmbt.py modeling_mmbt.py processing_mmbt.py
    pipeline_mmbt.py""".split()
)


def _kind(path: Path) -> str:
    """Return what a recipe sets, without its numbers and the depth of its model."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    return re.sub(r"\d+(\.\d+)?(e-?\d+)?", "#", json.dumps(values, sort_keys=True))


FIRST_OF_A_KIND = list({_kind(path): path for path in reversed(RECIPES)}.values())[::-1]
OTHERS = [path for path in RECIPES if path not in FIRST_OF_A_KIND]


def _small(path: Path, tiny_checkpoint: Callable[[str], Path], data: Path, out: Path, **changes) -> list[str]:
    """The recipe on its own architecture, but with few parameters, pixels and steps."""
    recipe = _parse(path)
    text = recipe.model.text_model_name_or_path
    flags = {
        **({"text_model_name_or_path": tiny_checkpoint(text)} if text else {}),
        **({"train_size": IMAGE_SIZE} if recipe.image.train_size else {}),
        "model_name_or_path": tiny_checkpoint(recipe.model.model_name_or_path),
        "data_dir": data,
        "split": "grouped",
        "output_dir": out,
        "max_train_samples": 16,
        "max_steps": 2,
        "image_size": IMAGE_SIZE,
        "eval_resize": 36,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "dataloader_num_workers": 0,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    } | changes
    return [str(path), *flags_of(flags)]


def _head_keys(model: PreTrainedModel) -> set[str]:
    in_head = {id(weight) for module in classifier_of(model) for weight in module.parameters()}
    return {key for key, weight in model.named_parameters() if id(weight) in in_head}


@pytest.mark.parametrize("path", OTHERS, ids=_name)
def test_a_recipe_that_differs_only_in_numbers_takes_a_step(path, tiny_checkpoint, synthetic_dir, tmp_path):
    changes = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    recipe = parse_recipe(_small(path, tiny_checkpoint, synthetic_dir, tmp_path / "run", **changes))
    trainer = build_trainer(recipe, read_data(recipe), Revisions())
    assert math.isfinite(trainer.train().training_loss)


@pytest.mark.parametrize("path", FIRST_OF_A_KIND, ids=_name)
def test_a_recipe_trains_two_steps_on_its_own_architecture(path, tiny_checkpoint, synthetic_dir, tmp_path):
    recipe = _parse(path)
    checkpoint = tiny_checkpoint(recipe.model.model_name_or_path)
    text = recipe.model.text_model_name_or_path
    train(_small(path, tiny_checkpoint, synthetic_dir, tmp_path))

    fusion = recipe.model.fusion != "none"
    own = ABLATION_AND_CODE if fusion else {"preprocessor_config.json"}
    assert {file.name for file in tmp_path.iterdir()} >= FILES | own
    assert list((tmp_path / "plots").glob("*.png"))

    history = json.loads((tmp_path / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    losses = [entry[key] for entry in history for key in ("loss", "eval_loss") if key in entry]
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))

    names = NEVUS_OR_OTHER if recipe.data.classes == "nevus_or_other" else LABELS
    end = AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint-2", dtype="float32")
    assert [end.config.id2label[i] for i in range(len(names))] == list(names)
    run = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["training"]
    if fusion:
        rate = max(run["learning_rate"], recipe.training.image_learning_rate or 0)
        _check_encoder(AutoModel.from_pretrained(checkpoint), end.image_encoder, rate)
        if text:
            _check_encoder(AutoModel.from_pretrained(tiny_checkpoint(text)), end.text_encoder, rate)
    else:
        set_seed(recipe.training.seed)  # the seed that the new head was drawn with
        start = build_model(str(checkpoint), labels=names)
        _check_what_changed(start, end, recipe.model.freeze == "backbone", run["learning_rate"])

    best = AutoModelForImageClassification.from_pretrained(tmp_path / f"checkpoint-{run['best_step']}")
    published = AutoModelForImageClassification.from_pretrained(tmp_path).state_dict()
    folded = set() if recipe.model.calibration == "none" else _head_keys(best)  # into the last layer
    unequal = {key for key, weight in best.state_dict().items() if not torch.equal(weight, published[key])}
    assert unequal <= folded and bool(unequal) == bool(folded)  # a bias of 0 stays 0


def _check_encoder(start: PreTrainedModel, end: PreTrainedModel, rate: float) -> None:
    before, after = dict(start.named_parameters()), dict(end.named_parameters())
    trained = [name for name in after if not name.startswith("pooler.")]
    changed = [name for name in trained if not torch.equal(before[name], after[name])]
    assert len(changed) > 0.9 * len(trained)
    assert all((before[name] - after[name]).abs().max() < 4 * rate for name in trained)


def _check_what_changed(start: PreTrainedModel, end: PreTrainedModel, frozen: bool, rate: float) -> None:
    before, after = start.state_dict(), end.state_dict()
    assert before.keys() == after.keys()
    head = _head_keys(start)
    assert all(not torch.equal(before[key], after[key]) for key in head), "the classifier was not trained"
    if frozen:  # buffers too: batch norm's running statistics
        assert all(torch.equal(before[key], after[key]) for key in before.keys() - head)
        return
    backbone = {key for key, _ in start.named_parameters()} - head
    changed = [key for key in backbone if not torch.equal(before[key], after[key])]
    assert len(changed) > 0.9 * len(backbone)  # not all: BEiT's mask token has no part in classification
    # Adam moves a weight by about the rate in one step; weights further away did not start from the checkpoint
    assert all((before[key] - after[key]).abs().max() < 4 * rate for key in backbone)
