import pytest

from fer_tfdata import model_titles
from fer_tfdata.errors import InputError


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        (["pretrained"], ["pretrained"]),
        (["runs/a", "pretrained"], ["a", "pretrained"]),
        (["runs/a", "other/a"], ["runs-a", "other-a"]),
        (["runs/a/model.keras", "runs/b/model.keras"], ["a-model.keras", "b-model.keras"]),
        (["runs/ensemble"], ["runs-ensemble"]),
        (["runs/<b>&/", "x/.hidden"], ["b-", "hidden"]),
        (["a b", "a/b"], ["a-b", "b"]),
    ],
)
def test_titles_are_short_and_different(names, titles) -> None:
    found = model_titles.of(names)
    assert list(found) == names
    assert list(found.values()) == titles


def test_titles_that_would_be_the_same_are_numbered() -> None:
    assert sorted(set(model_titles.of(["/a b", "/a+b"]).values())) == ["a-b-1", "a-b-2"]


@pytest.mark.parametrize(
    "names",
    [
        ["runs/a", "runs/a"],
        ["runs/a", "./runs//a/"],
        ["runs/a", "runs/b/../a"],
        ["runs/a", "link/a"],
        ["runs/a", "runs/a/model.keras"],
    ],
)
def test_the_same_model_twice_is_refused(names, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("runs")
    with pytest.raises(InputError, match="--model: expected different models, received runs/a and"):
        model_titles.of(names)
