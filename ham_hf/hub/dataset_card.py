"""Write the card of HAM10000 as a dataset on the Hub, and the split beside it."""

import csv
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from datasets import DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError

from ham_hf.config.arguments import DataArguments
from ham_hf.data.dataset import load_checked
from ham_hf.data.lesions import is_ham10000
from ham_hf.data.same_lesion import with_lesions
from ham_hf.data.schema import some
from ham_hf.data.source import read_source
from ham_hf.hub.upload import explained
from ham_hf.labels import LABELS
from ham_hf.reporting.rendering import render
from ham_hf.reporting.tables import duplicates_flags
from ham_hf.system.errors import InputError


def load_publishable(data: DataArguments) -> tuple[DatasetDict, dict]:
    """Return the splits that have images, and the facts of `load_checked` without the path of the folder.

    Raises:
        InputError: an image is not HAM10000's, or the copy or its split fails the checks.
    """
    splits, facts, _ = load_checked(data)
    foreign = [name for rows in splits.values() for name in rows["image_id"][:] if not is_ham10000(name)]
    if foreign:
        raise InputError(
            f"{len(foreign)} images are not HAM10000's ({some(foreign)}): expected ISIC_0024306 to ISIC_0034320 "
            "alone. Other photographs need their own license and consent, and are not published from here"
        )
    # HAM10000's own lesion ids, whichever of them were merged
    lesion = dict(read_source(data).table[["image_id", "lesion_id"]].itertuples(index=False, name=None))
    used = DatasetDict(
        {
            name: with_lesions(rows, [lesion[image_id] for image_id in rows["image_id"][:]])
            for name, rows in splits.items()
            if len(rows)
        }
    )
    return used, {**facts, "source": Path(facts["source"]).name}


def stage_card(splits: DatasetDict, facts: Mapping, folder: Path, repo_id: str) -> None:
    """Write the card and split.csv into `folder`."""
    with (folder / "split.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_id", "split"])
        writer.writerows(sorted((image_id, name) for name, rows in splits.items() for image_id in rows["image_id"][:]))
    (folder / "README.md").write_text(render_dataset_card(facts, splits, repo_id), encoding="utf-8")


def keep_metadata(card: Path, repo_id: str, token: str | None) -> None:
    """Keep what `push_to_hub` wrote into the card on the Hub, so that a card without changes is no commit."""
    with explained(repo_id), suppress(RepositoryNotFoundError, RemoteEntryNotFoundError):
        present = DatasetCard.load(repo_id, token=token).data
        new = DatasetCard(card.read_text(encoding="utf-8"))
        for key in ("dataset_info", "configs"):
            if key in present:
                new.data[key] = present[key]
        card.write_text(str(new), encoding="utf-8")


def render_dataset_card(facts: Mapping, splits: DatasetDict, repo_id: str) -> str:
    """Return README.md of the dataset, from the facts of `load_publishable`."""
    images = sum(map(len, splits.values()))
    front = DatasetCardData(
        license="cc-by-nc-4.0",
        pretty_name="HAM10000",
        task_categories=["image-classification"],
        size_categories=["n<1K" if images < 1000 else "1K<n<10K" if images < 10_000 else "10K<n<100K"],
        tags=["ham10000", "dermatology", "skin-lesion", "medical"],
    )
    page = render(
        "dataset_card.md.jinja",
        images=f"{images:,}",
        lesions=f"{sum(split['lesions'] for split in facts['splits'].values()):,}",
        labels=LABELS,
        repo_id=repo_id,
        split_flags=_split_flags(facts),
        split_words=_split_words(facts),
        split_sha256=facts["split_sha256"],
        images_sha256=facts["images_sha256"],
        facts=facts,
    )
    return f"---\n{front.to_yaml(line_break=chr(10))}\n---\n\n{page}"


def _split_flags(facts: Mapping) -> str:
    """Return the flags that reproduce the split; without all images, `grouped` would draw another one."""
    absent = sum(split["absent_images"] for split in facts["splits"].values())
    more = "".join(f" {flag}" for flag in duplicates_flags(facts))
    if facts["split"] == "study":
        return f"--split study{more}"
    if facts["split"] == "grouped" and not absent:
        return f"--split grouped --split_seed {facts['split_seed']}{more}"
    return "--split split.csv"


def _split_words(facts: Mapping) -> str:
    match facts["split"]:
        case "study":
            return "They are those of a published study, the same lesions in any copy of the data."
        case "grouped":
            return f"They are 60/20/20 of the lesions of each diagnosis, drawn with the seed {facts['split_seed']}."
    return "They are the publisher's own."
