"""Annotation tables that are read, that are refused, and the messages."""

import math
import os
import tempfile
import threading
import tracemalloc
from pathlib import Path

import pytest

from ophnet_ray.data.annotations import (
    count_quirks,
    find_missing_videos,
    parse_annotations,
    phase_vocabulary,
    read_annotations,
    read_table,
)
from ophnet_ray.data.table_file import AnnotationError, TableFile
from ophnet_ray.errors import UserError
from tests.helpers.users import as_another_user

pytestmark = pytest.mark.unit


def write(folder, text, encoding="utf-8", name="a.csv"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_reads_segments_with_any_newline_and_byte_order_mark(tmp_path, newline, encoding):
    text = newline.join(["video_id,start,end,split,phase_id", "001,0,2.5,train,7", ""])
    (segment,) = read_annotations(write(tmp_path, text, encoding))
    assert (segment.case_id, segment.start_s, segment.end_s) == ("001", 0.0, 2.5)
    assert (segment.phase, segment.split) == ("7", "train")
    assert segment.video == str(tmp_path / "001.mp4")


def test_a_clip_is_a_whole_video_and_its_case_is_the_name_before_the_phase(tmp_path):
    (segment,) = read_annotations(write(tmp_path, "video_path,phase\na-1-open-0-3.mp4,open\n"))
    assert (segment.start_s, segment.end_s) == (0.0, math.inf)
    assert segment.case_id == "a-1"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        pytest.param(["case1/clip01.mp4,a", "case1/clip02.mp4,b"], "2 of 2 rows", id="folders"),
        pytest.param(["c-a-0-3.mp4,a", "clip02.mp4,b"], "1 of 2 rows", id="one name"),
        pytest.param(["c-a-0-3.mp4,b", "c-b-3-5.mp4,b"], "1 of 2 rows", id="other phase"),
    ],
)
def test_clips_whose_cases_cannot_be_told_are_refused_in_one_line(tmp_path, rows, says):
    text = "\n".join(["video_path,phase", *rows])
    with pytest.raises(AnnotationError) as caught:
        read_annotations(write(tmp_path, text))
    message = str(caught.value)
    assert says in message
    assert "add a case_id column, or give --case_from folder (one folder per case) or" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("case_from", "cases"),
    [
        ("auto", ["c1", "c1", "c2"]),
        ("column", ["c1", "c1", "c2"]),
        ("folder", ["d/1", "d/1", "d/2"]),
        ("name", ["x-3", "x-3", "y"]),
        ("clip", ["d/1/X_3-3-0-9.mp4", "d/1/x-3-4-9-12.mp4", "d/2/y_4_0.5_9.mp4"]),
    ],
)
def test_the_source_of_the_cases_can_be_chosen(tmp_path, case_from, cases):
    clips = ["d/1/X_3-3-0-9.mp4,3,c1", "d/1/x-3-4-9-12.mp4,4,c1", "d/2/y_4_0.5_9.mp4,4,c2"]
    path = write(tmp_path, "\n".join(["video_path,phase,case_id", *clips]))
    table = read_table(path, case_from=case_from)
    found = [segment.case_id for segment in table.segments]
    assert [case_id.casefold().replace("_", "-") for case_id in found] == [
        case_id.casefold().replace("_", "-") for case_id in cases
    ]
    assert table.case_rule == ("column" if case_from == "auto" else case_from)
    assert len(set(found)) == len(set(cases))


def test_a_case_id_that_is_missing_in_some_rows_is_refused(tmp_path):
    text = "video_id,start,end,phase,case_id\nv,0,1,a,c\nv,1,2,b, \n"
    with pytest.raises(AnnotationError, match=r":3: case_id is empty"):
        read_annotations(write(tmp_path, text))
    nowhere = text.replace(",c\n", ",\n")
    assert {s.case_id for s in read_annotations(write(tmp_path, nowhere))} == {"v"}
    with pytest.raises(UserError, match="--case_from column: the table has no case_id column"):
        read_annotations(write(tmp_path, nowhere), case_from="column")


