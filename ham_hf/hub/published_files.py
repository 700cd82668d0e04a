"""Which files of a run folder are published, and the list of their hashes. Imports nothing that takes long."""

from pathlib import Path, PurePosixPath

from ham_hf.system.files import file_digest, replace_file

RECORD = "training_images.csv"
CHECKSUMS = "SHA256SUMS"  # in the format of `sha256sum --check`
EVAL_RESULTS = ".eval_results/ham10000.yaml"  # with --eval_results
PATIENT_DATA = ("patients_validation.csv", "patients_test.csv")  # age, sex, body site: with --with_patient_data
PICTURES = "plots/*.png"  # of these, those that the report draws
MODELS = Path(__file__).parents[1] / "models"
# The code of the models that transformers does not know, such as modeling_mmbt.py
MODEL_CODE = tuple(f"*_{path.parent.name}.py" for path in sorted(MODELS.glob("*/__init__.py")))
# What is published of a run folder; nothing else is
PUBLISHED = (
    "README.md",
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    *MODEL_CODE,
    "report.html",
    "report.json",
    PICTURES,
    "predictions_validation.csv",
    "predictions_test.csv",
    "ablation/*.csv",
    "split.csv",
    "recipe.yaml",
    "arguments.json",
    "run.json",
    RECORD,  # only the rows of images of HAM10000
)
# Published by earlier versions
FORMERLY_PUBLISHED = ("report.md",)
# Other files of a repository that change what its users get
READ_BY_USERS = ("*.py", "*.json", "*.jinja", "*.txt", ".eval_results/*.yaml")


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS into `folder`, with a line for each other file in it."""
    lines = [f"{file_digest(folder / name)}  {name}\n" for name in sorted(files_in(folder)) if name != CHECKSUMS]
    replace_file(folder / CHECKSUMS, "".join(lines))


def files_in(folder: Path) -> list[str]:
    """Return the names of all files and links below `folder`."""
    paths = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return [path.relative_to(folder).as_posix() for path in paths]


def is_published(name: str) -> bool:
    """Return whether files of that name are published, or were by earlier versions."""
    patterns = (*PUBLISHED, *FORMERLY_PUBLISHED, *PATIENT_DATA, EVAL_RESULTS)
    return any(PurePosixPath("/", name).match(f"/{pattern}") for pattern in patterns)
