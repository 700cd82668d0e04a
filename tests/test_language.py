"""Everything that people read uses plain English and the terms of the field: these phrases stay out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".jinja", ".js", ".toml"}
FOLDERS = ("ham_hf", "recipes", "tests", ".github")
FILES = [
    path
    for path in [*ROOT.glob("*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    if path.suffix in SUFFIXES and path.is_file() and path != Path(__file__)
]

# phrase → what to write instead
PHRASES = {
    r"judg(e[sd]?|ing)\b": "evaluate, score",
    r"br(oken|oke|eaks?) off\b": "interrupted",
    r"(go(es|ing|ne)?|went) on (with|from|after|where|without|to the|in the|at)\b": "resume, continue",
    r"the same command goes on\b": "run the same command again to resume",
    r"(cannot|can|to|may) be gone on\b": "cannot resume",
    r"when left out\b": "default",
    r"(to be|be) had\b": "available",
    r"mend(s|ed|ing)?\b": "fix",
    r"as (it|they) comes?\b": "unchanged",
    r"answered rightly|rightly\b": "correctly",
    r"(model|models|model's|models'|ensemble|network|pipeline)( that)? answers?\b": "predictions, predicts",
    r"answers? (nv|nevus|of the model|of a model|to every image|to nearly)\b": "predicts",
    r"always answers?\b": "always predicts",
    r"trainings\b": "runs",
    r"of a training\b(?! \w)": "of a run",
    r"afresh\b": "from scratch",
    r"without a word\b": "silently",
    r"(somebody|whoever)\b": "someone",
    r"bears? the name\b": "has the name",
    r"can be believed\b": "you can trust",
    r"is to be (believed|read|told|taken)\b": "name the subject and the verb",
    r"makes? up for\b": "rebalance, compensate",
    r"counts? twice\b": "set only one",
    r"in neither direction\b": "neither to reassure nor to alarm",
    r"expected no character\b": "must not contain",
    r"(photographs?|images?|table|data) of one's own\b": "your own",
    r"where it has a name of its own\b": "if it does not have the usual name",
    r"is warned of\b|are warned of\b": "triggers a warning",
    r"has the last word\b|last word wins\b": "overrides",
    r"what somebody\b|of others\b": "other people's",
    r"at fault\b": "the cause",
    r"spelt out\b": "escaped, in full",
    r"in peace\b": "uninterrupted",
}


def lines_with(pattern: str) -> list[str]:
    found = []
    for path in FILES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if re.search(pattern, line, flags=re.IGNORECASE):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    return found


@pytest.mark.parametrize("phrase", PHRASES)
def test_nobody_writes(phrase):
    assert not lines_with(r"\b(?:" + phrase + ")"), f"write instead: {PHRASES[phrase]}"


def test_a_docstring_does_not_start_with_what_whether_or_of():
    # The code of models is published with them, and `verify` compares it byte for byte: it stays as it is
    lines = lines_with(r'"""(What|Whether|Of) ')
    assert not [line for line in lines if not line.startswith("ham_hf/models/mmbt/")]


def test_the_spelling_is_american():
    british = r"colour|\bgrey|licence|normalis|optimis[ei]|initialis|recognised|minimised|behaviour|labelled(?!by)"
    lines = lines_with(rf"{british}|modelling|cancelled|centre|favour|honour|neighbour|artefact|misspelt")
    published = ("ham_hf/models/mmbt/", "ham_hf/models/ensemble/")
    assert not [line for line in lines if not line.startswith(published)]