def test_a_clip_without_a_folder_has_no_case_of_the_folder(tmp_path):
    with pytest.raises(AnnotationError, match="it is in no folder"):
        read_annotations(write(tmp_path, "video_path,phase\nv.mp4,a\n"), case_from="folder")


def test_the_case_of_a_clip_is_found_by_the_name_of_the_phase_also_beside_its_id(tmp_path):
    text = "video_path,phase_id,phase\nA-cut-0-3.mp4,3,cut\nA-sew-3-5.mp4,4,sew\n"
    segments = read_annotations(write(tmp_path, text))
    assert {segment.case_id for segment in segments} == {"A"}
    assert [segment.phase for segment in segments] == ["3", "4"]


@pytest.mark.parametrize("video_id", ["", "a,"])
def test_a_path_with_a_start_and_an_end_is_a_segment_of_a_video(tmp_path, video_id):
    columns = "video_path,video_id,start,end,phase" if video_id else "video_path,start,end,phase"
    rows = [f"d/a.mp4,{video_id}{times},3" for times in ("1,2", "4,5.5")]
    segments = read_annotations(write(tmp_path, "\n".join([columns, *rows])))
    assert [(s.start_s, s.end_s) for s in segments] == [(1.0, 2.0), (4.0, 5.5)]
    assert {s.video for s in segments} == {str(tmp_path / "d/a.mp4")}
    assert {s.case_id for s in segments} == {"a" if video_id else "d/a.mp4"}
    assert len({s.segment_id for s in segments}) == 2


def test_a_path_with_an_interval_and_no_video_id_in_some_rows_is_refused(tmp_path):
    text = "video_path,video_id,start,end,phase\na.mp4,a,0,1,3\na.mp4,,1,2,3\n"
    with pytest.raises(AnnotationError, match=r":3: video_id is empty"):
        read_annotations(write(tmp_path, text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3", "03"),
        ("3", "3.0"),
        ("3", " 3"),
        ("open up", "open  up "),
        ("phase 3", "Phase_03"),
        ("incision", "Incision"),
    ],
)
def test_two_spellings_of_a_phase_are_no_two_classes(tmp_path, one, other):
    text = f"video_id,start,end,phase\nv,0,1,{one}\nv,1,2,x\nv,2,3,{other}\n"
    with pytest.raises(AnnotationError) as caught:
        read_annotations(write(tmp_path, text))
    assert f"a.csv:4: phase {other!r} differs from {one!r} in line 2 only" in str(caught.value)


def test_phases_that_differ_in_more_than_spelling_are_kept_byte_for_byte(tmp_path):
    phases = ["1", "-1", "10", "1.1", "1.10", "0.5", "001a", "1a", "ab", "a b", "0", "x0"]
    rows = [f"v,{i},{i + 1},{phase}" for i, phase in enumerate(phases)]
    path = write(tmp_path, "\n".join(["video_id,start,end,phase", *rows]))
    assert [segment.phase for segment in read_annotations(path)] == phases


def test_a_name_is_no_class_beside_the_ids(tmp_path):
    text = "video_id,start,end,phase_id,phase\nv,1,2,3,Incision\nv,3,4,,Incision\n"
    with pytest.raises(AnnotationError, match=r":3: phase_id is empty beside phase 'Incision'"):
        read_annotations(write(tmp_path, text))


def test_finds_a_video_whatever_its_suffix(tmp_path):
    (tmp_path / "v.MKV").touch()
    segments = read_annotations(write(tmp_path, "video_id,start,end,phase\nv,0,1,a\nw,0,1,b\n"))
    assert segments[0].video.endswith("v.MKV")
    assert find_missing_videos(segments) == [str(tmp_path / "w.mp4")]


