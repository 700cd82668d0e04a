"""Does a claim hold? Its figure against what was measured, and every word about its data, metric, size and interval.

A claim that names the SHA-256 of the images measured here is compared with their figure; any other one with its 95 %
interval, if nothing that it says is about other data. What cannot be checked makes a claim "cannot tell", never
"holds".
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ham_hf.config.metric_names import HEADLINE
from ham_hf.data.splits import EVALUATION_SPLITS
from ham_hf.hub.verify.claims import Claim
from ham_hf.hub.verify.consistency import CANNOT_TELL, FALSE, HOLDS, TOLERANCE
from ham_hf.reporting.formats import number

_SHOWN = 60  # characters of what a card says
_ROUNDING = 0.005  # at most: what is written with fewer digits than two is not given the benefit of them
_ALIASES = {"f1_macro": "macro_f1", "roc_auc_macro": "macro_auroc"}
_AVERAGED = ("f1", "auroc", "roc_auc")  # metrics that have an average; "balanced" makes no accuracy a balanced one
# Other names of a metric that a card may show
_NAMES = {
    "macro_f1": ("f1", "f1 macro"),
    "macro_auroc": ("auroc", "roc auc", "auc", "macro roc auc", "macro auc"),
    "balanced_accuracy": ("mean recall", "macro recall"),
    "ece": ("expected calibration error", "calibration error"),
}
_BEYOND_ONE = ("log_loss", "brier")  # metrics that a value above 1 does not make a percentage of
# Words that name no dataset: loaders of `datasets`, and what any collection of skin images could be called
_NO_DATASET = re.compile(
    r"(default|custom|unknown|local|image_?folder|generator|parquet|csv|json|arrow|webdataset|dataset|data|images?"
    r"|folder|skin|lesions?|cancer|disease|dermatology|dermoscopy|dermatoscopic|classification|train(ing)?"
    r"|val(id|idation)?|test|eval(uation)?|my|and|of|the)+"
)
_HAM10000 = re.compile(r"(skincancermnist)?ham10(000|k)(dataset|images?)?|humanagainstmachinewith10000trainingimages")
_OWNER = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*/")  # of a repository on the Hub
_SEPARATORS = r"\s_.,:;/()\[\]'\"%–—-"  # between words; a 💯 is part of one, as it says something
# Splits that --part may be said of; the other words of a split are a claim about its data
_PLAIN_SPLITS = re.compile(r"default|all|train(ing)?|test(ing)?|val(id|idation)?|dev|eval(uation)?")
_INTERVAL = re.compile(r"(.*?) ?\(95 % interval (-?\d*\.\d+) to (-?\d*\.\d+)\)", flags=re.DOTALL)


class Verdict(NamedTuple):
    """The verdict on a claim; `measured` and `interval` are None if nothing was computed."""

    claim: Claim
    measured: float | None
    interval: tuple[float, float] | None
    verdict: str
    reason: str


class Evidence(NamedTuple):
    """The results and facts that claims are compared with.

    `results` are those of `measure` by split, without splits that have no image here, and `data` the facts of the
    images. `reported` are the SHA-256 that a report.json of ours gives for its splits, for a claim that names none;
    `ham10000` tells whether every image evaluated is one of HAM10000.
    """

    results: Mapping[str, Mapping]
    data: Mapping
    classes: str
    ham10000: bool
    reported: Mapping[str, str]

    @property
    def hashes(self) -> dict[str, str]:
        return {name: split["sha256"] for name, split in self.data["splits"].items()}


def check_claim(claim: Claim, override: str | None, evidence: Evidence) -> Verdict:
    """Return the verdict on a claim; `override` is the split that --part says all claims are about."""
    part = override or claim.split

    def cannot_tell(reason: str) -> Verdict:
        return Verdict(claim, None, None, CANNOT_TELL, reason)

    if claim.problem:
        return cannot_tell(claim.problem)
    if part not in EVALUATION_SPLITS:
        return cannot_tell(f"it is about the split {part!r}; --part validation or --part test says which one that is")
    if part not in evidence.results:
        return cannot_tell(f"no image of the {part} split is here")
    metric = metric_of(claim)
    if metric not in evidence.results[part]["metrics"]:
        return cannot_tell("unknown metric" + (", say of which average" if metric in ("f1", "roc_auc") else ""))
    if not is_number(claim.value):
        return cannot_tell(f"{repr(claim.value)[:_SHOWN]} is not a number")
    value, interval = evidence.results[part]["metrics"][metric].values()
    sha256 = claim.sha256 or (evidence.reported.get(part) if claim.revision is None else None)
    if sha256 not in (None, evidence.hashes[part]):
        others = [name for name, other in evidence.hashes.items() if other == sha256]
        if others:
            return Verdict(claim, value, interval, FALSE, f"its data are the {others[0]} images, not {part}'s")
        reason = f"made on other {part} images (SHA-256 {sha256[:12]}…)"
        return Verdict(claim, value, interval, CANNOT_TELL, reason)
    exact = sha256 is not None
    found = [("", "")] if exact else [_against_interval(claim, value, interval)]
    if exact and not abs(share_of(claim)[0] - value) <= _tolerance(claim):  # false for NaN as well
        found = [(FALSE, "same images, another figure")]
    said = list(_statements(claim, part, override is not None, exact, evidence))
    # Of other data, a figure is neither true nor false here
    ranked = [*found, *said] if exact else [*said, *found]
    for wanted in (FALSE, CANNOT_TELL) if exact else (CANNOT_TELL, FALSE):
        for verdict, reason in ranked:
            if verdict == wanted:
                return Verdict(claim, value, interval, verdict, reason)
    return Verdict(claim, value, interval, HOLDS, found[0][1])


# The figure


def metric_of(claim: Claim) -> str:
    """Return our name for the metric of a claim."""
    name = re.sub(r"\W+", "_", str(claim.metric.get("type")).strip().lower())
    average = claim.metric_args.get("average")
    if not average:
        return _ALIASES.get(name, name)
    return _ALIASES.get(f"{name}_{average}", f"{average}_{name}") if name in _AVERAGED else f"{name} ({average})"


def share_of(claim: Claim) -> tuple[float, float]:
    """Return the claimed value, from 0 to 1 also for percentages, and half of its last digit."""
    text = repr(claim.value)
    digits = len(text.partition(".")[2]) if "e" not in text else 17
    value, rounding = float(claim.value), 0.5 * 10.0**-digits
    return (value / 100, rounding / 100) if _is_percentage(claim) else (value, rounding)


def _is_percentage(claim: Claim) -> bool:
    metric = metric_of(claim)
    return claim.value > 1 and metric not in _BEYOND_ONE and "support" not in metric


def _tolerance(claim: Claim) -> float:
    """On the same images: a thousandth, or half of the last digit that a percentage shows."""
    rounding = share_of(claim)[1] if _is_percentage(claim) else 0.0
    return max(TOLERANCE, rounding) + 1e-9


def _against_interval(claim: Claim, value: float, interval: Sequence[float] | None) -> tuple[str, str]:
    if interval is None or math.isnan(value):
        return CANNOT_TELL, "the card names no data, and there is no interval here to compare with"
    claimed, rounding = share_of(claim)
    rounding = min(rounding, _ROUNDING)
    inside = interval[0] - rounding <= claimed <= interval[1] + rounding
    words = "within the interval" if inside else "outside the interval"
    return HOLDS if inside else FALSE, f"{words}; the card names no data"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


# What is said about it


def _statements(
    claim: Claim, part: str, overridden: bool, exact: bool, evidence: Evidence
) -> Iterator[tuple[str, str]]:
    """Yield a verdict and its reason for all that a claim says beside its figure, and that does not hold."""
    yield from _about_task(claim)
    yield from _about_dataset(claim, exact, evidence)
    yield from _about_split(claim, part, overridden, exact, evidence)
    yield from _about_size(claim, part, exact, evidence)
    yield from _about_metric(claim, part, exact, evidence)
    for key, value in claim.others.items():
        yield CANNOT_TELL, f"its {_shown(key)} cannot be checked: {_shown(value)}"
    if claim.metric.get("verified"):
        yield CANNOT_TELL, "verified: only the Hub can check its verifyToken"


def _about_task(claim: Claim) -> Iterator[tuple[str, str]]:
    for key, value in claim.task.items():
        words = "".join(_words(value))
        if key not in ("type", "name") or words != "imageclassification":
            yield CANNOT_TELL, f"it is about another task than image classification: {key} {_shown(value)}"


def _about_dataset(claim: Claim, exact: bool, evidence: Evidence) -> Iterator[tuple[str, str]]:
    names = [claim.dataset[key] for key in ("type", "name") if claim.dataset.get(key) is not None]
    other = next((name for name in names if not _names_these_data(name, exact, evidence)), None)
    if other is not None:
        contradicted = exact and (evidence.ham10000 or evidence.data["synthetic"])
        yield FALSE if contradicted else CANNOT_TELL, f"it is about another dataset than these images: {_shown(other)}"
    for key, value in claim.dataset.items():
        if key not in ("type", "name", "config", "split", "revision", "args"):
            yield CANNOT_TELL, f"its dataset's {_shown(key)} cannot be checked: {_shown(value)}"


def _names_these_data(name: Any, exact: bool, evidence: Evidence) -> bool:
    """Return whether a name means the evaluated images, or no particular dataset."""
    words = "".join(_words(name))
    if _NO_DATASET.fullmatch(words):
        return True
    if evidence.data["synthetic"]:
        return words in ("synthetic", "syntheticlesions")
    if evidence.data["kind"] == "hub" and name == evidence.data["source"]:
        return True
    is_named = _HAM10000.fullmatch("".join(_words(_OWNER.sub("", str(name))))) is not None
    return is_named and (exact or evidence.ham10000)


def _about_split(
    claim: Claim, part: str, overridden: bool, exact: bool, evidence: Evidence
) -> Iterator[tuple[str, str]]:
    if overridden and claim.split is not None and not _PLAIN_SPLITS.fullmatch(claim.split.lower()):
        yield CANNOT_TELL, f"its split is called {_shown(claim.split)}, and what that says cannot be checked"
    if claim.split in EVALUATION_SPLITS and claim.split != part:
        yield CANNOT_TELL, f"it is about the split {claim.split!r}, and --part says {part}"
    if claim.revision is not None and claim.sha256 is None:
        yield CANNOT_TELL, f"the revision of its data is {_shown(claim.revision)}, which no image can be compared with"
    split = evidence.data["split"]
    if claim.config in (None, split) or (not exact and claim.config.lower() == "default"):
        return
    builtin = {"study", "grouped", "all"}
    contradicted = exact and {claim.config, split} <= builtin
    reason = f"its split is called {_shown(claim.config)}, these images are of the split {split}"
    yield FALSE if contradicted else CANNOT_TELL, reason


def _about_size(claim: Claim, part: str, exact: bool, evidence: Evidence) -> Iterator[tuple[str, str]]:
    results, seed = evidence.results[part], evidence.data["split_seed"]
    known = {"classes": evidence.classes, "split_seed": seed, "images": results["images"]}
    known["same_lesion"] = evidence.data["same_lesion"]["list"]
    known["lesions"] = results["lesions"]
    for key, value in claim.dataset_args.items():
        if key not in known:
            yield CANNOT_TELL, f"what it says of its data cannot be checked: {_shown(key)}: {_shown(value)}"
        elif isinstance(value, bool) or value != known[key]:
            words = f"{key}: {_shown(value)} is claimed, {known[key]} is what these images have"
            yield FALSE if exact else CANNOT_TELL, words


def _about_metric(claim: Claim, part: str, exact: bool, evidence: Evidence) -> Iterator[tuple[str, str]]:
    metric = metric_of(claim)
    interval = evidence.results[part]["metrics"][metric]["interval"]
    name = claim.metric.get("name")
    intervals = []
    if name is not None:
        said = _INTERVAL.fullmatch(str(name).strip())
        words = frozenset(_words(said[1] if said else name)) - {"score", part}
        if words not in map(frozenset, map(_words, (metric, HEADLINE.get(metric, metric), *_NAMES.get(metric, ())))):
            yield CANNOT_TELL, f"its metric is called {_shown(name)}, which says more than {metric}"
        if said:
            intervals.append(([float(said[2]), float(said[3])], TOLERANCE + 0.0005))
    if claim.metric_args.get("interval") is not None:
        intervals.append((claim.metric_args["interval"], TOLERANCE))
    for given, tolerance in intervals:
        if not exact:
            yield CANNOT_TELL, f"its interval {_shown(given)} cannot be compared: the card names no data"
        elif not _is_close(given, interval, tolerance):
            measured = "none" if interval is None else f"{number(interval[0])} to {number(interval[1])}"
            yield FALSE, f"the interval claimed is {_shown(given)}, measured {measured}"
    for key, value in claim.metric_args.items():
        if key not in ("interval", "average"):
            yield CANNOT_TELL, f"what it says of its metric cannot be checked: {_shown(key)}: {_shown(value)}"
    for key, value in claim.metric.items():
        if key not in ("type", "value", "name", "args", "verified"):
            yield CANNOT_TELL, f"its metric's {_shown(key)} cannot be checked: {_shown(value)}"


def _is_close(given: Any, interval: Sequence[float] | None, tolerance: float) -> bool:
    if interval is None or not isinstance(given, list) or len(given) != 2 or not all(map(is_number, given)):
        return False
    return all(abs(one - other) <= tolerance for one, other in zip(given, interval, strict=True))


def _words(value: Any) -> list[str]:
    return re.findall(rf"[^{_SEPARATORS}]+", str(value).lower())


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
