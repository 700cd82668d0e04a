"""`ham-hf verify` on a card of ours: its page, report.json and .eval_results against what is measured."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from ham_hf.card import claims, read_files, render_card
from ham_hf.cli import main
from ham_hf.report import write_report
from push_to_hub import EVAL_RESULTS, _add_eval_results, stage
from tests.small_data import make_rows, write_folder
from tests.test_predict import make_run_folder
from tests.test_report import change_facts, make_run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("my data") / "it's images_1", make_rows())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A run with a true card: the model's own answers, and the rest of a training's record."""
    folder = make_run_folder(tmp_path_factory.mktemp("runs") / "vit")
    evaluation = folder.with_name("evaluation")
    words = ["--data_dir", str(data), "--split", "grouped", "--split_seed", "3", "--output_dir", str(evaluation)]
    assert main(["evaluate", str(folder), *words]) == 0
    for path in [evaluation / "run.json", *evaluation.glob("*_*.csv")]:
        shutil.copy(path, folder)
    other = make_run(folder.with_name("other"), images=(20, 0))
    shutil.copy(other / "trainer_state.json", folder)
    change_facts(folder, training=json.loads((other / "run.json").read_text())["training"])
    (folder / "arguments.json").write_text(json.dumps({"data_dir": str(data)}, indent=2) + "\n")
    write_report(folder)
    return folder


@pytest.fixture()
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def verify(run, data, capsys, *words) -> tuple[int, str]:
    code = main(["verify", str(run), "--data_dir", str(data), *map(str, words)])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def report_of(run) -> dict:
    return json.loads((run / "report.json").read_text())


def set_report(run, report, card: bool = False) -> None:
    (run / "report.json").write_text(json.dumps(report))
    if card:
        pictures = sorted(path.name for path in (run / "plots").iterdir())
        (run / "README.md").write_text(render_card(report, pictures, read_files(run)))


# The page and report.json


def test_a_card_as_it_was_written_holds_also_where_it_was_published(run, data, tmp_path, capsys):
    code, shown = verify(run, data, capsys)
    assert code == 0 and "18 claims: 18 hold, 0 false, 0 cannot be told." in shown and "README.md, line" not in shown
    stage(run, tmp_path / "staged", repo_id="ada/skin-2")  # other paths, another name in the commands
    assert str(data) in (run / "README.md").read_text().replace("\\", "")
    assert str(data) not in (tmp_path / "staged" / "README.md").read_text().replace("\\", "")
    assert verify(tmp_path / "staged", data, capsys)[0] == 0


def test_an_edited_figure_of_a_table_is_caught_with_its_line(run, data, capsys):
    lines = (run / "README.md").read_text().split("\n")
    [at] = [number for number, line in enumerate(lines) if line.startswith("| balanced accuracy | ")]
    true = lines[at].split(" | ")[1].split()[0]
    lines[at] = lines[at].replace(true, ".987", 1)
    (run / "README.md").write_text("\n".join(lines))
    code, shown = verify(run, data, capsys)
    assert code == 1 and "18 hold, 0 false, 0 cannot be told. Not among them, above: 1." in shown
    assert re.search(
        rf"README.md, line {at + 1}: FALSE: balanced accuracy: \.987 .*, where report.json has \{true}", shown
    )


def test_a_line_with_a_figure_that_is_gone_or_added_is_caught(run, data, capsys):
    text = (run / "README.md").read_text()
    (run / "README.md").write_text(re.sub(r"\n\| log loss .*", "", text) + "\nBetter than 150 dermatologists.\n")
    code, shown = verify(run, data, capsys)
    assert code == 1 and "a line of report.json is missing here: | log loss" in shown
    assert "report.json makes no such line: Better than 150 dermatologists." in shown


def test_words_without_figures_may_be_added(run, data, capsys):
    with (run / "README.md").open("a") as file:
        file.write("\n## Thanks\n\nTo the dermatologists.\n")
    assert verify(run, data, capsys)[0] == 0


def test_an_edited_figure_of_report_json_is_caught_even_with_a_card_to_match(run, data, capsys):
    report = report_of(run)
    report["results"]["test"]["metrics"]["recall_mel"]["value"] = 0.95
    set_report(run, report)
    code, shown = verify(run, data, capsys)
    assert code == 1 and re.search(r"README.md, line \d+: FALSE: Melanoma \(mel\)", shown)
    assert "report.json, test: FALSE: metrics recall_mel value is 0.95, measured " in shown
    set_report(run, report, card=True)
    code, shown = verify(run, data, capsys)
    assert code == 1 and "README.md, line" not in shown and "recall_mel value is 0.95" in shown


def test_edited_subgroups_and_counts_are_caught(run, data, capsys):
    report = report_of(run)
    report["results"]["test"]["confusion_matrix"][0][0] += 1
    report["results"]["validation"]["always_nv"]["accuracy"] = 0.5
    set_report(run, report, card=True)
    code, shown = verify(run, data, capsys)
    assert code == 1 and "confusion_matrix 1 1 is" in shown and "validation: FALSE: always_nv accuracy is 0.5" in shown
    report = report_of(run)
    report["results"]["test"]["subgroups"]["sex"][0]["images"] += 1
    set_report(run, report, card=True)
    assert "its subgroups are not those of the patients in this copy" in verify(run, data, capsys)[1]