def test_finds_a_video_whose_suffix_is_in_the_id_after_one_whose_name_the_id_is(tmp_path):
    for name in ("v.avi", "w.mp4", "w.mp4.mkv"):
        (tmp_path / name).touch()
    rows = "v.avi,0,1,a\nw.mp4,0,1,b\nx.mp4,0,1,b\n"
    segments = read_annotations(write(tmp_path, f"video_id,start,end,phase\n{rows}"))
    assert [Path(segment.video).name for segment in segments[:2]] == ["v.avi", "w.mp4.mkv"]
    assert len(find_missing_videos(segments)) == 1


def test_whole_numbers_sort_as_numbers_and_names_after_them(tmp_path):
    rows = "\n".join(f"v,{i},{i + 1},{phase}" for i, phase in enumerate(["10", "b", "2", "a"]))
    segments = read_annotations(write(tmp_path, f"video_id,start,end,phase\n{rows}\n"))
    assert phase_vocabulary(segments) == ["2", "10", "a", "b"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param("\n \n", "is empty", id="blank"),
        pytest.param(
            "\nvideo_id,start,end,phase\nv,0,1,a\n", "a.csv:1: the header is blank", id="blank line"
        ),
        pytest.param("video_id,start,end,phase\n", "holds no rows", id="header only"),
        pytest.param("video_id,start,phase\nv,0,a\n", "column end is missing", id="no end"),
        pytest.param(
            "video_path,start,phase\nv.mp4,0,a\n", "column end is missing", id="path, no end"
        ),
        pytest.param(
            "video_path,end,phase\nv.mp4,1,a\n", "column start is missing", id="path, no start"
        ),
        pytest.param("a,b\n1,2\n", "video_path (clips) or", id="neither kind"),
        pytest.param(
            "video_id,start,end\nv,0,1\n", "phase_id (or phase) is missing", id="no phase"
        ),
        pytest.param(
            "video_id,start,end,phase\nv,3,2,a\n", ":2: start 3 s is not before", id="end"
        ),
        pytest.param("video_id,start,end,phase\nv,0,x,a\n", ":2: end 'x' is not a time", id="time"),
        pytest.param("video_id,start,end,phase\nv,0,nan,a\n", "not a time", id="nan"),
        pytest.param(
            "video_id,start,end,phase\nv,0,1,a\nv,0,1,a\n", ":3: repeats line 2", id="twice"
        ),
        pytest.param("video_id,start,end,phase\nv,0,1\n", ":2: 3 values for 4", id="ragged"),
        pytest.param("video_id,start,end,phase,split\nv,0,1,a,dev\n", "split 'dev'", id="split"),
        pytest.param("video_id,start,end,phase\nv,0,1,\n", "phase is empty", id="phase"),
        pytest.param("video_id,video_id,phase\nv,0,1\n", "occurs twice", id="column twice"),
        pytest.param(
            "video_id;start;end;phase\nv;0;1;a\n",
            "by semicolons; save the table with commas",
            id="semicolons",
        ),
        pytest.param("video_id\tstart\tend\tphase\nv\t0\t1\ta\n", "by tabs; save", id="tabs"),
        pytest.param(
            "start,end,phase\n0,1,a\n",
            "video_id is the name of the video file without",
            id="one file per video without video_id",
        ),
    ],
)
def test_names_what_is_wrong_and_where(tmp_path, text, says):
    with pytest.raises(AnnotationError) as caught:
        read_annotations(write(tmp_path, text))
    assert says in str(caught.value)
    assert "a.csv" in str(caught.value)


def test_shows_ten_errors_and_counts_the_rest(tmp_path):
    rows = "".join(f"v,{i},0,a\n" for i in range(1, 16))
    with pytest.raises(AnnotationError) as caught:
        read_annotations(write(tmp_path, f"video_id,start,end,phase\n{rows}"))
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "and 5 more errors"


def test_a_folder_and_a_missing_file_have_their_own_errors(tmp_path):
    with pytest.raises(AnnotationError, match="is a folder"):
        read_annotations(tmp_path)
    with pytest.raises(AnnotationError, match="does not exist"):
        read_annotations(tmp_path / "none.csv")


