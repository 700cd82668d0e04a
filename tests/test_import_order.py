"""Packages import only from packages to their left, and no two modules import each other."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Packages of one entry do not import each other. The two main scripts, duplicates and explain are modules.
ORDER = [
    {"labels"},
    {"system"},
    {"config"},
    {"data", "models"},
    {"inference"},
    {"evaluation"},
    {"reporting"},
    {"training"},
    {"train", "evaluate", "duplicates", "explain", "hub"},
    {"cli"},
    {"__main__"},
]
LEVEL = {package: level for level, packages in enumerate(ORDER) for package in packages}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted((ROOT / "ham_hf").rglob("*.py"))}


def imports(module: str) -> set[str]:
    """Return the modules of ham_hf that `module` imports at run time, in its functions too."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    typing_only = {
        node for block in tree.body if ast.unparse(block).startswith("if TYPE_CHECKING:") for node in ast.walk(block)
    }
    found = set()
    for node in set(ast.walk(tree)) - typing_only:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.split(".")[0] == "ham_hf"} - {module}


# The package itself imports four functions on demand, and is the root of every name
IMPORTS = {module: imports(module) - {"ham_hf"} for module in MODULES if module != "ham_hf"}


def test_packages_import_only_from_packages_to_their_left():
    for module, imported in IMPORTS.items():
        package = module.split(".")[1]
        for other in {name.split(".")[1] for name in imported} - {package}:
            assert LEVEL[other] < LEVEL[package], f"{module} imports from ham_hf.{other}"


def test_no_modules_import_each_other():
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError with the modules of a cycle


def test_every_import_names_a_module():
    assert set.union(*IMPORTS.values()) <= MODULES.keys()


def test_no_file_has_more_than_400_lines():
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert not {module: length for module, length in lengths.items() if length > 400}
