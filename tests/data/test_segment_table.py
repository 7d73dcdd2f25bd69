"""Segments as columns: a table is the list of its segments, in a few bytes each."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from ophnet_ray.data.annotations import read_table
from ophnet_ray.data.segment_table import SegmentTable, as_table, join_tables, sort_by_id
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.text_column import TextColumn
from ophnet_ray.hashing import hash_ids

pytestmark = pytest.mark.unit

ROWS = [
    Segment("é:1-2:a", "c1", "/v/é.mp4", 1.0, 2.0, "a", "test"),
    Segment("z", "c2", "/v/z.mp4", 0.0, np.inf, "b", "train"),
    Segment("Z:0-1:b", "c1", "/v/é.mp4", 0.0, 1.0, "b", "train"),
]


def read(folder, num_rows=9000):
    """Read a table that is longer than what is made into objects at a time."""
    rows = [f"v{i // 7:04},{i % 7}.5,{i % 7 + 1},{i % 5},c{i // 14}" for i in range(num_rows)]
    path = folder / "a.csv"
    path.write_text("\n".join(["video_id,start,end,phase_id,case_id", *rows]))
    return read_table(path).segments


def test_a_table_is_the_sequence_of_its_segments():
    table = as_table(ROWS)
    assert as_table(table) is table
    assert table == ROWS
    assert list(table) == ROWS
    assert [table[i] for i in (0, -1)] == [ROWS[0], ROWS[-1]]
    assert table[1:] == ROWS[1:]
    assert ROWS[2] in table
    assert table != [*ROWS[:2], replace(ROWS[2], split="val")]
    assert pickle.loads(pickle.dumps(table)) == ROWS
    with pytest.raises(IndexError):
        table[3]


def test_chosen_rows_are_those_of_a_list(tmp_path):
    table = read(tmp_path)
    rows = list(table)
    assert rows[8999].segment_id == "v1285:4.5-5:4"
    mask = np.arange(len(rows)) % 3 == 1
    assert table.take(mask) == rows[1::3]
    order = np.array([8999, 0, 4096, 4095])
    assert table.take(order) == [rows[i] for i in order]
    split = table.with_splits(table.splits.replace_some(mask, "val"))
    assert split.of_splits(["val"]) == [replace(row, split="val") for row in rows[1::3]]
    assert table == rows


def test_ids_and_their_hashes_are_those_of_the_rows(tmp_path):
    table = read(tmp_path)
    ids = [row.segment_id for row in table]
    assert list(table.segment_ids()) == ids
    assert table.hash_ids().tolist() == hash_ids(ids).tolist()
    some = table.take(slice(5, None, 1000))
    assert some.hash_ids().tolist() == hash_ids(ids[5::1000]).tolist()
    assert [ids[i] for i in sort_by_id(table)] == sorted(ids)


def test_rows_are_sorted_by_their_ids_as_texts_are_and_then_by_their_other_texts():
    names = ["b", "a:10", "a:9", "ä", "𐍈", "\uffff", "", "a", "B"]
    rows = [Segment(name, "c", "v", 0.0, 1.0, "p") for name in names]
    assert [names[i] for i in sort_by_id(as_table(rows))] == sorted(names)
    twins = [Segment("a", case, "v", 0.0, 1.0, "p") for case in "cab"]
    assert sort_by_id(as_table(twins)).tolist() == [1, 2, 0]


def test_tables_of_two_kinds_are_joined_to_the_rows_of_both(tmp_path):
    table = read(tmp_path, 20)
    joined = join_tables([table[:3], SegmentTable.of_rows(()), as_table(ROWS), table[3:]])
    assert joined == [*table[:3], *ROWS, *table[3:]]
    assert join_tables([table[:3], table[3:]]) == table
    assert join_tables([]) == []


def test_texts_are_kept_once_and_listed_in_the_order_of_the_rows():
    column = TextColumn.of_texts(["b", "a", "b", "c"])
    assert (column.texts, column.numbers.tolist()) == (("b", "a", "c"), [0, 1, 0, 2])
    assert column.take(np.array([3, 1])).list_present() == ["c", "a"]
    united = column.rename({"a": "x", "b": "y", "c": "x"}.__getitem__)
    assert (list(united), united.texts) == (["y", "x", "y", "x"], ("y", "x"))
    assert list(column.replace_some(column.equal("b"), "c")) == ["c", "a", "c", "c"]


def test_a_row_takes_few_bytes(tmp_path):
    table = read(tmp_path)
    columns = (getattr(table, name) for name in ("names", "cases", "videos", "phases", "splits"))
    arrays = [*(column.numbers for column in columns), table.starts_s, table.ends_s, table.hashes]
    assert sum(array.nbytes for array in arrays) <= 48 * len(table)
