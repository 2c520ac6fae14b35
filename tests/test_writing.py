"""Files written together: all or none, and a folder that cannot be is named."""

import pytest

from support.errors import BookError
from support.writing import plural, write_together


def test_all_are_there_and_no_temporary_file_is_left(tmp_path):
    made = write_together(tmp_path / "new" / "deep", {"a.csv": "1\n", "b.json": "{}\n"}, named_by="--out")
    assert [p.read_text() for p in made] == ["1\n", "{}\n"]
    assert sorted(p.name for p in (tmp_path / "new" / "deep").iterdir()) == ["a.csv", "b.json"]


def test_if_one_cannot_be_written_none_is_and_old_ones_stay(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    with pytest.raises(BookError, match="cannot be written .* Choose another folder with output_folder"):
        write_together(tmp_path, {"a.csv": "new", "no/such/b.json": "{}"}, named_by="output_folder")
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"] and (tmp_path / "a.csv").read_text() == "old"


def test_a_folder_in_the_place_of_the_last_file_leaves_the_first_as_it_was(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    (tmp_path / "b.json").mkdir()
    with pytest.raises(BookError, match="b.json"):
        write_together(tmp_path, {"a.csv": "new", "b.json": "{}"}, named_by="--out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "b.json"]
    assert (tmp_path / "a.csv").read_text() == "old"


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(BookError, match="taken: cannot be written"):
        write_together(tmp_path / "taken", {"a": "1"}, named_by="--out")


@pytest.mark.parametrize(
    "number, said",
    [(0, "0 days"), (1, "1 day"), (1.0, "1 day"), (1.5, "1.5 days"), (-1, "-1 days"), (12_345, "12,345 days")],
)
def test_only_one_is_singular(number, said):
    assert plural(number, "day") == said
