"""The check that a public class has its name for itself."""

from pathlib import Path

from scripts.sizes import namesakes


def test_two_public_classes_of_one_name_are_found_and_private_or_distant_ones_are_not(tmp_path: Path) -> None:
    for folder in ("one", "two", "apart"):
        (tmp_path / "package" / folder).mkdir(parents=True)
        (tmp_path / "package" / folder / "part.py").write_text(
            "class Same: ...\nclass _Own: ...\n", encoding="utf-8"
        )
    (tmp_path / "package" / "one" / "other.py").write_text("class Other: ...\n", encoding="utf-8")
    assert namesakes(tmp_path, "package", apart=("apart/",)) == ["Same: one/part.py, two/part.py"]
