"""How much may be wrong with a data set before it is refused."""

from __future__ import annotations

import pytest

from mipnet.data.validation import Findings, check_readable
from mipnet.errors import DataError


def test_only_the_first_few_are_named() -> None:
    invalid_annotations = Findings()
    for number in range(8):
        invalid_annotations.add("annotation without its image", f"annotation {100 + number}")
    (line,) = invalid_annotations.lines()
    named = ", ".join(f"annotation {i}" for i in range(100, 105))
    assert line == f"8 x annotation without its image: {named}"


def test_more_unreadable_images_than_the_limit() -> None:
    names = [f"{i}.jpg" for i in range(7)]
    check_readable(names, 100, 0.07)
    check_readable([], 0, 0.0)
    with pytest.raises(DataError, match=r"7 of 100 images .*\(0.jpg, .*, 4.jpg and 2 more\); mend them"):
        check_readable(names, 100, 0.06)


@pytest.mark.parametrize(("bad", "raised"), [(12, False), (11, True)])
def test_a_limit_is_only_offered_where_something_would_be_left(bad: int, raised: bool) -> None:
    invalid = Findings()
    invalid.add("box outside its image", *map(str, range(bad)))
    with pytest.raises(DataError) as people:
        invalid.check(12, 0.01, "a.json")
    with pytest.raises(DataError) as images:
        check_readable([f"{i}.jpg" for i in range(bad)], 12, 0.01)
    for error in (people.value, images.value):
        assert ("raise --data.max-bad-share" in error.hint) is raised
        assert error.hint.startswith("mend them")


@pytest.mark.parametrize(
    ("name", "bad", "hint"),
    [
        ("data/val/{}.jpg", 20, "check --data.images and --data.root: they were looked for in data/val"),
        ("data/val/{}", 20, "give each file_name its ending, such as .jpg, as in data/val"),
        ("data/val/{}.heic", 20, "convert HEIC to JPEG"),
        ("data/val/{}.jpg", 19, "check --data.images"),
        ("data/val/{}.jpg", 18, "mend them, or raise"),
    ],
)
def test_all_images_are_not_broken_but_elsewhere(name: str, bad: int, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        check_readable([name.format(i) for i in range(bad)], 20, 0.1, "data/val")
    assert caught.value.hint.startswith(hint)
