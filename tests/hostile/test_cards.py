"""Broken and hostile cards: claims of every kind, bombs and scripts; and what of them reaches a terminal or a page."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from ham_hf.cli.main import main
from ham_hf.hub.verify.claim_check import Evidence, Verdict, check_claim
from ham_hf.hub.verify.claims import read_claims
from ham_hf.hub.verify.result import Verification, render
from ham_hf.hub.verify.verify import _split_of, write_corrected
from ham_hf.inference.predict import table
from ham_hf.labels import LABELS
from ham_hf.reporting.eval_results import FOLDER, render_eval_results
from ham_hf.reporting.formats import escape
from ham_hf.reporting.report import write_report
from ham_hf.system.errors import InputError
from ham_hf.system.terminal import printable, printable_lines
from tests.helpers.fake_runs import change_facts, make_run
from tests.hostile.cases import ESCAPES, JUNK, blank_pictures, broken, cases, changed, ends_well, within
from tests.hostile.test_recipes import BOMBS

HASHES = {"train": "0" * 64, "validation": "1" * 64, "test": "2" * 64}
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    """A run folder with its report and card; no pictures."""
    run = make_run(tmp_path_factory.mktemp("cards") / "run", images=(40, 40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ham_hf.reporting.plots.draw_plots", blank_pictures)
        write_report(run)
    return run


@pytest.fixture(scope="module")
def measured(reported) -> dict:
    return json.loads((reported / "report.json").read_text())["results"]


@pytest.fixture(scope="module")
def front(reported) -> dict:
    """A card's front matter as values, with three of its claims."""
    text = (reported / "README.md").read_text()
    values = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    values["model-index"][0]["results"] = values["model-index"][0]["results"][:2]
    return values


def verified(folder: Path, measured: dict) -> str:
    """Return what `ham-hf verify` would print about the claims in `folder`, without a model."""
    claims = read_claims(folder)
    try:
        _split_of(claims, None)
    except InputError:
        pass  # asks for --split
    data = {"splits": {name: {"sha256": sha256} for name, sha256 in HASHES.items()}, "split": "study"}
    data |= {
        "split_seed": None,
        "same_lesion": {"list": "none"},
        "synthetic": False,
        "kind": "folder",
        "source": "HAM10000",
    }
    evidence = Evidence(measured, data, "diagnoses", True, {})
    verdicts = [check_claim(claim, None, evidence) for claim in claims]
    shown = render(Verification(verdicts, [], ["nothing"]))
    assert all(line.isprintable() and len(line) < 2000 for line in shown.splitlines())
    return shown


@cases(250)
@given(st.data())
def test_a_card_with_other_values_is_verified_or_refused(front, measured, tmp_path_factory, draw):
    folder = tmp_path_factory.getbasetemp() / "card"
    folder.mkdir(exist_ok=True)
    values = draw.draw(changed(front, (*JUNK, "accuracy", "f1", {"split_seed": -1}, {"interval": ["x"]}, 99.5)))
    dumped = json.dumps(values) if draw.draw(st.booleans()) else yaml.safe_dump(json.loads(json.dumps(values)))
    (folder / "README.md").write_text(f"---\n{dumped}\n---\n\n# Skin\n", encoding="utf-8", errors="replace")
    ends_well("cards, other values", lambda: verified(folder, measured))


@cases(150)
@given(st.data())
def test_a_broken_card_is_verified_or_refused(front, measured, tmp_path_factory, draw):
    folder = tmp_path_factory.getbasetemp() / "card"
    folder.mkdir(exist_ok=True)
    text = f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# Skin\n"
    (folder / "README.md").write_bytes(draw.draw(broken(text.encode())))
    ends_well("cards, broken anywhere", lambda: verified(folder, measured))