def test_counts_overlaps_gaps_and_short_segments(tmp_path):
    text = "video_id,start,end,phase\nv,0,5,a\nv,4,8,b\nv,9,9.06,a\nw,3,7,a\n"
    counts = count_quirks(read_annotations(write(tmp_path, text)))
    assert counts == {"overlaps": 1, "gaps": 1, "shorter_than_1_s": 1}


def test_the_published_table_of_ophnet_is_read_whole(shared_data):
    segments = read_annotations(shared_data / "ophnet2024/OphNet2024_loca_challenge_phase.csv")
    assert len(segments) == 14_674
    assert len(phase_vocabulary(segments)) == 52
    assert len(find_missing_videos(segments)) == 743
    assert count_quirks(segments)["overlaps"] == 186
    assert count_quirks(segments)["gaps"] == 407


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("video_path", "../other/w.mp4"),
        ("video_path", "{outside}/w.mp4"),
        ("video_path", "file://{outside}/w.mp4"),
        ("video_path", "link.mp4"),
        ("video_path", "s3://bucket/w.mp4"),
        ("video_path", "folder/../../other/w.mp4"),
        ("video_id", "../other/w"),
        ("video_id", "{outside}/w"),
        ("video_id", "link"),
    ],
)
def test_a_row_outside_the_folder_of_the_videos_is_refused_and_allowed_on_request(
    tmp_path, columns, row
):
    outside, videos = tmp_path / "other", tmp_path / "videos"
    for folder in (outside, videos):
        folder.mkdir()
        (folder / "w.mp4").touch()
    (videos / "link.mp4").symlink_to(outside / "w.mp4")
    row = row.format(outside=outside)
    path = write(
        tmp_path,
        f"{columns},start,end,phase\nw{'.mp4' * (columns[-1] == 'h')},0,1,a\n{row},0,1,b\n",
    )
    with pytest.raises(AnnotationError, match=r"a.csv:3: .* lies outside of .*--allow_outside"):
        read_annotations(path, videos)
    assert len(read_annotations(path, videos, allow_outside=True)) == 2


def test_a_folder_of_links_is_read_through_a_link_to_it(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/v.mp4").touch()
    (tmp_path / "videos").symlink_to(tmp_path / "disk")
    path = write(tmp_path, f"video_path,phase\n{tmp_path}/disk/v.mp4,a\n")
    for folder in ("disk", "videos"):
        (segment,) = read_annotations(path, tmp_path / folder, "clip")
        assert find_missing_videos([segment]) == []


def test_rows_of_a_bucket_stay_in_it_and_are_asked_at_its_own_endpoint(tmp_path):
    path = write(tmp_path, "video_path,phase\ns3://b/videos/v.mp4,a\n")
    (segment,) = read_annotations(path, "s3://b/videos?region=x", "clip")
    assert segment.video == "s3://b/videos/v.mp4?region=x"
    for other in ("s3://b/other", "s3://c/videos", "gs://b/videos", "s3://b/video"):
        with pytest.raises(AnnotationError, match="lies outside of"):
            read_annotations(path, other, "clip")


@pytest.mark.parametrize("allow_outside", [False, True])
def test_no_row_names_the_endpoint_that_gets_this_machines_signed_requests(tmp_path, allow_outside):
    row = "s3://b/v.mp4?endpoint_override=http%3A%2F%2Fevil&region=x"
    path = write(tmp_path, f"video_path,phase\n{row},a\n")
    with pytest.raises(AnnotationError, match="a URI in a table takes no options"):
        read_annotations(path, "s3://b", "clip", allow_outside=allow_outside)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            'video_id,start,end,phase\n"v\nerror: forged",0,1,a\n',
            r"holds the control character '\\n'",
        ),
        ("video_id,start,end,phase\nv,0,1,\x1b[31mcut\n", r"holds the control character '\\x1b'"),
        ("video_path,phase\nv\0.mp4,a\n", r"holds the control character '\\x00'"),
        ("video_id,start,end,phase,case_id\nv,0,1,a,\u202ec\n", r"character '\\u202e'"),
        (f"video_id,start,end,phase\nv,0,1,{'1' * 5000}\n", "it has 5,000 characters"),
        ("video_path,phase\ns3://[::1,a\n", "video_path: no valid URI"),
        ("video_path,phase\nfile://[,a\n", "video_path: no valid URI"),
        ("video_path,phase\ns3://b\u2100/x,a\n", "video_path: no valid URI"),
        ("video_id,start,\x1b]0;owned\x07end,phase\nv,0,1,a\n", r"found: .*\\x1b\]0;owned\\x07end"),
    ],
)
def test_what_no_name_may_hold_is_refused_without_a_control_character(tmp_path, text, says):
    with pytest.raises(AnnotationError, match=says) as refused:
        read_annotations(write(tmp_path, text))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "row", ["video_path,phase\n{},a\n", "video_id,start,end,phase\n{},0,1,a\n"]
)
def test_a_name_that_no_file_can_have_is_a_missing_video(tmp_path, row):
    segments = read_annotations(write(tmp_path, row.format("a" * 256)), case_from="clip")
    assert find_missing_videos(segments) == [segments[0].video]


