"""Records that are only added: no number is given twice, and none is lost."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.storage.numbered_records import add_record, read_records

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("is_in_bucket", [False, True])
def test_records_that_are_added_at_one_time_get_numbers_of_their_own(
    bucket, tmp_path, is_in_bucket
):
    folder = bucket.uri("records/many") if is_in_bucket else str(tmp_path / "many")
    assert read_records(folder) == {}
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda k: add_record(folder, {"k": k}), range(12)))
    assert sorted(numbers) == list(range(1, 13))
    records = read_records(folder)
    assert [records[number]["k"] for number in numbers] == list(range(12))


def test_what_a_killed_writer_left_is_no_record_and_a_damaged_one_is_refused(tmp_path):
    add_record(str(tmp_path), {"k": 1})
    (tmp_path / ".new.0123").write_text("half of")
    assert add_record(str(tmp_path), {"k": 2}) == 2
    first = tmp_path / "0001.json"
    first.write_text(first.read_text().replace("1", "7", 1))
    with pytest.raises(UserError, match=r"0001\.json is damaged .* restore it, or delete it"):
        read_records(str(tmp_path))
    first.unlink()
    assert list(read_records(str(tmp_path))) == [2]
    assert add_record(str(tmp_path), {"k": 3}) == 3
