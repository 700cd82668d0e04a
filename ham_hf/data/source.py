"""Choose and read the source of the images: synthetic ones, a folder, or a dataset on the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ham_hf.config.arguments import DataArguments
from ham_hf.system.errors import InputError

if TYPE_CHECKING:  # the readers take a second to import, and an error about a misspelled path should not
    from ham_hf.data.schema import Source

SourceKind: TypeAlias = Literal["synthetic", "folder", "hub"]


def source_kind(data_dir: str, metadata_csv: str | None = None) -> SourceKind:
    """Return what `data_dir` names, without reading it.

    Raises:
        InputError: it is neither 'synthetic', nor an existing folder, nor a possible Hub id; or it is no folder, and
            there is a metadata table.
    """
    folder = Path(data_dir).expanduser()
    kind: SourceKind = "synthetic" if data_dir == "synthetic" else "folder" if folder.is_dir() else "hub"
    if metadata_csv and kind != "folder":
        raise InputError(f"metadata_csv is only for a folder of images, but data_dir {data_dir!r} is not a folder")
    if kind != "hub":
        return kind
    if folder.is_file() and folder.suffix.lower() == ".zip":
        raise InputError(f"data_dir is the zip {data_dir!r}: unpack it, and use the folder with table and images")
    from ham_hf.system.hub_access import looks_like_repo_id

    if folder.exists() or not looks_like_repo_id(data_dir):
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(
            f"data_dir is {data_dir!r}, which {what}: expected a folder, a Hub dataset id, or 'synthetic'"
        )
    return kind


def read_source(args: DataArguments) -> "Source":
    """Read the table and the images of `data_dir`.

    Raises:
        InputError: there is no such source, or it cannot be used.
    """
    assert args.data_dir is not None  # every command requires it
    diagnosis_map: Any = args.diagnosis_map  # a dict, since DataArguments parses JSON
    match source_kind(args.data_dir, args.metadata_csv):
        case "synthetic":
            from ham_hf.data.sources.folder import read_folder
            from ham_hf.data.sources.synthetic import synthetic_folder

            return read_folder(synthetic_folder())._replace(kind="synthetic")
        case "folder":
            from ham_hf.data.sources.folder import read_folder

            table = Path(args.metadata_csv).expanduser() if args.metadata_csv else None
            return read_folder(Path(args.data_dir).expanduser(), table, diagnosis_map)
        case "hub":
            from ham_hf.data.sources.hub import read_hub

            return read_hub(args.data_dir, args.data_revision, diagnosis_map)
