"""Sentences about how many of the evaluated images a model has seen, for log, report and card."""

from collections.abc import Mapping

# In the facts about the data
SEEN = "seen_before"  # the number of training images of a model without a complete record, where some may be evaluated
COPIES = "training_copies"  # "training_images", their number, and "images", by split those like one of them
OVERLAP = "overlap"  # "record" (complete, incomplete or none), and by split the counts of `find_overlap`


def overlap_sentences(data: Mapping, model: str, splits: tuple[str, ...] = ("validation", "test")) -> list[str]:
    """Return a sentence for each kind of evaluated image that a model has seen, if any.

    Args:
        data: the facts about the data, of run.json.
        model: the model in words.
        splits: the splits to report on. The validation images of the training are expected in the validation
            split, and reported only for test.
    """
    sentences = []
    for split in splits:
        if copies := data.get(COPIES, {"images": {}})["images"].get(split):
            show = "image shows a lesion" if len(copies) == 1 else "images show lesions"
            sentences.append(
                f"{len(copies):,} {split} {show} of a training image of {model}, compared by local features."
            )
        counts = data.get(OVERLAP, {}).get(split)
        if counts is None:
            continue
        total, train, chosen, siblings = (counts[key] for key in ("images", "train", "validation", "siblings"))
        if train:
            were = "was a training image" if train == 1 else "were training images"
            sentences.append(f"{train:,} of the {total:,} {split} images {were} of {model}.")
        if siblings:
            more = f"{siblings:,} more" if train else f"{siblings:,} of the {total:,}"
            are = "shows a lesion" if siblings == 1 else "show lesions"
            images = "image" if train and siblings == 1 else "images"
            sentences.append(f"{more} {split} {images} {are} of which {model} was trained on another image.")
        if chosen and split == "test":
            were = "was a validation image" if chosen == 1 else "were validation images"
            sentences.append(
                f"{chosen:,} of the {total:,} test images {were} of {model}, on which its checkpoint or its "
                "calibration was chosen."
            )
    return sentences


def model_in_words(run: Mapping) -> str:
    """Return the model whose training images a report mentions; those of the run itself are in its training split."""
    if run["training"] is not None:
        return "the checkpoint that this training started from"
    return "a member of this ensemble" if "members" in run["model"] else "this model"


def overlap_warning(run: Mapping) -> str:
    """Return the warning at the top of a report, "" if the model is not known to have seen an evaluated image."""
    return " ".join(overlap_sentences(run["data"], model_in_words(run)))


def overlap_note(run: Mapping) -> str:
    """Return the note of a report on images that the model has not seen, or may have seen."""
    data, model = run["data"], model_in_words(run)
    compared = ""
    if COPIES in data and not any(data[COPIES]["images"].values()):
        images = data[COPIES]["training_images"]
        compared = f" None shows a lesion of its {images:,} training images, compared by local features."
    return (_recorded(data, run, model) + compared).strip()


def _recorded(data: Mapping, run: Mapping, model: str) -> str:
    record = data.get(OVERLAP, {}).get("record")
    if record == "none":
        return f"Which images {model} was trained on is not recorded: the evaluated images may be among them."
    if seen := data.get(SEEN):
        return f"Not all of the {seen:,} training images of {model} are recorded: evaluated images may be among them."
    if record == "complete" and not overlap_warning(run):
        return f"None of the evaluated images was a training image of {model} (compared by file and by pixels)."
    return ""
