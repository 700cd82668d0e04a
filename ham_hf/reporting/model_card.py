"""The model card, README.md of a run folder: the report for the Hub, with every headline as a claim in `model-index`.

Made of report.json, recipe.yaml and arguments.json; no model, no network. The same run gives the same card.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from ham_hf.config.metric_names import HEADLINE
from ham_hf.evaluation.overlap import overlap_note, overlap_warning
from ham_hf.labels import classes_of
from ham_hf.reporting import sections
from ham_hf.system.serialization import read_text
from ham_hf.system.terminal import printable, printable_lines

REPO_ID = "your-name/your-model"  # `ham-hf push` puts the real one in its place
FILES = ("recipe.yaml", "arguments.json")  # what was asked, then what it came to


def read_files(folder: Path) -> dict[str, str]:
    """The files that the card shows as they are, by name."""
    return {name: printable_lines(read_text(folder / name)).strip() for name in FILES if (folder / name).is_file()}


def render_card(report: Mapping, pictures: Sequence[str], files: Mapping[str, str]) -> str:
    """The whole card: front matter that huggingface_hub reads back, then the page."""
    front = card_data(report).to_yaml(line_break="\n")
    return f"---\n{front}\n---\n\n{render_page(report, pictures, files)}"


def render_page(report: Mapping, pictures: Sequence[str], files: Mapping[str, str]) -> str:
    """The card without its front matter."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(
        resources.files("ham_hf.reporting").joinpath("templates/model_card.md.jinja").read_text("utf-8")
    )
    run = report["run"]
    model, data = run["model"], run["data"]
    body = template.render(
        title=_title(run),
        disclaimer=report["disclaimer"],
        synthetic=sections.SYNTHETIC if data["synthetic"] else "",
        seen=overlap_warning(run),
        what=sections.what_it_does(run),
        purpose=sections.SYNTHETIC_PURPOSE if data["synthetic"] else f"{sections.PURPOSE} {sections.LIMITS}",
        base=sections.escape(model["name"]),
        members=len(model.get("members", [])),
        repo_id=REPO_ID,
        reads_patient=sections.reads_patient(run),
        has_code=sections.reads_patient(run) or "members" in model,
        has_views=sections.has_views(run),
        labels=model["labels"],
        results=sections.result_sections(report, pictures),
        check=_check_command(data),
        hashes={name: data["splits"][name]["sha256"] for name, results in report["results"].items() if results},
        training=sections.training_sections(report, pictures),
        files=files,
        fence_around=sections.fence_around,
        citation=sections.CITATION,
        data=[
            sections.data_section(data),
            overlap_note(run),
            sections.audit_section(data),
            sections.provenance_section(run),
        ],
    )
    return re.sub(r"\n{3,}", "\n\n", body)


def card_data(report: Mapping) -> ModelCardData:
    """The card's front matter."""
    run = report["run"]
    data, synthetic = run["data"], run["data"]["synthetic"]
    model = run["model"]
    parts = [(model["name"], model["revision"]), (model.get("text_name"), model.get("text_revision"))]
    parts += [(member["base"], member["base_revision"]) for member in model.get("members", [])]
    # What is not from the Hub has no commit; members may have the same base
    bases = list(dict.fromkeys(name for name, commit in parts if commit is not None))
    return ModelCardData(
        license="apache-2.0" if synthetic else "cc-by-nc-4.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        base_model=bases or None,
        datasets=[data["source"]] if data["kind"] == "hub" else None,
        metrics=["accuracy", "f1", "roc_auc"],
        tags=[
            "ham10000",
            "dermatology",
            "skin-lesion",
            "medical",
            *(["mmbt"] if model.get("fusion") == "mmbt" else []),
        ],
        model_name=_title(run),
        eval_results=claims(report),
    )


def claims(report: Mapping) -> list[EvalResult]:
    """One claim for each headline metric of each split; the data's revision is the SHA-256 of the split's images."""
    data, labels = report["run"]["data"], report["run"]["model"]["labels"]
    found = []
    for split, results in report["results"].items():
        for metric in HEADLINE:
            if results is None or metric not in results["metrics"] or results["metrics"][metric]["value"] is None:
                continue
            value, interval = results["metrics"][metric]["value"], results["metrics"][metric]["interval"]
            low_high = f" (95 % interval {' to '.join(map(sections.number, interval))})" if interval else ""
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


def _title(run: Mapping) -> str:
    name = re.split(r"[/:]", run["model"]["name"].rstrip("/"))[-1]
    what = "synthetic skin lesions" if run["data"]["synthetic"] else "HAM10000"
    return f"{sections.escape(name)} on {what}" + (", image and patient" if sections.reads_patient(run) else "")


def _dataset_id(data: Mapping) -> str:
    if data["kind"] == "hub":
        return data["source"]
    return "synthetic" if data["synthetic"] else "ham10000"


def _check_command(data: Mapping) -> str:
    words = [f"ham-hf verify {REPO_ID} --data_dir {shlex.quote(printable(sections.where_the_data_are(data)))}"]
    if data["split"] not in ("study", "grouped"):
        words.append(f"--split {shlex.quote(printable('path/to/' + data['split']))}")
    if data["audit"]["near_duplicates"]["grouped"]:
        words.append("--group_near_duplicates")
    if any(split["absent_images"] for split in data["splits"].values()):
        words.append("--allow_missing_images")
    return " ".join(words)
