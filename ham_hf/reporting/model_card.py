"""The model card, README.md of a run folder: the report as Markdown, with every headline metric in `model-index`.

Made from report.json, recipe.yaml and arguments.json, without model or network. The same run gives the same card.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from ham_hf.config.metric_names import HEADLINE
from ham_hf.evaluation.overlap import overlap_note, overlap_warning
from ham_hf.labels import classes_of
from ham_hf.reporting import tables
from ham_hf.reporting.formats import number
from ham_hf.reporting.rendering import render
from ham_hf.system.serialization import read_text
from ham_hf.system.terminal import printable_lines

REPO_ID = "your-name/your-model"  # `ham-hf push` replaces it
FILES = ("recipe.yaml", "arguments.json")  # what was given, then what it resolved to


def read_files(folder: Path) -> dict[str, str]:
    """Return the text of the files that the card shows unchanged, by name."""
    return {name: printable_lines(read_text(folder / name)).strip() for name in FILES if (folder / name).is_file()}


def render_card(report: Mapping, pictures: Sequence[str], files: Mapping[str, str]) -> str:
    """Return the whole card: front matter that huggingface_hub reads back, then the page.

    `report` is the content of report.json, `pictures` are names of files in plots/, `files` those of `read_files`.
    """
    front = card_data(report).to_yaml(line_break="\n")
    return f"---\n{front}\n---\n\n{render_page(report, pictures, files)}"


def render_page(report: Mapping, pictures: Sequence[str], files: Mapping[str, str]) -> str:
    """Return the card without its front matter; see `render_card`."""
    run = report["run"]
    body = render(
        "model_card.md.jinja",
        title=tables.model_title(run),
        report=report,
        run=run,
        seen=overlap_warning(run),
        overlap=overlap_note(run),
        members=len(run["model"].get("members", [])),
        repo_id=REPO_ID,
        has_code=tables.reads_patient(run) or "members" in run["model"],
        pictures=pictures,
        hashes={split: run["data"]["splits"][split]["sha256"] for split, found in report["results"].items() if found},
        files=files,
    )
    return re.sub(r"\n{3,}", "\n\n", body)


def card_data(report: Mapping) -> ModelCardData:
    """Return the card's front matter."""
    run = report["run"]
    data, model = run["data"], run["model"]
    parts = [(model["name"], model["revision"]), (model.get("text_name"), model.get("text_revision"))]
    parts += [(member["base"], member["base_revision"]) for member in model.get("members", [])]
    # Only models from the Hub have a commit; members may share a base
    bases = list(dict.fromkeys(name for name, commit in parts if commit is not None))
    return ModelCardData(
        license="apache-2.0" if data["synthetic"] else "cc-by-nc-4.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        base_model=bases or None,
        datasets=[data["source"]] if data["kind"] == "hub" else None,
        metrics=["accuracy", "f1", "roc_auc"],
        tags=["ham10000", "dermatology", "skin-lesion", "medical"] + ["mmbt"] * (model.get("fusion") == "mmbt"),
        model_name=tables.model_title(run),
        eval_results=claims(report),
    )


def claims(report: Mapping) -> list[EvalResult]:
    """Return a claim for each headline metric of each split; its dataset revision is the SHA-256 of the images."""
    data, labels = report["run"]["data"], report["run"]["model"]["labels"]
    found = []
    for split, results in report["results"].items():
        for metric in HEADLINE:
            if results is None or metric not in results["metrics"] or results["metrics"][metric]["value"] is None:
                continue
            value, interval = results["metrics"][metric]["value"], results["metrics"][metric]["interval"]
            low_high = f" (95 % interval {' to '.join(map(number, interval))})" if interval else ""
            found.append(
                EvalResult(
                    task_type="image-classification",
                    task_name="Image Classification",
                    dataset_type=_dataset_id(data),
                    dataset_name="Synthetic lesions" if data["synthetic"] else "HAM10000",
                    dataset_config=data["split"],
                    dataset_split=split,
                    dataset_revision=data["splits"][split]["sha256"],
                    dataset_args={
                        "classes": classes_of(labels),
                        **({} if data["split_seed"] is None else {"split_seed": data["split_seed"]}),
                        **_list_of_duplicates(data),
                        "images": results["images"],
                        **({} if results["lesions"] is None else {"lesions": results["lesions"]}),
                    },
                    metric_type=metric,
                    metric_name=HEADLINE[metric] + low_high,
                    metric_value=value,
                    metric_args={"interval": interval} if interval else None,
                )
            )
    return found


def _list_of_duplicates(data: Mapping) -> dict[str, str]:
    """Return the list of duplicates that decided the split, if any; older runs had none."""
    return {"same_lesion": data["same_lesion"]["list"]} if data["split"] == "grouped" and "same_lesion" in data else {}


def _dataset_id(data: Mapping) -> str:
    if data["kind"] == "hub":
        return data["source"]
    return "synthetic" if data["synthetic"] else "ham10000"
