import subprocess
from pathlib import Path

from fer_tfdata import checkout


def test_a_commit_is_told_with_whether_files_differ_from_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checkout, "_ROOT", tmp_path)
    assert checkout.commit() is None
    for name in ("code.py", "benchmarks/results/speed.json"):
        write(tmp_path / name, "as it was")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "All")
    head = git(tmp_path, "rev-parse", "HEAD")
    write(tmp_path / "benchmarks" / "results" / "speed.json", "measured anew")
    write(tmp_path / "untracked.py", "")
    assert checkout.commit() == head
    write(tmp_path / "code.py", "edited")
    assert checkout.commit() == f"{head}-dirty"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
