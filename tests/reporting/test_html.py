"""report.html: that it needs nothing, says what report.json says, and can be read by everyone."""

import base64
import hashlib
import json
import re
from importlib import resources
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from ham_hf.config.metric_names import HEADLINE
from ham_hf.evaluation.metrics import calibration_bins
from ham_hf.evaluation.patients import Patients, write_patients
from ham_hf.evaluation.predictions import Predictions, read_predictions
from ham_hf.labels import DIAGNOSES, DISCLAIMER, LABELS
from ham_hf.reporting.formats import escape, number
from ham_hf.reporting.html import most_confident_errors, render_html
from ham_hf.reporting.rendering import inline
from ham_hf.reporting.report import build_report, read_run, write_report
from tests.helpers.fake_runs import add_patients, change_facts, make_run, same_lesion

CSS = resources.files("ham_hf.reporting").joinpath("templates/report.css").read_text("utf-8")
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big")
PICTURES = ["loss.png", "learning_rate.png"]
PICTURES += [
    f"{kind}_{split}.png" for kind in ("roc", "reliability", "precision_recall") for split in ("validation", "test")
]
HOSTILE = '</td></script><script>alert("x")</script> {{ 7 * 7 }} *a* `b` \\ & \'"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A reported run with patients, and pictures of them."""
    run = make_run(tmp_path_factory.mktemp("runs") / "run", images=(150, 130))
    add_patients(run, age=50)
    add_patients(run, "test", age=50)
    change_facts(run, model__melanoma_threshold=0.2)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def report(run):
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(run):
    return (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(page):
    return ElementTree.fromstring(page)


def rendered(run) -> ElementTree.Element:
    """The page of a run folder, with pictures that are none: drawing them is what takes time."""
    found = read_run(run)
    return ElementTree.fromstring(render_html(build_report(found), dict.fromkeys(PICTURES, PNG), found.predictions))


def words(element) -> str:
    """Return the text of the page, without style and script."""
    texts = [word for part in element.iter() if part.tag not in ("style", "script") for word in (part.text, part.tail)]
    return " ".join(" ".join(filter(None, texts)).split())


def text(element) -> str:
    return " ".join("".join(element.itertext()).split())


def table(tree, caption: str) -> list[list[str]]:
    """Header and rows of the one whose caption starts like that."""
    [found] = [table for table in tree.iter("table") if text(table.find("caption")).startswith(caption)]
    return [[text(cell) for cell in row] for row in found.iter("tr")]


def tiles(tree) -> dict[str, dict[str, str]]:
    """Return the figures of the first split by name."""
    first = next(part for part in tree.iter("ul") if part.get("class") == "tiles")
    found = [{part.get("class"): text(part) for part in tile.iter("p")} for tile in first]
    return {tile["name"]: tile for tile in found}


# One file


def test_the_page_needs_nothing_but_itself(page, tree):
    links = {part.get(name) for part in tree.iter() for name in ("src", "href") if part.get(name)} - {"data:,"}
    assert [link for link in links if not link.startswith(("data:image/png;base64,", "#"))] == []
    assert not re.search(r"https?:|@import|url\(|\bfetch\b|<(iframe|object|embed|form)\b", page)
    assert len(page.encode()) < 2e6


def test_nothing_but_its_own_style_and_script_is_allowed(tree):
    [policy] = [meta.get("content") for meta in tree.iter("meta") if meta.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for kind in ("style", "script"):
        [element] = tree.iter(kind)
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert rules.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert rules == {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    assert [name for part in tree.iter() for name in part.keys() if name == "style" or name.startswith("on")] == []


def test_it_embeds_exactly_the_figures_of_the_report(run, tree):
    shown = {base64.b64decode(image.get("src").split(",")[1]) for image in tree.iter("img")}
    files = {path.name: path.read_bytes() for path in (run / "plots").iterdir() if "confusion" not in path.name}
    assert shown == set(files.values()) and len(shown) == 10
    [loss] = [image for image in tree.iter("img") if image.get("alt").startswith("Curves of training")]
    assert [int(loss.get(name)) for name in ("width", "height")] == [792, 462]


def test_it_is_made_from_report_json_and_predictions_only(run, report, page):
    pictures = {path.name: path.read_bytes() for path in (run / "plots").iterdir()}
    assert render_html(report, pictures, read_run(run).predictions) == page


# What it says


def test_it_begins_with_the_intended_use(tree):
    shown = words(tree.find("body"))
    note = next(part for part in tree.iter() if part.get("role") == "note")
    assert DISCLAIMER in text(note) and "Not for clinical decisions" in text(note)
    assert shown.index(DISCLAIMER) < shown.index("How good is the model?")
    for said in (
        "chosen by its validation balanced accuracy (.741)",
        "validation figures are optimistic",
        "nothing here shows how well the model works on darker skin",
        "ham-hf explain RUN --data_dir path/to/HAM10000 --part validation --output_dir cases",
        "ab" * 32,
    ):
        assert said in shown, said


def test_the_tiles_show_the_headline_metrics(tree, report):
    results = report["results"]["test"]
    shown = tiles(tree)
    assert list(shown) == [
        "balanced accuracy",
        "accuracy",
        "macro AUROC",
        "melanoma recall",
        "calibration error (ECE)",
    ]
    for key, name in {
        "balanced_accuracy": "balanced accuracy",
        "recall_mel": "melanoma recall",
        "ece": HEADLINE["ece"],
    }.items():
        value, (low, high) = results["metrics"][key]["value"], results["metrics"][key]["interval"]
        assert shown[name]["value"] == number(value)
        assert shown[name]["interval"] == f"95 % interval {number(low)} to {number(high)}"
        said = f"about {100 * value:.0f} (95 % interval {100 * low:.0f} to {100 * high:.0f})"
        assert said in shown[name]["words"].lower()
    assert shown["accuracy"]["always"] == f"always nv {number(results['always_nv']['accuracy'])}"
    assert f"sensitivity {number(results['melanoma_threshold']['sensitivity']['value'])} [" in words(tree)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_tables_match_report_json(tree, report, run, split):
    results = report["results"][split]
    headlines = table(tree, f"Headline metrics, {split}")[1:]
    assert [row[0] for row in headlines] == list(HEADLINE.values())
    assert [row[1].split()[0] for row in headlines] == [number(results["metrics"][name]["value"]) for name in HEADLINE]
    matrix = table(tree, f"Confusion matrix, {split}")[1:]
    assert [[int(cell.split()[0]) for cell in row[1:-1]] for row in matrix] == results["confusion_matrix"]
    assert [int(row[-1]) for row in matrix] == [results["metrics"][f"support_{label}"]["value"] for label in LABELS]
    diagnoses = table(tree, f"By diagnosis, {split}")
    assert diagnoses[0] == ["diagnosis", "images", "precision", "recall", "F1", "AUROC"]
    assert [row[0] for row in diagnoses[1:]] == [f"{name} ({code})" for code, name in DIAGNOSES.items()]
    assert [row[3].split(" [")[0] for row in diagnoses[1:]] == [
        number(results["metrics"][f"recall_{label}"]["value"]) for label in LABELS
    ]
    groups = results["subgroups"]["sex"]
    assert [(row[0], int(row[1]), row[4].split(" [")[0]) for row in table(tree, f"By sex, {split}")[1:]] == [
        (group["group"], group["images"], number(group["metrics"]["accuracy"]["value"])) for group in groups
    ]
    predictions = read_predictions(run / f"predictions_{split}.csv")
    bins = zip(*calibration_bins(predictions.probabilities, predictions.labels), strict=True)
    assert table(tree, f"Bins of equal mass, {split}")[1:] == [[number(a), number(b), f"{n}"] for a, b, n in bins]


def test_no_figure_comes_from_anywhere_else(tree, report, run):
    known = set(re.findall(r"-?\d*\.\d+", json.dumps(report)))
    for split in ("validation", "test"):
        predictions = read_predictions(run / f"predictions_{split}.csv")
        known |= {repr(value) for value in predictions.probabilities.ravel().tolist()}
        known.add(repr(float(predictions.probabilities.max(1).mean())))
        for column in calibration_bins(predictions.probabilities, predictions.labels):
            known |= {repr(float(value)) for value in column}
    allowed = {number(float(value)) for value in known} | {".90"}  # of the sentence that explains calibration
    shown = words(tree.find("body")) + " ".join(image.get("alt") for image in tree.iter("img"))
    figures = set(re.findall(r"(?<![\w.])-?1?\.\d+", shown))
    assert len(figures) > 100 and figures - allowed - {number(1.0)} == set()


def test_frequent_errors_and_missed_malignant_images_are_counted(tree, report):
    matrix = np.array(report["results"]["test"]["confusion_matrix"])
    malignant = [LABELS.index(label) for label in ("akiec", "bcc", "mel")]
    missed = matrix[malignant].sum() - matrix[np.ix_(malignant, malignant)].sum()
    shown = words(tree)
    assert f"{missed} of {matrix[malignant].sum()} images with a malignant diagnosis (akiec, bcc, mel) were" in shown
    wrong = matrix - np.diag(np.diag(matrix))
    truth, answer = np.unravel_index(wrong.argmax(), wrong.shape)
    first = next(part for part in tree.iter("ol"))[0]
    assert text(first).startswith(
        f"{DIAGNOSES[LABELS[truth]]} ({LABELS[truth]}) classified as {DIAGNOSES[LABELS[answer]]}"
    )
    assert text(first).endswith(f": {wrong.max()} of {matrix[truth].sum()} images")


def test_the_most_confident_errors_are_chosen_by_the_rule():
    rows = [  # lesion, truth, probabilities of a and b
        ("L1", 0, 0.10),
        ("L1", 0, 0.30),  # the same lesion, less sure
        ("L2", 0, 0.20),
        ("L3", 0, 0.45),
        ("L4", 0, 0.40),
        ("L5", 0, 0.90),  # right
        ("L6", 1, 0.05),  # right
    ]
    of_a = np.array([row[2] for row in rows])
    predictions = Predictions(
        [f"I{number}" for number in range(len(rows))],
        [row[0] for row in rows],
        np.array([row[1] for row in rows]),
        np.stack([of_a, 1 - of_a], axis=1),
        ("a", "b"),
    )
    found = most_confident_errors(predictions)
    assert [case.image_id for case in found] == ["I0", "I2", "I4"]
    assert found[0] == ("a", "I0", "b", 0.9, 0.1)


def test_the_most_confident_errors_are_validation_images(tree, run):
    cases = table(tree, "Most confident errors, validation")[1:]
    ids = read_predictions(run / "predictions_validation.csv").image_ids
    assert cases and {row[1] for row in cases} <= set(ids)
    assert [row for row in cases if row[0] == row[2]] == []


# What comes from data


def test_hostile_names_are_shown_unchanged(tmp_path):
    run = make_run(tmp_path / "run", images=(90, 0))
    ids = read_predictions(run / "predictions_validation.csv").image_ids
    patients = Patients([50] * 90, ["female"] * 90, [HOSTILE] * 90, ["histo"] * 90)
    write_patients(run / "patients_validation.csv", ids, patients)
    change_facts(run, data__source=HOSTILE, model__name=HOSTILE, argv=[HOSTILE], versions={HOSTILE: HOSTILE})
    change_facts(run, data__audit__near_duplicates__pairs=[[HOSTILE, "train", "b", "test", 1]], recipe=HOSTILE)
    tree = rendered(run)
    assert len(list(tree.iter("script"))) == 1
    assert {image.get("src")[:22] for image in tree.iter("img")} == {"data:image/png;base64,"}
    assert HOSTILE in text(tree.find("head/title")) and HOSTILE in text(next(tree.iter("h1")))
    assert [row[0] for row in table(tree, "By body site")[1:]] == [HOSTILE]
    assert table(tree, "Near-duplicates across splits")[1][0] == HOSTILE
    assert ["recipe", HOSTILE] in table(tree, "Recipe, hashes")


@pytest.mark.parametrize("value", ["a", "**a**", "\\*a*", "`x` & <b>", "\\", "a\\", "'\"", "1 * 2 * 3", "[a](b)"])
def test_escaped_markdown_is_shown_unchanged(value):
    assert inline(f"**{escape(value)}**").striptags() == value
    assert inline(escape(value)).unescape() == value


# Kinds of runs


def test_a_run_without_test_images_or_patients_says_so(tmp_path):
    shown = words(rendered(make_run(tmp_path / "run", images=(40, 0), synthetic=True)))
    assert "test: 2,001 images missing, not evaluated." in shown
    assert "Not available for the validation images: the run folder has no patients_validation.csv." in shown
    assert shown.index("Made from synthetic images") < shown.index("How good is the model?")
    assert "Not for clinical decisions" not in shown and "light skin" not in shown


def test_two_diagnoses_have_a_page(tmp_path):
    run = make_run(tmp_path / "run", images=(0, 40), names=("nv", "other"))
    change_facts(run, training=None)
    tree = rendered(run)
    assert list(tiles(tree)) == ["balanced accuracy", "accuracy", "macro AUROC", "calibration error (ECE)"]
    shown = words(tree)
    assert "Trained elsewhere, evaluated with ham_hf" in shown and "from one collection" not in shown
    assert "malignant diagnosis" not in shown and "ham-hf explain" not in shown
    assert len(table(tree, "Most confident errors, test")) > 1


def test_an_absent_diagnosis_is_a_dash(tmp_path):
    run = make_run(tmp_path / "run", images=(40, 0))
    path = run / "predictions_validation.csv"
    path.write_text(path.read_text().replace(",df,0", ",nv,0").replace(",mel,0", ",nv,0"))
    tree = rendered(run)
    assert tiles(tree)["melanoma recall"] == {"name": "melanoma recall", "value": "–", "interval": "", "words": ""}
    [row] = [row for row in table(tree, "By diagnosis") if row[0] == "Dermatofibroma (df)"]
    assert row[1:] == ["0", "–", "–", "–", "–"]


def test_the_value_of_patient_data_is_shown(tmp_path):
    run = make_run(tmp_path / "run", images=(40, 0))
    change_facts(run, model__fusion="mmbt")
    found = read_run(run)
    entry = {"value": 0.5, "difference": -0.123, "interval": [-0.2, -0.05]}
    report = build_report(found) | {"ablation": {"age_hidden": {"balanced_accuracy": entry}}}
    tree = ElementTree.fromstring(render_html(report, dict.fromkeys(PICTURES, PNG), found.predictions))
    assert table(tree, "The same model with")[2] == ["age hidden", ".500", "-.123 [-.200, -.050]"]
    assert "ham-hf explain" not in words(tree)  # it is for models of the image alone


def test_an_ensemble_lists_its_members_and_the_explain_command(tmp_path):
    run = make_run(tmp_path / "run", images=(40, 0))
    members = [{"run": "runs/<a>", "weight": 0.5, "base": "x", "base_revision": None}] * 2
    change_facts(run, training=None, model__members=members, model__selected_by="macro_f1")
    change_facts(run, data__split="grouped", data__split_seed=3, data__same_lesion=same_lesion("decisions.csv"))
    shown = words(rendered(run))
    assert "The mean of 2 models trained with ham_hf." in shown and "member, weight runs/<a>, .500" in shown
    assert "and so were the members and their weights" in shown
    grouped = "--split grouped --split_seed 3 --same_lesion path/to/decisions.csv --allow_missing_images"
    assert f"{grouped} --output_dir cases" in shown


def test_a_collapsed_training_says_when(tmp_path):
    run = make_run(tmp_path / "run", images=(40, 0))
    log = [{"eval_top_class_share": 1.0, "eval_predicted_class_entropy": 0.0, "step": n, "epoch": n} for n in (1, 2)]
    (run / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    tree = rendered(run)
    assert "The training collapsed" in words(tree)
    assert [row[2] for row in table(tree, "Predictions at every evaluation")[1:]] == ["100.0 %", "100.0 %"]


# Who can read it


def test_headings_are_in_order_and_links_have_targets(tree):
    levels = [int(part.tag[1]) for part in tree.iter() if re.fullmatch("h[1-6]", part.tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [part.get("id") for part in tree.iter() if part.get("id")]
    assert len(ids) == len(set(ids))
    named = [part.get("aria-labelledby") for part in tree.iter() if part.get("aria-labelledby")]
    linked = [part.get("href")[1:] for part in tree.iter("a")]
    assert set(named + linked) <= set(ids) and linked[0] == "results"
    assert tree.get("lang") == "en" and text(tree.find("head/title"))
    assert [part.tag for part in tree.find("body")] == ["a", "header", "nav", "main", "footer", "script"]


def test_figures_have_alt_texts_and_tables_have_captions_and_scopes(tree):
    alts = [image.get("alt") for image in tree.iter("img")]
    assert len(alts) == 10 and all(len(alt) > 30 for alt in alts)
    assert any(re.search(r"Recall ranges from \.\d+ \(\w+\) to 1?\.\d+ \(\w+\)\.", alt) for alt in alts)
    for found in tree.iter("table"):
        assert found[0].tag == "caption" and text(found[0])
        assert {cell.get("scope") for cell in found.iter("th")} <= {"col", "row"}
        for row in found.find("tbody"):
            assert [cell.tag for cell in row] == ["th"] + ["td"] * (len(row) - 1)
    regions = [part for part in tree.iter() if part.get("class") == "scroll"]
    assert all(
        part.get("tabindex") == "0" and part.get("role") == "group" and part.get("aria-label") for part in regions
    )


def luminance(color: str) -> float:
    """WCAG 2.2's relative luminance."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_colors_have_enough_contrast(dark):
    blocks = re.findall(r":root \{(.*?)\}", CSS, flags=re.DOTALL)
    assert len(blocks) == 2
    colors = {
        name: color for block in blocks[: 1 + dark] for name, color in re.findall(r"--([\w-]+): (#\w{6});", block)
    }
    texts = [(ink, ground) for ink in ("ink", "muted", "link") for ground in ("paper", "panel")]
    texts += [("warning-ink", "warning"), *((f"shade-{level}-ink", f"shade-{level}") for level in range(6))]
    assert {pair: contrast(*map(colors.get, pair)) for pair in texts if contrast(*map(colors.get, pair)) < 4.5} == {}
    marks = [("mark", "paper"), ("mark", "panel"), ("mark", "band"), ("always", "panel"), ("warning-line", "paper")]
    assert {pair: contrast(*map(colors.get, pair)) for pair in marks if contrast(*map(colors.get, pair)) < 3} == {}