@cases(150)
@given(st.data())
def test_eval_results_with_other_values_are_verified_or_refused(reported, measured, tmp_path_factory, draw):
    folder = tmp_path_factory.getbasetemp() / "eval"
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    original = yaml.safe_load(render_eval_results(json.loads((reported / "report.json").read_text())))[:2]
    if draw.draw(st.booleans()):
        content = json.dumps(draw.draw(changed(original))).encode()
    else:
        content = draw.draw(broken(yaml.safe_dump(original).encode()))
    (folder / FOLDER / "ham10000.yaml").write_bytes(content)
    ends_well(".eval_results", lambda: verified(folder, measured))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_in_a_card_is_refused_at_once(name, tmp_path):
    for path in (tmp_path / "README.md", tmp_path / FOLDER / "x.yaml"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"---\n{BOMBS[name]}\n---\n" if path.suffix == ".md" else BOMBS[name])
        with within(60):
            if path.suffix == ".md":
                with pytest.raises(InputError, match="README.md is not readable YAML"):
                    read_claims(tmp_path)
            else:
                [claim] = read_claims(tmp_path)
                assert "x.yaml is not readable YAML" in claim.problem
        path.unlink()


def test_aliases_as_yaml_dump_writes_them_are_read(front, tmp_path):
    """PyYAML writes repeated values as aliases, and published cards contain them."""
    result = front["model-index"][0]["results"][0]
    values = front | {"model-index": [{"name": "skin", "results": [result, result | {"metrics": result["metrics"]}]}]}
    text = yaml.safe_dump(values)
    assert "*id001" in text
    (tmp_path / "README.md").write_text(f"---\n{text}---\n")
    assert len(read_claims(tmp_path)) >= 2


def test_a_card_cannot_draw_on_the_terminal(tmp_path, measured, front):
    result = json.loads(json.dumps(front["model-index"][0]["results"][0]))
    result["dataset"] |= {"split": f"test{ESCAPES}", "config": ESCAPES, "revision": ESCAPES}
    result["metrics"] = [{"type": f"accuracy{ESCAPES}", "value": ESCAPES + "x" * 10_000, "name": "a"}]
    values = {"model-index": [{"name": "skin", "results": [result]}]}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps(values)}\n---\n")
    shown = verified(tmp_path, measured)
    assert "\x1b" not in shown and r"test\x1b[2J" in shown and len(shown) < 2000


def test_a_corrected_card_does_not_follow_a_link(reported, tmp_path):
    copy = shutil.copytree(reported, tmp_path / "run")
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (copy / name).touch()
    private, link = tmp_path / "private.md", tmp_path / "corrected.md"
    private.write_text("mine")
    link.symlink_to(private)
    verdicts = [Verdict(claim, 0.5, (0.4, 0.6), "FALSE", "") for claim in read_claims(copy)]
    write_corrected(str(copy), None, verdicts, link)
    assert private.read_text() == "mine" and not link.is_symlink()
    assert {result.metric_value for result in ModelCard.load(link).data.eval_results} == {0.5}


# What goes into a page


HOSTILE_NAMES = (
    *(SCRIPT, "a|b|c", "[x](javascript:alert(1))", "![x](http://example.com/x.png)"),
    *("`code` **bold** _it_ ~~no~~ # h", "\n\n# heading\n\n- item\n", "```\n<b>out</b>\n```", "</details></table>"),
    *("&lt;b&gt; &#60;script&#62;", "$x^2$", ESCAPES, "\u202egnp.exe"),
)


def html_of(page: str) -> str:
    """The page's lines outside of blocks of code, less what a backslash keeps from being read as Markdown or HTML."""
    outside, fence = [], None
    for line in page.splitlines():
        opening = re.match(r"^(`{3,})", line)
        if fence is None and opening:
            fence = opening[1]
        elif fence is not None and line.strip() == fence:
            fence = None
        elif fence is None:
            outside.append(re.sub(r"\\[!-/:-@[-`{-~]", "", line))
    assert fence is None, "a block of code does not end"
    return "\n".join(outside)


