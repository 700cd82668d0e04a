"""Publish a local copy of HAM10000 as a dataset on the Hub, with canonical columns, splits by lesion, and a card.

ham-hf data push path/to/HAM10000 you/ham10000 --dry_run
"""

import tempfile
from pathlib import Path

from ham_hf.config.arguments import DataArguments
from ham_hf.hub.upload import Repository, Target, check_repo_id, explained, listing, publish
from ham_hf.labels import LICENSE
from ham_hf.system.errors import InputError

CONSENT = (
    f"{LICENSE}. These are photographs of patients, with age, sex and body site. They leave this machine, and "
    "everyone can see them unless the repository is private"
)


def push_dataset(
    data: DataArguments, repo_id: str, *, private: bool, token: str | None, dry_run: bool, accept_license: bool
) -> None:
    """Publish the folder of `data` as the dataset `repo_id`, first its card, then the images; print the progress.

    Args:
        data: the copy and its split.
        repo_id: owner/name, created if it does not exist.
        private: whether a new repository is private.
        token: for the Hub; by default the environment's.
        dry_run: print the files and the card, and send nothing.
        accept_license: whether the user has accepted CONSENT.

    Raises:
        InputError: the license was not accepted, the data is not a folder of HAM10000 or fails the checks, or the Hub
            rejects the upload.
    """
    check_repo_id(repo_id)
    if not (dry_run or accept_license):
        raise InputError(
            f"nothing was sent. {CONSENT}. Add --accept_license to confirm, or --dry_run to see what would be sent"
        )
    # Here, because they take a second to import
    import datasets

    from ham_hf.hub.dataset_card import keep_metadata, load_publishable, stage_card

    splits, facts = load_publishable(data)
    message = f"HAM10000, split {facts['split']}"
    repository = Repository("dataset", published=(), foreign=("README.md", "split.csv"), message=message)
    with tempfile.TemporaryDirectory(prefix="ham_hf-data-push-") as temporary:
        staged = Path(temporary)
        stage_card(splits, facts, staged, repo_id)
        if dry_run:
            images = (f"{len(rows):>15,}  images in data/{name}-*.parquet" for name, rows in splits.items())
            print("\n".join([*images, listing(staged)]))
            print(f"Nothing was sent. With --accept_license, this goes to the dataset {repo_id}. {CONSENT}.")
            return
        keep_metadata(staged / "README.md", repo_id, token)
        head = publish(staged, repository, Target(repo_id, private=private, token=token))
    print(f"uploading the images to {repo_id} …")
    datasets.logging.set_verbosity_error()  # not that a split of one file takes one process
    with explained(repo_id, "The card is there, these images are not"):
        commit = splits.push_to_hub(repo_id, commit_message=message, token=token)
    print(f"{repo_id} already has these images" if commit.oid == head else f"published: {commit.commit_url}")
