"""report.json as a page for a person. Every number in it is in report.json too."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence

from ham_hf.config.metric_names import HEADLINE, METRIC_NAMES, SUBGROUP_METRICS
from ham_hf.evaluation.bootstrap import DRAWS
from ham_hf.evaluation.metrics import CALIBRATION_BINS, COLLAPSED_SHARE
from ham_hf.evaluation.overlap import overlap_note, overlap_warning
from ham_hf.evaluation.subgroups import FEWEST_LESIONS, FEWEST_MELANOMAS, FIELDS
from ham_hf.labels import FULL_NAMES, classes_of
from ham_hf.system.terminal import printable, printable_lines

SYNTHETIC = "Made from synthetic images: these numbers say nothing about skin."
SYNTHETIC_WARNING = f"> **⚠ {SYNTHETIC.upper()}**\n>\n> The images are drawn by a program; only the pipeline is real."

# What it is for, and what not; and what it answers to all the same
PURPOSE = """\
For research on dermatoscopic images: to compare methods, to teach, to look at what such models get wrong. Not for
decisions about a patient, in neither direction."""
LIMITS = """\
It has seen dermatoscopic photographs of pigmented lesions of one
collection, most of them of light skin: photographs of a phone's camera, other skin, other diagnoses and whatever is no
lesion get an answer too, and that answer means nothing."""
SYNTHETIC_PURPOSE = """\
To see how training, report and card work. It has seen drawings of a program and not one photograph of skin: it answers
to photographs too, and that answer means nothing."""

CITATION = """\
@article{tschandl2018ham10000,
  title   = {The {HAM10000} dataset, a large collection of multi-source dermatoscopic images of common
             pigmented skin lesions},
  author  = {Tschandl, Philipp and Rosendahl, Cliff and Kittler, Harald},
  journal = {Scientific Data},
  volume  = {5},
  pages   = {180161},
  year    = {2018},
  doi     = {10.1038/sdata.2018.161}
}"""

# What is hidden from the model in the files of ablation/, and the words for it
ABLATIONS = {
    "age_hidden": "age hidden",
    "sex_hidden": "sex hidden",
    "localization_hidden": "body site hidden",
    "all_hidden": "all three hidden",
    "shuffled": "another patient's",
}

METRICS_NOTE = (
    "*Always nv* answers nevus to every image. Balanced accuracy is the mean recall of the diagnoses. Log loss, "
    "Brier score (squared error summed over the diagnoses, 0 to 2) and calibration error "
    f"({CALIBRATION_BINS} bins of equal mass): lower is better."
)
DX_TYPE_NOTE = (
    "How a diagnosis was made (`dx_type`) gives the diagnosis away, for whatever looks malignant is biopsied: it is "
    "never an input of a model."
)

Table = tuple[list[str], list[list[str]]]  # header and rows, every cell a piece of Markdown


def number(value: float | None, interval: Sequence[float] | None = None, digits: int = 3) -> str:
    """ ".741", or ".741 [.703, .779]"; a dash for what is undefined."""
    if value is None or math.isnan(value):
        return "–"
    text = re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")
    return text if interval is None else f"{text} [{number(interval[0])}, {number(interval[1])}]"


def difference(value: float | None, interval: Sequence[float] | None) -> str:
    """ "+.012 [-.004, +.028]"; a dash for what is undefined."""
    if value is None or math.isnan(value):
        return "–"
    signed = [re.sub(r"^([+-])0\.", r"\1.", f"{part:+.3f}") for part in (value, *(interval or ()))]
    return signed[0] if interval is None else f"{signed[0]} [{signed[1]}, {signed[2]}]"


def escape(value: object) -> str:
    """What a user named, so that Markdown shows it as it is, also in a table, in a heading and on a terminal."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~$&!])", r"\\\1", printable(" ".join(str(value).split())))


def headline_line(results: Mapping) -> str:
    """Results of a split in a line: "balanced accuracy .741 [.703, .779] · accuracy … · always nv .672"."""
    metrics, constant = results["metrics"], results["always_nv"]
    parts = [
        f"{HEADLINE[name]} {number(metrics[name]['value'], metrics[name]['interval'])}"
        for name in ("balanced_accuracy", "accuracy")
    ]
    return " · ".join(parts + ([f"always nv {number(constant['accuracy'])}"] if constant is not None else []))


