"""Is this machine ready for a training? Versions, hardware, disk, Hub and data, each measured now.

ham-hf doctor --data_dir path/to/HAM10000
"""

import importlib
import os
import platform
import queue
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ham_hf.config.arguments import DataArguments
from ham_hf.system.errors import InputError

PACKAGE = "ham-hf"
# That break one another where their builds do not fit, whatever their versions say
IMPORTED = ("torch", "torchvision", "transformers", "datasets")
SHOWN = ("torch", "torchvision", "transformers", "datasets", "timm")
GB = 1e9
# A training of EfficientNet-Lite1 on two cores takes 3.3 GB, beside the pixels that it maps
LITTLE_MEMORY = 4 * GB
# The pixels of all images take 8.1 GB (`ham-hf data cache build`), four checkpoints of ViT-B/16 4 GB
LITTLE_DISK = 10 * GB
HUB_SECONDS = 4
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container, where Linux has one (cgroup v2)


class Check(NamedTuple):
    """What was looked at and found, and what to do about it; a "problem" stops trainings, a "warning" some of them."""

    state: Literal["ok", "warning", "problem"]
    name: str
    found: str
    remedy: str = ""


def examine(data_dir: str | None = None, metadata_csv: str | None = None) -> Iterator[Check]:
    """Every check, as soon as it is made; of the data only where `data_dir` names some.

    After a problem with the packages the rest is left out: it is looked at with them.
    """
    try:
        requirements = [Requirement(line) for line in metadata.requires(PACKAGE)]
        python = SpecifierSet(metadata.metadata(PACKAGE)["Requires-Python"])
    except metadata.PackageNotFoundError:
        yield Check("problem", "packages", f"{PACKAGE} is not installed", "in the clone: pip install -e .")
        return
    found = []
    for check in _check_installation(python, requirements):
        yield check
        found.append(check.state)
    if "problem" in found:
        yield Check("warning", "all else", "not looked at", "mend these first, then ask again")
        return
    yield from check_extras(requirements)
    yield check_cores()
    yield check_memory(free_memory())
    yield check_gpu()
    yield check_bf16()
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub import constants

    yield check_disk("disk here", Path.cwd(), "go to a folder of your own")
    yield check_disk("disk, models", Path(constants.HF_HUB_CACHE), "set HF_HOME to a folder on another disk")
    yield check_disk("disk, images", Path(HF_DATASETS_CACHE), "set HF_DATASETS_CACHE to a folder on another disk")
    yield check_token()
    yield check_hub(constants.ENDPOINT, constants.HF_HUB_OFFLINE)
    if data_dir is not None:
        yield check_data(data_dir, metadata_csv)


def _check_installation(python: SpecifierSet, requirements: list[Requirement]) -> Iterator[Check]:
    yield check_python(platform.python_version(), python)
    yield from check_packages(requirements)
    yield check_imports(IMPORTED)


def check_python(version: str, declared: SpecifierSet) -> Check:
    """Whether a version of Python is among those declared."""
    if declared.contains(version, prereleases=True):
        return Check("ok", "Python", f"{version} ({declared})")
    return Check(
        "problem", "Python", f"{version}, where {declared} is needed", "make a virtual environment of another"
    )


def check_packages(requirements: Iterable[Requirement]) -> Iterator[Check]:
    """One problem for each package that is absent or of another version than declared; else one line for all."""
    needed = [requirement for requirement in requirements if _applies(requirement, "")]
    wrong = [requirement for requirement in needed if not _is_met(requirement)]
    for requirement in wrong:
        found = f"{_version(requirement) or 'not installed'}, where {requirement} is needed"
        yield Check("problem", requirement.name, found, f'pip install "{requirement}"')
    if not wrong:
        shown = [f"{of.name} {_version(of)}" for of in needed if of.name in SHOWN]
        yield Check("ok", "packages", f"all {len(needed)} as declared: {', '.join(shown)}, …")


def check_imports(names: Iterable[str]) -> Check:
    """Whether these modules can be imported; the first that cannot, with its error."""
    for name in names:
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:  # of Python, of a shared library, of torch's operators
            remedy = "install it again, with torch and torchvision of one release"
            return Check("problem", "imports", f"{name}: {type(error).__name__}: {error}", remedy)
    return Check("ok", "imports", ", ".join(names))


def check_extras(requirements: Iterable[Requirement]) -> Iterator[Check]:
    """A line for each extra of the package but dev; one that is not there is no problem."""
    extras = [extra for extra in metadata.metadata(PACKAGE).get_all("Provides-Extra") if extra != "dev"]
    for extra in extras:
        of_extra = [requirement for requirement in requirements if _applies(requirement, extra)]
        missing = [requirement.name for requirement in of_extra if not _is_met(requirement)]
        name, install = f"extra {extra}", f'where you need it: pip install "{PACKAGE}[{extra}]"'
        if not missing:
            yield Check("ok", name, ", ".join(f"{of.name} {_version(of)}" for of in of_extra))
        else:
            yield Check("warning", name, f"without {', '.join(missing)}", install)


def _applies(requirement: Requirement, extra: str) -> bool:
    """Whether it is of this extra, or, where that is "", of the package itself."""
    marker = requirement.marker
    if not extra:
        return marker is None or marker.evaluate({"extra": ""})
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _is_met(requirement: Requirement) -> bool:
    version = _version(requirement)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _version(requirement: Requirement) -> str | None:
    try:
        return metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return None


def check_cores() -> Check:
    """Cores, those that this process may use, and threads; `ham-hf train` takes as many threads as usable cores."""
    import torch

    from ham_hf.system.hardware import usable_cores

    found = f"{platform.machine()}, {usable_cores()} usable of {os.cpu_count()} cores"
    return Check("ok", "CPU", f"{found}; torch begins with {torch.get_num_threads()} threads")


