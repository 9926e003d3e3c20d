"""Which image an entry of another file is of, and what is refused because it would be a guess."""

from __future__ import annotations

from typing import Any

import pytest

from mipnet.data.image_matching import ImageMatcher, number_in_name, stem
from mipnet.errors import DataError

DAYS = ["0.jpg", "day/1.jpg", "day/2.jpg", "night/1.jpg"]


def match(matcher: ImageMatcher, *entries: dict[str, Any]) -> list[int | None]:
    return matcher.match(entries, "x.json", "box")


def names(*given: str) -> list[dict[str, Any]]:
    return [{"file_name": name} for name in given]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (DAYS, [0, 1, 2, 3]),
        ([f"/home/anna/{name}" for name in DAYS], [0, 1, 2, 3]),
        ([f"s3://bucket/set/{name}" for name in DAYS], [0, 1, 2, 3]),
        (["C:\\set\\day\\1.jpg", "night\\1.jpg", ".\\0.jpg"], [None, 3, 0]),  # one is a path of its own
        (["day/1", "night/1", "2", "0"], [1, 3, 2, 0]),
        (["day/1.png", "night/1.png", "0.PNG"], [1, 3, 0]),
        (["./day/1.jpg", "day//1.jpg", " 0.jpg "], [1, 1, 0]),
        (["other/0.jpg", "9.jpg", "day/1.jpg.bak"], [0, None, None]),
    ],
)
def test_by_names_of_any_root_and_ending(given: list[str], found: list[int | None]) -> None:
    assert match(ImageMatcher(DAYS), *names(*given)) == found


def test_a_name_of_other_letters_of_unicode_is_the_same() -> None:
    assert match(ImageMatcher(["cafe\u0301.jpg"]), *names("caf\u00e9.jpg")) == [0]


def test_what_fits_less_well_than_another_is_of_another_image() -> None:
    matcher = ImageMatcher(["0.jpg", "1.jpg"])
    assert match(matcher, *names("0.jpg", "day/0.jpg", "0.png", "night/1.jpg")) == [0, None, None, 1]
    paths = ImageMatcher(["0.jpg"], paths=["/p/day/0.jpg"])
    assert match(paths, *names("/p/day/0.jpg", "/p/night/0.jpg")) == [0, None]
    assert match(paths, *names("day/0.jpg", "night/0.jpg")) == [0, None]
    assert match(paths, *names("day/9.jpg", "/x/y/0.jpg")) == [None, 0]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (names("1.jpg"), r"box 0 is of '1.jpg', which fits several images \(day/1.jpg, night/1.jpg\)"),
        (names("0.jpg", "1"), "box 1 is of '1', which fits several"),
        (names("a/0.jpg", "b/0.jpg"), "box 1 is of 'b/0.jpg', which fits 0.jpg, as 'a/0.jpg' does"),
        (names("0.png", "0.bmp"), "box 1 is of '0.bmp', which fits 0.jpg, as '0.png' does"),
        ([{"image_id": 1}], r"box 0 is of 1, which fits several images \(day/1.jpg, night/1.jpg\)"),
    ],
)
def test_what_fits_several_is_refused(entries: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DataError, match=f"^x.json: {words}"):
        match(ImageMatcher(DAYS), *entries)


def test_ids_count_where_people_gave_them_else_numbers_in_names() -> None:
    listed = ["2.jpg", "1.jpg", "b.jpg", "a.jpg"]
    given = ImageMatcher(listed, [1, 2, "a", "b"])
    assert match(given, *({"image_id": i} for i in (1, 2.0, "a", "b", 3, None, [1], True))) == [
        0, 1, 2, 3, None, None, None, None,
    ]  # fmt: skip
    assert match(given, {"image_id": "2.jpg"}) == [0]
    assert match(given, {"image_id": 1, "file_name": ""}, {"image_id": 2, "file_name": None}) == [0, 1]
    assert match(given, {"image_id": 1, "file_name": "1.jpg"}) == [1]
    assert match(given, {"image_id": 1, "file_name": "9.jpg"}) == [None]
    with pytest.raises(DataError, match="box 0 is of '1', which fits several images"):
        match(given, {"image_id": "1"})  # the id of one image and the name of another
    assert match(ImageMatcher(listed), *({"image_id": i} for i in (1, "02", "a", "b.jpg", 3))) == [
        1, 0, 3, 2, None,
    ]  # fmt: skip


def test_ids_of_two_kinds_are_refused() -> None:
    matcher = ImageMatcher(["000000000139.jpg", "000000000285.jpg"], [1, 2])
    assert match(matcher, {"image_id": 139}, {"image_id": 285}) == [0, 1]
    with pytest.raises(DataError, match="box 1 is of 139, the number in an image's name, while"):
        match(matcher, {"image_id": 2}, {"image_id": 139})


def test_entries_of_one_image_are_told_apart_by_ids_that_are_known_to_be_theirs() -> None:
    matcher = ImageMatcher(["a.jpg", "a.jpg", "5.jpg"], [5, 6, 7])
    both = [{"file_name": "a.jpg", "image_id": i} for i in (6, 5)]
    assert match(matcher, *both, {"image_id": 5}) == [1, 0, 0]
    with pytest.raises(DataError, match=r"box 0 is of 'a.jpg', which fits several images \(a.jpg\)"):
        match(matcher, both[1])  # 5 may be a number of another list
    with pytest.raises(DataError, match="which fits several images"):
        match(matcher, *both, {"file_name": "a.jpg"})


def test_stems_and_numbers() -> None:
    assert [stem(n) for n in ("a.jpg", "a.b.jpeg", ".jpg", "t.parquet#row=3", "a")] == [
        "a", "a.b", ".jpg", "t.parquet#row=3", "a",
    ]  # fmt: skip
    assert [number_in_name(n) for n in ("d/000139.jpg", "-1.jpg", "1a.jpg", "²", "9" * 19)] == [
        139, None, None, None, None,
    ]  # fmt: skip