def unknown_lesions(data: Mapping) -> int:
    """Return how many validation and test images have an unknown lesion; older runs do not say, and count as 0."""
    return sum(data["splits"][split].get("unknown_lesions", 0) for split in ("validation", "test"))


def images_of_lesions(counts: Mapping) -> str:
    """Return "33 images of 20 lesions"."""
    return f"{counts['images']:,} images {of_lesions(counts['lesions'])}"


def of_lesions(lesions: int | None) -> str:
    """Return "of 20 lesions", or what is true where some of them are unknown."""
    return "of an unknown number of lesions" if lesions is None else f"of {lesions:,} lesions"


def intervals_note(data: Mapping) -> str:
    """Return what the intervals of the report stand for."""
    if unknown := unknown_lesions(data):
        drawn = (
            f" bootstrap draws. **The lesions of {unknown:,} images are unknown: these images are drawn one by one, "
            "as if they were independent. Where several of them show one lesion, the intervals are too narrow.**"
        )
    else:
        drawn = " bootstrap draws over lesions, all images of a lesion together."
    return (
        f"In brackets: 95 % intervals of {DRAWS:,}{drawn} "
        "One without width, where all of few cases were right or none, says nothing of how sure the figure is."
    )


def subgroups_note(data: Mapping) -> str:
    """Return what the figures of the subgroups stand for."""
    unit = "images" if unknown_lesions(data) else "lesions"
    return (
        f"In brackets: 95 % intervals over the {unit} of the group. Balanced accuracy is the mean recall of the "
        "diagnoses that the group has: between groups with different ones it does not compare. Groups of fewer than "
        f"{FEWEST_LESIONS} {unit} have no figure, those of fewer than {FEWEST_MELANOMAS} {unit} with melanoma no "
        "recall of it."
    )


def ablation_note(data: Mapping) -> str:
    """Return what the figures of the ablation stand for."""
    unit = "images" if unknown_lesions(data) else "lesions"
    return (
        "The same model and images, with the patient's data hidden, or with those of another image's patient. In "
        f"brackets: 95 % intervals of the difference, the same {unit} drawn for both; one that includes zero shows no "
        "difference."
    )


def render_report(report: Mapping, pictures: Sequence[str]) -> str:
    """The whole page; `pictures` are the file names in plots/."""
    run = report["run"]
    parts = [f"# {report_title(run)}\n\n*{report['disclaimer']}*"]
    if run["data"]["synthetic"]:
        parts.append(SYNTHETIC_WARNING)
    if seen := overlap_warning(run):
        parts.append(f"> **⚠ {seen}**")
    parts += result_sections(report, pictures)
    parts += training_sections(report, pictures)
    parts += [data_section(run["data"]), overlap_note(run), audit_section(run["data"]), provenance_section(run)]
    return "\n\n".join(part for part in parts if part) + "\n"


def report_title(run: Mapping) -> str:
    trained = run["training"] is not None  # else it is an evaluation of a model trained elsewhere
    what = "a run" if trained else "an ensemble" if "members" in run["model"] else "an evaluation"
    return f"{escape(run['model']['name'])}: report of {what}"


def what_it_does(run: Mapping) -> str:
    seven = classes_of(run["model"]["labels"]) == "diagnoses"
    answers = "seven diagnoses of pigmented skin lesions" if seven else "nevi from all else"
    patient = " and the patient's age, sex and body site" if reads_patient(run) else ""
    return f"Tells {answers} apart, from a dermatoscopic image{patient}."


def reads_patient(run: Mapping) -> bool:
    return run["model"].get("fusion", "none") != "none"


def made_here(run: Mapping) -> bool:
    """Trained or joined; a model of others that was judged here has its own card."""
    return run["training"] is not None or "members" in run["model"]


def where_the_data_are(data: Mapping) -> str:
    """For a command that anyone may type."""
    return data["source"] if data["kind"] in ("hub", "synthetic") else "path/to/HAM10000"


def training_sections(report: Mapping, pictures: Sequence[str]) -> list[str]:
    """What the model is, and how its training went where it had one of its own."""
    if report["run"]["training"] is None:
        return [model_section(report["run"])]
    pictures_of_it = embed(pictures, ["loss.png", "learning_rate.png"])
    return [model_section(report["run"]), pictures_of_it, collapse_section(report["collapse"])]