def test_no_name_of_others_becomes_html_or_markdown(tmp_path):
    expected = None
    for number, name in enumerate(("harmless", *HOSTILE_NAMES)):
        run = make_run(tmp_path / f"run{number}", images=(12, 12))
        change_facts(
            run,
            recipe=name,
            argv=[name, "--data_dir", name],
            data__source=name,
            data__kind="hub",
            data__split=name,
            model__name=f"owner/{name}",
            model__revision=name,
            model__architecture=name,
            model__test_time_augmentation=name,
            training__precision=name,
            training__hindrances=[name],
            hardware={"processor": name, "x" + name: name},
            versions={"python": name},
        )
        facts = json.loads((run / "run.json").read_text())
        facts["data"]["audit"]["near_duplicates"] |= {"method": name, "pairs": [[name, "train", name, "test", name]]}
        facts["data"]["audit"][f"kind {name}"] = 3
        facts["model"]["weights_sha256"] = {name: name}
        (run / "run.json").write_text(json.dumps(facts))
        (run / "recipe.yaml").write_text(f"# {name}\n{name}\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ham_hf.reporting.plots.draw_plots", blank_pictures)
            write_report(run)
        shapes = []
        for page in ("README.md",):
            text = (run / page).read_text(encoding="utf-8")
            text = text.split("\n---\n", 1)[-1] if page == "README.md" else text  # behind the front matter
            body = html_of(text)
            assert not re.search("<(script|img|b>)", body), name
            assert "](javascript" not in body and "](http://example" not in body
            assert "\x1b" not in text and "\u202e" not in text
            # As many headings, rows, columns and blocks as with a harmless name
            shapes.append(
                [
                    len(re.findall(pattern, body, flags=re.MULTILINE))
                    for pattern in (r"^#+ ", r"^\|", r"\|", r"</?details", r"^- ", "`", r"\*\*")
                ]
            )
        browser = (run / "report.html").read_text(encoding="utf-8")
        assert SCRIPT not in browser and "<b>out" not in browser
        expected = expected or shapes
        assert shapes == expected, name


def test_escaping_is_reversible():
    for name in HOSTILE_NAMES:
        assert re.sub(r"\\([!-/:-@[-`{-~])", r"\1", escape(name)) == printable(" ".join(name.split()))


def test_unprintable_characters_are_spelled_out():
    assert printable("Nävus ± 5 µm – 皮膚") == "Nävus ± 5 µm – 皮膚"
    assert printable("a\tb\r\n\x1b[0m\x9b\udcff\u202e") == r"a\tb\r\n\x1b[0m\x9b\udcff\u202e"
    assert printable_lines("a\x07\n\tb") == "a\\x07\n\tb"


def test_a_photographs_name_cannot_draw_on_the_terminal():
    shown = table(Path(f"photo{ESCAPES}\nMelanoma 0.0001.jpg"), np.eye(7)[5])
    assert "\x1b" not in shown and len(shown.splitlines()) == 1 + len(LABELS)
    assert shown.startswith(r"photo\x1b[2J\x1b]0;owned\x07\nMelanoma 0.0001.jpg" + "\n")


def test_an_error_cannot_draw_on_the_terminal(tmp_path, capsys):
    assert main(["predict", f"{tmp_path}/{ESCAPES}", str(tmp_path / f"gone{ESCAPES}.jpg")]) == 2
    shown = capsys.readouterr()
    assert "\x1b" not in shown.err + shown.out and r"\x1b[2J" in shown.err


@pytest.mark.parametrize("command", ["predict {} x.jpg", "report {}", "train {}", "data audit {}"])
def test_invalid_path_names_are_refused(command, capsys):
    for name in ("a" * 5000, "/" + "b" * 300, "..", "~root/x", "\ud800x"):
        assert main([word.format(name) for word in command.split()]) == 2
        assert capsys.readouterr().err.startswith("error: ")