def test_long_numbers_are_phases_of_their_own(tmp_path):
    phases = ["9" * 400, "12345678901234567890", "12345678901234567891"]
    rows = "".join(f"v,{i},{i + 1},{phase}\n" for i, phase in enumerate(phases))
    segments = read_annotations(write(tmp_path, f"video_id,start,end,phase\n{rows}"))
    assert phase_vocabulary(segments) == [*phases[1:], phases[0]]


@pytest.mark.parametrize("row", ["video_id,start,end,phase\nv,0,1,a", "video_path,phase\nv.mp4,a"])
def test_a_folder_of_videos_that_may_not_be_read_is_named(row):
    with tempfile.TemporaryDirectory() as public:
        Path(public).chmod(0o755)
        (Path(public) / "a.csv").write_text(row)
        (videos := Path(public) / "videos").mkdir()
        # also loads what the reader imports: another user may not read this environment
        assert len(read_annotations(f"{public}/a.csv", videos, "clip")) == 1
        videos.chmod(0)
        says = f"folder {videos} cannot be read: permission denied; check --video_dir"
        with as_another_user(), pytest.raises(UserError, match=says):
            read_annotations(f"{public}/a.csv", videos, "clip")


def test_a_table_is_read_through_a_pipe(tmp_path):
    """As with ``--csv_path <(command)``: it can be read only once."""
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    text = "video_id,start,end,phase,case_id\nv,0,1,a,\nv,1,2,b,c\nv,2,3,b,\n"
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    with pytest.raises(AnnotationError, match=r"pipe\.csv:2: case_id is empty\n.*:4: case_id"):
        read_annotations(pipe)
    writer.join()


def test_rows_of_another_length_are_named_before_the_others_and_ten_in_all(tmp_path):
    rows = ["v,-1,1,a" if i % 2 else "v,0" for i in range(30)]
    with pytest.raises(AnnotationError) as caught:
        read_annotations(write(tmp_path, "\n".join(["video_id,start,end,phase", *rows])))
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[2] for line in lines[:10]] == ["2 values for 4 columns"] * 10
    assert lines[10:] == ["and 20 more errors"]


def test_the_byte_that_is_no_text_is_counted_from_the_start_of_the_file(tmp_path):
    content = "video_id,start,end,phase\n".encode("utf-8-sig") + b"v,0,1,a\n" * 200_000
    path = tmp_path / "a.csv"
    path.write_bytes(content + b"v,1,2,\xff\n")
    with pytest.raises(AnnotationError, match=rf"is not UTF-8 text \(byte {len(content) + 6}\)"):
        read_annotations(path)


def swap_columns(path):
    new = path.with_name("new.csv")
    new.write_text("video_id,end,start,phase\nv,0,1,a\n")
    new.replace(path)


def append_row(path):
    with path.open("ab") as file:
        file.write(b"v,1,2,b\n")


def append_no_text(path):
    with path.open("ab") as file:
        file.write(b"v,1,2,\xff\n")