def result_sections(report: Mapping, pictures: Sequence[str]) -> list[str]:
    """What was found, with its pictures; some of them may be empty."""
    labels = report["run"]["model"]["labels"]
    evaluated = [split for split, results in report["results"].items() if results is not None]
    sections = [headlines_section(report, evaluated), chosen_section(report["run"], evaluated)]
    for split in evaluated:
        results, forest = report["results"][split], f"subgroups_{split}.png"
        others = [name for name in pictures if name.endswith(f"_{split}.png") and name != forest]
        sections += [by_diagnosis_section(results, labels, split), embed(pictures, others)]
        if results["subgroups"] is not None:
            note = subgroups_note(report["run"]["data"])
            sections += [by_subgroup_section(results["subgroups"], split, note), embed(pictures, [forest])]
    if report["ablation"] is not None:
        note = ablation_note(report["run"]["data"])
        sections.append(ablation_section(report["ablation"], report["results"]["validation"]["metrics"], note))
    return sections


def headlines_section(report: Mapping, evaluated: Sequence[str]) -> str:
    lines = ["## Results", "", *table(*headlines_table(report, evaluated))]
    for sentence in absent_sentences(report):
        lines += ["", f"**{sentence}**"]
    lines += _melanoma_lines({split: report["results"][split] for split in evaluated})
    return "\n".join([*lines, "", f"{intervals_note(report['run']['data'])} {METRICS_NOTE}"])


def headlines_table(report: Mapping, evaluated: Sequence[str]) -> Table:
    header, columns = ["metric"], []
    for split in evaluated:
        results = report["results"][split]
        header.append(f"{split} ({results['images']:,} images)")
        columns.append({key: number(entry["value"], entry["interval"]) for key, entry in results["metrics"].items()})
        if results["always_nv"] is not None:
            header.append(f"always nv, {split}")
            columns.append({key: number(value) for key, value in results["always_nv"].items()})
    names = [name for name in HEADLINE if all(name in column for column in columns)]
    return header, [[HEADLINE[name], *(column[name] for column in columns)] for name in names]


def absent_sentences(report: Mapping) -> list[str]:
    """Of the splits without results."""
    splits = report["run"]["data"]["splits"]
    return [
        f"{split}: {splits[split]['images']:,} images, not asked about (do_predict: false)."
        if splits[split]["images"]
        else f"{split}: {splits[split]['absent_images']:,} images absent, not evaluated."
        for split, results in report["results"].items()
        if results is None
    ]


def _melanoma_lines(results: Mapping[str, Mapping]) -> list[str]:
    sentence = melanoma_sentence(results)
    return ["", sentence] if sentence else []


def melanoma_sentence(results: Mapping[str, Mapping]) -> str:
    """What the threshold of a model that has one finds, by split; "" of one that has none."""
    found = {split: of["melanoma_threshold"] for split, of in results.items() if "melanoma_threshold" in of}
    if not found:
        return ""
    rates = [
        f"{split}: sensitivity {number(of['sensitivity']['value'], of['sensitivity']['interval'])}, specificity "
        f"{number(of['specificity']['value'], of['specificity']['interval'])}"
        for split, of in found.items()
    ]
    threshold = number(next(iter(found.values()))["threshold"])
    return (
        f"Melanoma suspected where its probability is at least {threshold}, a threshold fitted on validation images "
        f"and optimistic there: {'; '.join(rates)}."
    )


def chosen_section(run: Mapping, evaluated: Sequence[str]) -> str:
    """How the checkpoint, or those of the members, were chosen; "" for a model of others."""
    model, training = run["model"], run["training"]
    if "members" in model and "validation" in evaluated:
        return (
            "The checkpoints of its members were chosen on the validation images"
            + (", and so were the members and their weights" if model["selected_by"] else "")
            + ". **The validation figures are optimistic for that reason**; the test images had no say in it."
        )
    if training is None:
        return ""
    if training["best_step"] is None:
        return f"The model is the last checkpoint, after step {training['steps']:,}."
    metric = str(training["best_metric"]).removeprefix("eval_")
    return (
        f"The model is the checkpoint after step {training['best_step']:,} of {training['steps']:,}, chosen by its "
        f"validation {HEADLINE.get(metric, escape(metric))} ({number(training['best_value'])}). **The validation "
        "figures are optimistic, for the checkpoint was chosen on them**; the test images had no say in it."
    )