def free_memory() -> tuple[float, float]:
    """Bytes that are free, and all, with the limit of a container."""
    memory = psutil.virtual_memory()
    limit = MEMORY_LIMIT.read_text().strip() if MEMORY_LIMIT.is_file() else "max"
    if limit == "max" or int(limit) >= memory.total:
        return memory.available, memory.total
    used = int(MEMORY_LIMIT.with_name("memory.current").read_text())
    stat = dict(line.split() for line in MEMORY_LIMIT.with_name("memory.stat").read_text().splitlines())
    used -= int(stat["inactive_file"])  # pages of files that were read, which give way
    return min(memory.available, int(limit) - used), int(limit)


def check_memory(free_and_all: tuple[float, float]) -> Check:
    """Whether what is free, in bytes, is enough for a training; with all there is."""
    free, total = free_and_all
    found = f"{free / GB:.1f} GB free of {total / GB:.1f}"
    if free >= LITTLE_MEMORY:
        return Check("ok", "memory", found)
    return Check("warning", "memory", found, "end other programs, or train with a smaller per_device_train_batch_size")


def check_gpu() -> Check:
    """The GPUs that torch sees, or that one may be here which it does not see."""
    import torch

    from ham_hf.system.hardware import has_accelerator

    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        found = ", ".join(f"{gpu.name} ({gpu.total_memory / GB:.0f} GB)" for gpu in gpus)
        return Check("ok", "GPU", found)
    if has_accelerator():
        return Check("ok", "GPU", torch.accelerator.current_accelerator().type)
    if shutil.which("nvidia-smi"):
        found = f"nvidia-smi is here, but torch {torch.__version__} sees no GPU"
        return Check("warning", "GPU", found, "nvidia-smi says whether there is one; then install torch for its CUDA")
    return Check("ok", "GPU", "none; recipes/offline are made for the CPU")


def check_bf16() -> Check:
    """Whether bfloat16 is computed in hardware."""
    from ham_hf.system.hardware import supports_bf16

    return Check("ok", "bfloat16", "in hardware" if supports_bf16() else "not in hardware: computing in float32")


def check_disk(name: str, folder: Path, remedy: str) -> Check:
    """Whether a file can be written where `folder` is or would be made, and how much room is left there."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Check("problem", name, f"{folder} cannot be written: {error.strerror}", remedy)
    free = shutil.disk_usage(place).free
    found = f"{free / GB:.1f} GB free: {folder}"
    if free >= LITTLE_DISK:
        return Check("ok", name, found)
    return Check("warning", name, found, f"make room, or {remedy}")


def check_token() -> Check:
    """Whether there is one; its value is nobody's business."""
    from huggingface_hub import get_token

    if get_token() is not None:
        return Check("ok", "token", "there is one" + (" in HF_TOKEN" if os.environ.get("HF_TOKEN") else ""))
    return Check("warning", "token", "none", "to publish, or for private models: hf auth login")


def check_hub(endpoint: str, offline: bool) -> Check:
    """One request, without the token, and at most HUB_SECONDS."""
    remedy = "without it: folders, what is in the caches, and models named pypi:…"
    if offline:
        return Check("warning", "Hub", "offline mode is on", f"unset HF_HUB_OFFLINE; {remedy}")
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    # In a thread: the wait for a name server is in no timeout of HTTP
    threading.Thread(target=lambda: answers.put(_ask(endpoint)), daemon=True).start()
    try:
        answer = answers.get(timeout=HUB_SECONDS)
    except queue.Empty:
        answer = f"no answer in {HUB_SECONDS} seconds"
    if answer:
        return Check("warning", "Hub", f"{endpoint}: {answer}", f"see to the network or its proxy; {remedy}")
    return Check("ok", "Hub", endpoint)


def _ask(endpoint: str) -> str:
    """What is wrong; "" where the Hub answers."""
    from huggingface_hub import get_session
    from huggingface_hub.errors import HTTPError

    try:
        status = get_session().head(endpoint, timeout=HUB_SECONDS).status_code
    except (HTTPError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "" if status < 500 else f"HTTP status {status}"


def check_data(data_dir: str, metadata_csv: str | None = None) -> Check:
    """The leak audit of the copy, without a split: as `ham-hf data audit`."""
    from ham_hf.data.audit_report import inspect_data

    audit = f"all of it: ham-hf data audit {data_dir}" + (f" --metadata_csv {metadata_csv}" if metadata_csv else "")
    try:
        inspection = inspect_data(
            DataArguments(data_dir=data_dir, metadata_csv=metadata_csv, split="", allow_missing_images=True)
        )
    except InputError as error:
        return Check("problem", "data", str(error))
    absent, broken = len(inspection.absent), len(inspection.broken)
    found = f"{inspection.lines[0]}; {absent:,} images absent, {broken:,} broken"
    if inspection.leaks:
        return Check("problem", "data", f"{found}; it leaks: {'; '.join(inspection.leaks)}", audit)
    if inspection.undecided:
        found += f"; whether it leaks cannot be determined: {'; '.join(inspection.not_compared)}"
        return Check("problem", "data", found, audit)
    found += "; no certain leak found" if inspection.suspected or inspection.not_compared else "; no leak found"
    if absent or broken:
        return Check("warning", "data", found, f"add them, or train with --allow_missing_images; {audit}")
    return Check("ok", "data", found)


def render_check(check: Check) -> str:
    """A line, and below it what to do."""
    line = f"{check.state:<8} {check.name:<15} {check.found}"
    return f"{line}\n{'':<24} → {check.remedy}" if check.remedy else line