def append_open_quote(path):
    with path.open("ab") as file:
        file.write(b'v,1,2,"b\n')


@pytest.mark.parametrize("change", [swap_columns, append_row, append_no_text, append_open_quote])
def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path, change):
    """Its header, cases and rows are read one after another: two versions would be mixed."""
    path = write(tmp_path, "video_id,start,end,phase\nv,0,1,a\n")
    file = TableFile(str(path))
    assert list(file.rows()) == [
        (1, ["video_id", "start", "end", "phase"]),
        (2, ["v", "0", "1", "a"]),
    ]
    change(path)
    with pytest.raises(AnnotationError, match=r"a\.csv changed while it was read; start again$"):
        list(file.rows())


@pytest.mark.parametrize("change", [append_row, append_no_text, append_open_quote])
def test_a_table_that_grows_between_two_of_its_rows_is_refused(tmp_path, change):
    path = write(tmp_path, "video_id,start,end,phase\nv,0,1,a\n")
    rows = TableFile(str(path)).rows()
    next(rows)
    change(path)
    with pytest.raises(AnnotationError, match="changed while it was read"):
        list(rows)


def test_a_table_that_goes_while_it_is_read_is_named(tmp_path):
    path = write(tmp_path, "video_id,start,end,phase\nv,0,1,a\n")
    file = TableFile(str(path))
    path.unlink()
    with pytest.raises(AnnotationError, match=r"a\.csv does not exist"):
        list(file.rows())
    path.mkdir()
    with pytest.raises(AnnotationError, match=r"a\.csv is a folder"):
        list(file.rows())


def test_a_data_frame_without_rows_is_named_as_a_table(tmp_path):
    with pytest.raises(AnnotationError, match=r"^the table holds no rows; "):
        parse_annotations([], tmp_path)


def test_the_memory_of_a_table_is_that_of_its_segments(tmp_path):
    """Neither the text nor the values of all rows are kept beside them."""
    num_rows = 4000
    notes = "x" * 2000
    rows = [f"v{i % 50},{i},{i + 1},a,case_{i % 50:030d},{notes}" for i in range(num_rows)]
    path = write(tmp_path, "\n".join(["video_id,start,end,phase,case_id,notes", *rows]))
    del rows
    tracemalloc.start()
    segments = read_annotations(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{peak_bytes / num_rows:.0f} bytes per row")
    assert peak_bytes < 900 * num_rows
    assert len({id(segment.case_id) for segment in segments}) == 50


def test_the_memory_of_a_clip_is_that_of_its_texts(tmp_path):
    """The meaning of a clip is not remembered for other rows, which are other clips."""
    num_rows = 8000
    rows = [f"clips/{i // 500}/{i}.mp4,c{i // 500},p{i % 50}" for i in range(num_rows)]
    path = write(tmp_path, "\n".join(["video_path,case_id,phase", *rows]))
    read_table(path)  # what is imported, and Python's own table of texts, which grows by leaps
    tracemalloc.start()
    table = read_table(path).segments
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{peak_bytes / num_rows:.0f} bytes per row")
    assert peak_bytes < 760 * num_rows
    assert [table[0].segment_id, table[-1].segment_id] == ["clips/0/0.mp4", "clips/15/7999.mp4"]


def test_two_names_of_a_clip_are_one_video_and_a_name_that_comes_again_is_refused(tmp_path):
    lines = ["video_path,case_id,phase", "d/a.mp4,c,x", "d/b.mp4,c,x", "d//a.mp4,c,y"]
    table = read_table(write(tmp_path, "\n".join(lines))).segments
    assert table.videos.texts == tuple(str(tmp_path / name) for name in ("d/a.mp4", "d/b.mp4"))
    assert [row.phase for row in table if row.video == table.videos[0]] == ["x", "y"]
    with pytest.raises(AnnotationError, match=r":5: repeats line 3; delete one$"):
        read_table(write(tmp_path, "\n".join([*lines, "d/b.mp4,c,y"])))