def by_diagnosis_section(results: Mapping, labels: Sequence[str], split: str) -> str:
    title = f"## By diagnosis: {split} ({images_of_lesions(results)})"
    return "\n".join([title, "", *table(*diagnoses_table(results, labels))])


def diagnoses_table(results: Mapping, labels: Sequence[str]) -> Table:
    rows = []
    for label in labels:
        entries = {name: results["metrics"][f"{name}_{label}"] for name in ("precision", "recall", "f1", "auroc")}
        images = int(results["metrics"][f"support_{label}"]["value"])
        figures = [number(entry["value"], entry["interval"]) for entry in entries.values()]
        rows.append([full_name(label), f"{images:,}", *figures])
    return ["diagnosis", "images", "precision", "recall", "F1", "AUROC"], rows


def by_subgroup_section(subgroups: Mapping, split: str, note: str) -> str:
    lines = [f"## By subgroup: {split}"]
    for field, groups in subgroups.items():
        lines += ["", *table(*subgroups_table(field, groups))]
        if field == "dx_type":
            lines += ["", DX_TYPE_NOTE]
    return "\n".join([*lines, "", note])


def subgroups_table(field: str, groups: Sequence[Mapping]) -> Table:
    figures = [figure for figure in SUBGROUP_METRICS if figure in groups[0]["metrics"]]
    header = [FIELDS[field], "images", "lesions", "diagnoses", *(METRIC_NAMES[figure] for figure in figures)]
    rows = []
    for group in groups:
        counts = [_count(group[key]) for key in ("images", "lesions", "diagnoses")]
        rows.append([escape(group["group"]), *counts, *(_figure(group["metrics"][figure]) for figure in figures)])
    return header, rows


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _figure(entry: Mapping) -> str:
    return number(entry["value"], entry["interval"]) if entry["value"] is not None else entry["too_few"]


def ablation_section(ablation: Mapping, intact: Mapping, note: str) -> str:
    title = "## What the patient's data are worth: validation"
    return "\n".join([title, "", *table(*ablation_table(ablation, intact)), "", note])


def ablation_table(ablation: Mapping, intact: Mapping) -> Table:
    metrics = list(next(iter(ablation.values())))
    header = ["the patient's age, sex and body site"]
    for metric in metrics:
        header += [HEADLINE[metric], "difference"]
    rows = [["as they are"]]
    for metric in metrics:
        rows[0] += [number(intact[metric]["value"]), ""]
    for name, entries in ablation.items():
        rows.append([ABLATIONS[name]])
        for entry in entries.values():
            rows[-1] += [number(entry["value"]), difference(entry["difference"], entry["interval"])]
    return header, rows


def collapse_section(collapse: Mapping) -> str:
    lines = ["### Collapse check", "", collapse_sentences(collapse)]
    if collapse["evaluations"]:
        lines += ["", "<details><summary>At every evaluation</summary>", ""]
        lines += [*table(*collapse_table(collapse["evaluations"])), "", "</details>"]
    return "\n".join(lines)


def collapse_sentences(collapse: Mapping) -> str:
    saved, evaluations, steps = collapse["saved_model"], collapse["evaluations"], collapse["collapsed_steps"]
    collapsed = saved["top_class_share"] >= COLLAPSED_SHARE
    text = (
        f"The saved model gives one and the same answer to {_percent(saved['top_class_share'])} of the validation "
        f"images{': **it has collapsed**' if collapsed else ''}; the entropy of its answers is "
        f"{number(saved['predicted_class_entropy'])} nats. "
    )
    limit = f"one answer went to at least {_percent(COLLAPSED_SHARE)} of the images"
    if not evaluations:
        text += "The log does not have these figures of the training."
    elif not steps:
        text += f"There were no two evaluations running at which {limit}."
    else:
        still = steps[-1] == evaluations[-1]["step"]
        text += f"**The training collapsed: at two evaluations running, {limit}, first at step {steps[0]:,}**"
        text += ", and still at the end." if still else ", but not at the end."
    return text