def test_a_page_of_another_version_or_of_ones_own_cannot_be_told(run, data, capsys):
    report = report_of(run)
    text = (run / "README.md").read_text()
    (run / "README.md").write_text(text.replace("| log loss", "| logarithmic loss 2"))
    set_report(run, report | {"ham_hf": "0.0.1"})
    code, shown = verify(run, data, capsys)
    assert code == 2 and "differs from what report.json makes, but that is of ham_hf 0.0.1" in shown
    (run / "README.md").write_text(text.split("\n---\n")[0] + "\n---\n\n# My model\n\nIt is 99 % right.\n")
    code, shown = verify(run, data, capsys)
    assert code == 2 and "another page than report.json makes" in shown


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda report: report["run"]["model"].pop("labels"),
            "report.json: cannot tell: not as `ham-hf report` writes",
        ),
        (lambda report: report["results"].update(test=[]), "report.json: cannot tell: not as `ham-hf report` writes"),
        (lambda report: report["run"]["data"]["splits"]["test"].update(sha256="0" * 64), "other images than these"),
    ],
)
def test_a_report_json_that_cannot_be_compared_is_told(run, data, capsys, change, said):
    report = report_of(run)
    change(report)
    set_report(run, report)
    code, shown = verify(run, data, capsys)
    assert code in (1, 2) and said in shown


def test_a_report_json_that_is_none_of_ours_is_left_alone_and_one_that_is_no_json_is_an_error(run, data, capsys):
    (run / "report.json").write_text('{"accuracy": 0.5}')
    assert verify(run, data, capsys)[0] == 0
    (run / "report.json").write_text("{")
    code, shown = verify(run, data, capsys)
    assert code == 2 and "report.json is not readable as JSON" in shown


# .eval_results


@pytest.fixture()
def published(run, tmp_path):
    """As `push_to_hub.py --eval_results` stages it, without README.md and report.json: these claims alone."""
    stage(run, tmp_path / "staged", repo_id="ada/skin")
    _add_eval_results(tmp_path / "staged")
    for name in ("README.md", "report.json"):
        (tmp_path / "staged" / name).unlink()
    return tmp_path / "staged"


def test_eval_results_hold_what_the_card_claims(run, published):
    entries = parse_eval_result_entries(yaml.safe_load((published / EVAL_RESULTS).read_text()))
    expected = claims(report_of(run))
    assert [entry.value for entry in entries] == [claim.metric_value for claim in expected] and len(entries) == 18
    assert {entry.task_id for entry in entries} >= {"validation_balanced_accuracy", "test_macro_f1"}
    assert ModelCard.load(run / "README.md").data.eval_results[0].dataset_revision in entries[0].notes


def test_claims_in_eval_results_alone_are_checked_like_those_of_a_card(published, data, capsys):
    code, shown = verify(published, data, capsys)
    assert code == 0 and "18 claims: 18 hold" in shown and f"holds ({EVAL_RESULTS})" in shown
    entries = yaml.safe_load((published / EVAL_RESULTS).read_text())
    entries[0]["value"] += 0.05
    entries[1]["notes"] = entries[1]["notes"].replace("95 % interval: 0", "95 % interval: 0.9; was: 0")
    (published / EVAL_RESULTS).write_text(yaml.safe_dump(entries))
    code, shown = verify(published, data, capsys)
    assert code == 1 and f"FALSE: same images, another figure ({EVAL_RESULTS})" in shown
    assert "claims are in .eval_results alone" in verify(published, data, capsys, "--write", "README.md")[1]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("- dataset: {id: a/b, task_id: test_accuracy}\n  value: 0.99\n", 1, "outside the interval"),
        ("- dataset: {id: a/b, task_id: test_accuracy}\n  value: good\n", 2, "'good' is no number"),
        ("- dataset: {id: a/b, task_id: test_accuracy}\n  value: .nan\n", 2, "nan is no number"),
        ("- dataset: {id: a/b, task_id: test_accuracy}\n  value: [1]\n", 2, "[1] is no number"),
        (f"- dataset: {{id: a/b, task_id: test_accuracy}}\n  value: 1{'0' * 400}\n", 2, "a number has 401 characters"),
        ("- dataset: {id: a/b, task_id: accuracy}\n  value: 0.99\n", 2, "--part validation or --part test says"),
        ("- dataset: {id: a/b, task_id: 5}\n  value: 0.99\n", 2, "it is about the split None"),
        ("- dataset: {id: a/b}\n  value: 0.99\n", 2, "ham10000.yaml cannot be read (no 'task_id')"),
        ("- dataset: skin\n  value: 0.99\n", 2, "ham10000.yaml cannot be read"),
        ("dataset: skin\n", 2, "ham10000.yaml cannot be read (no list of results)"),
        ("- {", 2, "ham10000.yaml is not readable YAML"),
        ("", 2, "ham10000.yaml cannot be read (no list of results)"),
    ],
)
def test_eval_results_of_others_and_broken_ones(published, data, capsys, text, code, said):
    (published / EVAL_RESULTS).write_text(text)
    found, shown = verify(published, data, capsys, "--split", "grouped", "--split_seed", "3")
    assert (found, said in shown) == (code, True), shown
