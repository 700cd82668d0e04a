"""How this copy of ham_hf was installed, and the command that adds an extra to it."""

import importlib.util
import json
from importlib import metadata
from pathlib import Path

from ham_hf.system.errors import InputError

DISTRIBUTION = "ham-hf"
CLONE = Path(__file__).parents[2]


def is_clone() -> bool:
    """Return whether ham_hf is imported from a clone of the repository."""
    return (CLONE / "pyproject.toml").is_file()


def install_command(extra: str) -> str:
    """Return the command that installs ham_hf with an extra, from where this copy came from.

    The name alone would not do: it is not ours on the package index.
    """
    if is_clone():
        where = "" if Path.cwd() == CLONE else f"cd {CLONE} && "
        return f'{where}pip install -e ".[{extra}]"'
    source = _source()
    if source is None:
        return f"pip install {' '.join(map(repr, _packages(extra)))}"
    return f'pip install "{DISTRIBUTION}[{extra}] @ {source}"'


def require(package: str, extra: str, purpose: str) -> None:
    """Raise InputError with the install command if an optional package is not installed.

    Args:
        package: its name on the package index, which is that of its module with "-" for "_".
        extra: the extra of ham_hf that has it.
        purpose: what needs it, such as "ham-hf demo".
    """
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        raise InputError(f"{purpose} requires {package}, which is not installed: {install_command(extra)}")


def _source() -> str | None:
    """Return the URL that this copy was installed from, or that of the repository; None if neither is known."""
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    if origin := distribution.read_text("direct_url.json"):
        facts = json.loads(origin)
        return f"git+{facts['url']}" if "vcs_info" in facts else facts["url"]
    for entry in distribution.metadata.get_all("Project-URL", []):
        label, _, url = entry.partition(", ")
        if label.lower() in ("repository", "source", "homepage"):
            return f"git+{url}"
    return None


def _packages(extra: str) -> list[str]:
    """Return the requirements of an extra."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        lines = []
    of_extra = [line.partition(";")[0].strip() for line in lines if f'extra == "{extra}"' in line]
    return of_extra or [extra]