def collapse_table(evaluations: Sequence[Mapping]) -> Table:
    rows = [
        [
            f"{entry['step']:,}",
            f"{entry['epoch']:.4g}",
            _percent(entry["top_class_share"]),
            number(entry["predicted_class_entropy"]),
        ]
        for entry in evaluations
    ]
    return ["step", "epoch", "most frequent answer", "entropy of the answers, nats"], rows


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def has_views(run: Mapping) -> bool:
    """Whether the run's figures are with test-time augmentation; older runs do not say, and are without."""
    return run["model"].get("test_time_augmentation", "none") != "none"


def model_section(run: Mapping) -> str:
    title = "## Model" if run["training"] is None else "## Training"
    return "\n".join([title, "", *table(["", ""], model_rows(run))])


def model_rows(run: Mapping) -> list[list[str]]:
    """Of the model and its training, what and which."""
    model, training = run["model"], run["training"]
    frozen = model["parameters"] - model["trainable_parameters"]
    rows = [
        [
            "model",
            f"{escape(model['name'])}" + (f", revision {escape(model['revision'])}" if model["revision"] else ""),
        ],
        ["architecture", escape(model["architecture"])],
        ["parameters", f"{model['parameters']:,}" + (f" ({frozen:,} of them frozen)" if frozen else "")],
        ["input", f"{model['image_size']} x {model['image_size']} pixels"],
    ]
    if has_views(run):
        rows.append(
            [
                "test-time augmentation",
                "the mean over several views of each image: " + escape(run["model"]["test_time_augmentation"]),
            ]
        )
    for member in model.get("members", []):
        rows.append(["member, weight", f"{escape(member['run'])}, {number(member['weight'])}"])
    if model.get("selected_by"):
        rows.append(["members chosen by", f"{HEADLINE[model['selected_by']]} of the validation images"])
    if calibration := model.get("calibration"):
        rows.append(["calibration", _calibration(calibration)])
    if training is None:
        return rows
    return rows + [
        ["training images", f"{training['images']:,}"],
        ["highest learning rate", f"{training['learning_rate']:g}"],
        ["epochs, steps", f"{training['epochs']:g}, {training['steps']:,}"],
        ["precision", escape(training["precision"]) + (", channels last" if training["channels_last"] else "")],
        ["processes", str(training["processes"])],
        ["time", _duration(training["seconds"])],
    ]


def _calibration(of: Mapping) -> str:
    adjusted = f"logits less {number(of['prior_strength'])} times the log of the training images' shares, then "
    return (
        (adjusted if of["prior_strength"] else "")
        + f"temperature {number(of['temperature'])}, fitted on {of['images']:,} validation images, whose "
        + ("figures are" if of["prior_strength"] else "log loss and calibration error are")
        + " for that reason optimistic"
    )


def data_section(data: Mapping) -> str:
    lines = [f"## Data: {escape(data['source'])}", ""]
    if data["synthetic"]:
        lines += [f"**{SYNTHETIC}**", ""]
    return "\n".join([*lines, *table(*data_table(data)), "", split_sentences(data)])


def data_table(data: Mapping) -> Table:
    labels = list(next(iter(data["splits"].values()))["classes"])
    rows = [
        [name, *(_count(split[key]) for key in ("images", "lesions", "absent_images"))]
        + [f"{split['classes'].get(label, 0):,}" for label in labels]
        for name, split in data["splits"].items()
    ]
    return ["split", "images", "lesions", "absent images", *map(escape, labels)], rows


def split_sentences(data: Mapping) -> str:
    seed = "" if data["split_seed"] is None else f", seed {data['split_seed']}"
    absent = sum(split["absent_images"] for split in data["splits"].values())
    text = f"Split: {escape(data['split'])}{seed}."
    if absent:
        text += f" {absent:,} images of the table were not there; the figures are about the ones that were."
    if dropped := data.get("dropped_rows"):
        listed = ", ".join(f"{escape(name)} {count:,}" for name, count in dropped.items())
        text += f" {sum(dropped.values()):,} rows of the table were dropped for their diagnosis ({listed})."
    if unknown := sum(split.get("unknown_lesions", 0) for split in data["splits"].values()):
        text += f" The lesions of {unknown:,} images are unknown."
    if data.get("split_by_default"):
        text += " It is the default for images that are neither HAM10000's nor in the model's training record."
    if unscored := data.get("not_scored"):
        row = "the model's prediction" if unscored["predicted"] else "a placeholder, the same for each diagnosis"
        name = escape(unscored["image_id"])
        text += f" {name}, which the challenge does not score, is in no figure; its row of the submission is {row}."
    return text


