"""The imports hold against the table of WORKSPACE.md, and importing the package stays light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fer_tfdata"


def allowed_imports() -> dict[str, set[str]]:
    """Reads `| module | ... | imports |` rows out of WORKSPACE.md."""
    rows = {}
    for line in (ROOT / "WORKSPACE.md").read_text(encoding="utf-8").splitlines():
        match = re.match(r"\| `fer_tfdata/(\w+)(?:\.py|/)` \|.*\| ([^|]*) \|$", line)
        if match:
            rows[match[1]] = set(re.findall(r"\w+", match[2])) - {"nothing"}
    return rows


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def project_imports(path: Path) -> set[str]:
    return {
        name.split(".")[1]
        for name in imported_modules(path)
        if name.startswith("fer_tfdata.") and name != "fer_tfdata.__version__"
    }


def modules() -> dict[str, list[Path]]:
    found = {path.stem: [path] for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    found |= {path.name: sorted(path.glob("*.py")) for path in PACKAGE.iterdir() if path.is_dir()}
    return {name: files for name, files in found.items() if files}


def test_every_module_stands_in_the_table_and_no_other() -> None:
    assert set(modules()) == set(allowed_imports())


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_what_the_table_allows(module: str) -> None:
    allowed = allowed_imports()[module] | {module}
    for path in modules()[module]:
        assert project_imports(path) <= allowed, path


def test_the_table_has_no_circle() -> None:
    remaining = allowed_imports()
    while remaining:
        free = {name for name, imports in remaining.items() if not imports & set(remaining)}
        assert free, f"these import each other: {sorted(remaining)}"
        remaining = {name: imports for name, imports in remaining.items() if name not in free}


def test_flags_are_known_to_programs_alone() -> None:
    knowing = {
        path.stem
        for files in modules().values()
        for path in files
        if any(name.startswith("absl") for name in imported_modules(path))
    }
    assert knowing == {"command_line"}


def test_programs_do_not_import_each_other() -> None:
    for path in (ROOT / "tools").glob("*.py"):
        assert not any(name.startswith("tools") for name in imported_modules(path)), path


@pytest.mark.parametrize(
    "module",
    [
        *("", "expressions", "sources", "ferplus", "near_duplicates", "audit", "demo_faces"),
        *(
            "augmentation_config",
            "schedule",
            "conversion_config",
            "train_config",
            "command_line",
            "images",
            "faces",
        ),
    ],
)
def test_light_modules_import_no_tensorflow(module: str) -> None:
    name = f"fer_tfdata.{module}".rstrip(".")
    code = f"import sys, {name}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_importing_the_package_imports_nothing_else() -> None:
    # What makes it take a few milliseconds wherever it runs.
    code = (
        "import sys; before = set(sys.modules); import fer_tfdata;print(*set(sys.modules) - before)"
    )
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert output.split() == ["fer_tfdata"]