def audit_section(data: Mapping) -> str:
    near = data["audit"]["near_duplicates"]
    lines = ["### Leak audit", "", *table(["", "found"], audit_rows(data["audit"])), "", audit_sentences(near)]
    if near["pairs"]:
        lines += ["", "<details><summary>The pairs</summary>", "", *table(*pairs_table(near)), ""]
        rest = near["pairs_across_splits"] - len(near["pairs"])
        lines += [*([f"… and {rest:,} more.", ""] if rest > 0 else []), "</details>"]
    return "\n".join(lines)


def audit_rows(audit: Mapping) -> list[list[str]]:
    """What was looked for, and how many were found."""
    rows = [[escape(key.replace("_", " ")), _count(count)] for key, count in audit.items() if key != "near_duplicates"]
    return [*rows, ["near-duplicate images across splits", f"{audit['near_duplicates']['pairs_across_splits']:,}"]]


def audit_sentences(near: Mapping) -> str:
    grouped = " Lesions that share one were kept in one split." if near["grouped"] else ""
    return f"Near-duplicates by {escape(near['method'])}.{grouped}"


def pairs_table(near: Mapping) -> Table:
    pairs = [[escape(part) for part in pair] for pair in near["pairs"]]
    return ["image", "split", "image", "split", "distance"], pairs


_REPEATABLE = "yes: by the same command, with these versions and as many threads, on such a processor"


def provenance_section(run: Mapping) -> str:
    command = command_line(run)
    fence = fence_around(command)
    return "\n".join(["## Provenance", "", f"{fence}\n{command}\n{fence}", "", *table(["", ""], provenance_rows(run))])


def command_line(run: Mapping) -> str:
    trained, joined = run["training"] is not None, "members" in run["model"]
    subcommand = "train" if trained else "ensemble" if joined else "evaluate"
    return printable_lines(shlex.join(["ham-hf", subcommand, *map(str, run["argv"])]))


def provenance_rows(run: Mapping) -> list[list[str]]:
    trained = run["training"] is not None
    rows = []
    if trained:
        rows += [["recipe", escape(run["recipe"] or "none")], ["seed", str(run["seed"])]]
    rows += [
        ["split, SHA-256", escape(run["data"]["split_sha256"])],
        ["images, SHA-256", escape(run["data"]["images_sha256"])],
    ]
    if seen := run["data"].get("seen_before"):
        rows.append(["trained on before", f"{seen:,} other images; validation or test images may be among them"])
    weights = run["model"].get("weights_sha256", {})  # older runs do not say, nor does a judge of others' weights
    rows += [[escape(name) + ", SHA-256", escape(sha256)] for name, sha256 in weights.items()]
    if trained and "hindrances" in run["training"]:
        rows.append(
            ["the same again, to the byte", "; ".join(map(escape, run["training"]["hindrances"])) or _REPEATABLE]
        )
    rows += [[escape(key), escape(value)] for key, value in run["hardware"].items()]
    rows += [[escape(key), escape(value)] for key, value in run["versions"].items()]
    return rows


def fence_around(text: str) -> str:
    """What begins and ends a block of code with `text` in it: longer than any such line of its own."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def full_name(label: str) -> str:
    return f"{FULL_NAMES[label]} ({label})" if label in FULL_NAMES else escape(label)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    return (f"{hours} h " if hours else "") + f"{minutes} min {round(seconds) % 60} s"


def embed(pictures: Sequence[str], wanted: Sequence[str]) -> str:
    return "\n\n".join(
        f"![{name.removesuffix('.png').replace('_', ' ')}](plots/{name})" for name in wanted if name in pictures
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    numeric = len(header) > 2 or header[1] == "found"
    alignment = ["---"] + ["---:" if numeric else "---"] * (len(header) - 1)
    return [f"| {' | '.join(cells)} |" for cells in [header, alignment, *rows]]
