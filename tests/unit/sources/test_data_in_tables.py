"""Rows from CSV and Parquet files: what becomes of columns, and what is wrong is told by file, row and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import InvalidData, InvalidJob
from orchestrator.spec import parse_job
from orchestrator.training.data import Dataset
from orchestrator.training.sources import tables
from orchestrator.training.sources.files import S3Settings, find_files
from orchestrator.training.sources.load import load_job_data, read_rows
from orchestrator.training.sources.scan import scan

IRIS = "length,width,species\n1.5,0.2,setosa\n4,1.3,versicolor\n5.5,2,virginica\n1,0.1,setosa\n"


def load(source: Any, **data: Any) -> Dataset:
    job = parse_job({"name": "a", "model": "m:f", "data": {"source": source, "validation_split": 0, **data}})
    return load_job_data(job)


def csv(folder: Path, text: str, name: str = "rows.csv") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def parquet(folder: Path, columns: dict[str, Any], name: str = "rows.parquet", **options: Any) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def test_columns_side_by_side_are_one_input_and_texts_become_codes_in_sorted_order(tmp_path: Path) -> None:
    dataset = load(csv(tmp_path, IRIS), features=["length", "width"], label="species")

    assert dataset.train.x.dtype == np.float32
    np.testing.assert_allclose(dataset.train.x, [[1.5, 0.2], [4, 1.3], [5.5, 2], [1, 0.1]], rtol=1e-6)
    assert dataset.train.y.tolist() == [0, 1, 2, 0]
    assert dataset.train.y.dtype == np.int64
    assert dataset.class_names == {"": ("setosa", "versicolor", "virginica")}
    assert dataset.loaded().class_names == dataset.class_names
    assert dataset.codes == {"species": ("setosa", "versicolor", "virginica")}


@pytest.mark.parametrize("owners", [["b", "a", "b", "a", "c", "c"], [7, 3, 7, 3, 9, 9]], ids=["texts", "numbers"])
def test_a_column_of_groups_is_no_feature_and_keeps_rows_together(tmp_path: Path, owners: list[Any]) -> None:
    table = {"a": [1, 2, 3, 4, 5, 6], "owner": owners, "y": [0, 1, 0, 1, 0, 1]}
    dataset = load(parquet(tmp_path, table), label="y", groups="owner")
    assert dataset.train.x.tolist() == [[1], [2], [3], [4], [5], [6]]
    assert dataset.groups is not None
    assert dataset.groups.tolist() == [1, 0, 1, 0, 2, 2]
    assert dataset.codes == {}, "whose rows they are is nobody's business"
    split = load(parquet(tmp_path, table), label="y", groups="owner", validation_split=0.3)
    assert split.validation is not None
    assert len({owners[int(row) - 1] for row in split.validation.x[:, 0]}) == 1


def test_groups_are_refused_where_they_could_not_be_kept_together(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="needs the training rows in memory"):
        load(csv(tmp_path, IRIS), label="species", groups="width", stream=True)
    with pytest.raises(InvalidJob, match="is for data in files"):
        load("jobs.digits:load_data", groups="owner")


def test_features_are_by_default_all_columns_that_nothing_else_is_said_of(tmp_path: Path) -> None:
    table = {"a": [1, 2], "w": [0.5, 2.0], "b": [True, False], "y": [0.5, 1.5]}
    dataset = load(parquet(tmp_path, table), label="y", weight="w")

    assert dataset.train.x.tolist() == [[1, 1], [2, 0]]
    assert dataset.train.w is not None
    assert dataset.train.w.tolist() == [0.5, 2.0]
    assert dataset.train.y.dtype == np.float32


def test_the_order_of_class_names_is_that_of_the_codes(tmp_path: Path) -> None:
    names = ["virginica", "setosa", "versicolor"]
    dataset = load(csv(tmp_path, IRIS), features=["length"], label="species", class_names=names)

    assert dataset.train.y.tolist() == [1, 2, 0, 1]


def test_a_label_that_class_names_do_not_have_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"row 2 \(from 0\), column 'species': 'virginica' is none of") as caught:
        load(csv(tmp_path, IRIS), features=["length"], label="species", class_names=["setosa", "versicolor"])
    assert "rows.csv" in str(caught.value.where)


def test_inputs_and_outputs_by_name_have_types_and_shapes_of_their_own(tmp_path: Path) -> None:
    table = {f"pixel{i}": pa.array([i, 10 + i, 250], pa.uint8()) for i in range(4)}
    table |= {"island": ["b", "a", "b"], "tokens": [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "sex": ["m", "f", "m"]}
    table |= {"mass": [1.5, 2.5, 3.5]}
    features = {
        "image": {"columns": ["pixel*"], "shape": [2, 2], "dtype": "uint8"},
        "island": "island",
        "tokens": {"columns": "tokens", "dtype": "int32"},
        "both": ["pixel3", "tokens"],
    }

    dataset = load(parquet(tmp_path, table), features=features, label={"sex": "sex", "mass": ["mass"]})

    x = dataset.train.x
    assert x["image"].dtype == np.uint8
    assert x["image"].tolist() == [[[0, 1], [2, 3]], [[10, 11], [12, 13]], [[250, 250], [250, 250]]]
    assert (x["island"].dtype, x["island"].tolist()) == (np.int32, [1, 0, 1])
    assert (x["tokens"].dtype, x["tokens"].shape) == (np.int32, (3, 3))
    assert x["both"].tolist()[1] == [13, 4, 5, 6]
    assert dataset.train.y["sex"].tolist() == [1, 0, 1]
    assert dataset.train.y["mass"].shape == (3, 1)
    assert dataset.class_names == {"sex": ("f", "m")}


def test_the_same_rows_in_csv_and_parquet_are_the_same_data(tmp_path: Path) -> None:
    table = {"a": [1, 2, 3], "b": [0.5, 1.25, -2.0], "y": ["no", "yes", "no"]}
    text = "a,b,y\n1,0.5,no\n2,1.25,yes\n3,-2.0,no\n"

    assert load(csv(tmp_path, text), label="y").fingerprint == load(parquet(tmp_path, table), label="y").fingerprint


NESTED = [[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 0], [1, 2]]]
KINDS: dict[str, tuple[Any, Any]] = {
    "dictionary of texts": (pa.array(["b", "a", "b"]).dictionary_encode(), [1, 0, 1]),
    "large text": (pa.array(["b", "a", "b"], pa.large_string()), [1, 0, 1]),
    "lists of texts": ([["b", "a"], ["a", "c"], ["b", "b"]], [[1, 0], [0, 2], [1, 1]]),
    "flags": ([True, False, True], [1, 0, 1]),
    "decimals": (pa.array([1, 2, 3], pa.decimal128(5, 2)), [1, 2, 3]),
    "half floats": (pa.array(np.array([1, 2, 3], np.float16)), [1, 2, 3]),
    "unsigned": (pa.array([1, 2, 250], pa.uint8()), [1, 2, 250]),
    "fixed lists": (pa.FixedSizeListArray.from_arrays(pa.array(range(6)), 2), [[0, 1], [2, 3], [4, 5]]),
    "lists in lists": (NESTED, NESTED),
    "tensors": (
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12).reshape(3, 2, 2)),
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_every_kind_become_numbers(tmp_path: Path, kind: str) -> None:
    column, expected = KINDS[kind]
    path = parquet(tmp_path, {"a": column, "y": [0, 1, 0]}, row_group_size=2)

    assert load(path, features="a", label="y").train.x.tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa,y\n1.5,0\n2,1\n",
        "a,y\r\n1.5,0\r\n2,1\r\n",
        '"a","y"\n"1.5","0"\n"2","1"\n',
        "a , y\n 1.5 , 0\n2,1",
        "a,y\n\n1.5,0\n\n2,1\n",
        "a,y\n1.5,false\n2,TRUE\n",
    ],
)
def test_csv_files_may_be_written_in_different_ways(tmp_path: Path, text: str) -> None:
    train = load(csv(tmp_path, text), features=["a"], label="y").train

    assert (train.x.tolist(), train.y.tolist()) == ([[1.5], [2]], [0, 1])


@pytest.mark.parametrize(
    ("parts", "values", "names"),
    [
        (("true", "0"), [1, 0], None),
        (("1", "FALSE"), [1, 0], None),
        (("true", "5"), [1, 0], ("5", "true")),
        (("0.5", "true"), [0, 1], ("0.5", "true")),
        (("0", "1", "true"), [0, 1, 1], None),
        (("0", "2", "true"), [0, 1, 2], ("0", "2", "true")),
    ],
)
def test_flags_and_numbers_in_a_column_are_the_same_in_one_csv_file_and_in_several(
    tmp_path: Path, parts: tuple[str, ...], values: list[int], names: Any
) -> None:
    for number, part in enumerate(parts):
        csv(tmp_path, f"a,y\n1,{part}\n", f"several/{number}.csv")
    one = csv(tmp_path, "a,y\n" + "".join(f"1,{part}\n" for part in parts))

    for place in (str(tmp_path / "several"), one):
        dataset = load(place, label="y")
        assert dataset.train.y.tolist() == values
        assert dataset.class_names.get("") == names


@pytest.mark.parametrize("write", [csv, parquet])
def test_what_folders_name_is_text_as_soon_as_one_of_them_is_no_number(tmp_path: Path, write: Any) -> None:
    for name in ("3", "--5"):
        rows: Any = "a,y\n1,0\n" if write is csv else {"a": [1], "y": [0]}
        write(tmp_path, rows, f"t/p={name}/1.{write.__name__}")

    assert load(str(tmp_path / "t"), features="p", label="y").train.x.tolist() == [0, 1]


def test_a_partition_without_a_value_is_missing(tmp_path: Path) -> None:
    csv(tmp_path, "a,y\n1,0\n", "t/city=x/1.csv")
    csv(tmp_path, "a,y\n1,0\n", "t/city=__HIVE_DEFAULT_PARTITION__/1.csv")
    with pytest.raises(InvalidData, match="column 'city': the value is missing"):
        load(str(tmp_path / "t"), features={"a": "a", "city": "city"}, label="y")

    parquet(tmp_path, {"a": [1], "y": [0]}, "u/year=2024/1.parquet")
    parquet(tmp_path, {"a": [1], "y": [0]}, "u/year=__HIVE_DEFAULT_PARTITION__/1.parquet")
    with pytest.raises(InvalidData, match="column 'year': the value is missing"):
        load(str(tmp_path / "u"), features=["a", "year"], label="y")


def test_only_the_named_columns_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    read = pq.ParquetFile.read_row_group

    def spy(self: Any, group: int, columns: list[str], **options: Any) -> Any:
        asked.append(columns)
        return read(self, group, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    load(parquet(tmp_path, {"a": [1.0, 2.0], "b": ["x", "y"], "y": [0, 1]}), features=["a"], label="y")

    assert asked == [["a", "y"]]


@pytest.mark.parametrize("names", [["b", "a", "b", "c"], [7, 3, 7, 9]])
def test_groups_are_a_column_of_the_training_rows_alone(tmp_path: Path, names: list[Any]) -> None:
    table = {"a": [1.0, 2.0, 3.0, 4.0], "who": names, "y": [0, 1, 0, 1]}
    source = {"train": parquet(tmp_path, table), "test": csv(tmp_path, "a,y\n5,1\n")}

    dataset = load(source, label="y", groups="who")

    assert dataset.groups is not None
    assert dataset.groups.tolist() == [1, 0, 1, 2]
    assert dataset.train.x.tolist() == [[1], [2], [3], [4]]


def test_validation_rows_are_whole_groups(tmp_path: Path) -> None:
    table = {"a": np.arange(40.0), "who": np.arange(40) // 4, "y": np.arange(40) % 2}
    dataset = load(parquet(tmp_path, table), label="y", groups="who", validation_split=0.2)

    assert dataset.validation is not None
    held = set((dataset.validation.x[:, 0] // 4).tolist())
    assert 1 <= len(held) <= 3
    assert held.isdisjoint((dataset.train.x[:, 0] // 4).tolist())


def test_files_of_a_folder_are_read_in_the_order_of_their_names_with_what_the_folders_name(tmp_path: Path) -> None:
    for year, place, a in ((2023, "x%20y", 1), (2022, "z", 2)):
        parquet(tmp_path, {"a": [a, a + 10], "y": [0, 1]}, f"t/year={year}/place={place}/part.parquet")
    csv(tmp_path, "", "t/_SUCCESS")

    dataset = load(str(tmp_path / "t"), features={"n": ["a", "year"], "place": "place"}, label="y")

    assert dataset.train.x["n"].tolist() == [[2, 2022], [12, 2022], [1, 2023], [11, 2023]]
    assert dataset.train.x["place"].tolist() == [1, 1, 0, 0]


def test_a_set_of_rows_has_a_location_of_its_own_and_codes_are_those_of_all(tmp_path: Path) -> None:
    source = {
        "train": csv(tmp_path, "a,y\n1,b\n2,c\n"),
        "validation": parquet(tmp_path, {"a": [3], "y": ["c"]}),
        "test": csv(tmp_path, "y,a\na,4\n", "test.csv"),
    }

    dataset = load(source, label="y")

    assert dataset.train.y.tolist() == [1, 2]
    assert dataset.validation is not None
    assert dataset.validation.y.tolist() == [2]
    assert dataset.test is not None
    assert (dataset.test.x.tolist(), dataset.test.y.tolist()) == ([[4]], [0])


def test_large_csv_files_are_read_piece_by_piece_and_quoted_line_breaks_do_not_end_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CSV_PIECE_BYTES", 64)
    rows = [f'{i},"a ""{i % 3}""\n, b",{i / 4}' for i in range(50)]

    dataset = load(csv(tmp_path, "\n".join(["n,text,y", *rows])), features={"n": "n", "text": "text"}, label="y")

    assert dataset.train.x["n"].tolist() == list(range(50))
    assert dataset.train.x["text"].tolist() == [i % 3 for i in range(50)]
    assert dataset.train.y.tolist() == [i / 4 for i in range(50)]


def test_a_column_that_turns_to_texts_late_in_a_csv_file_is_one_of_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CSV_PIECE_BYTES", 16)
    dataset = load(csv(tmp_path, "a,y\n" + "".join(f"{i},{i}\n" for i in range(9)) + "9,x\n"), label="y")

    assert dataset.class_names[""] == (*(str(i) for i in range(9)), "x")


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "missing value": ("a,y\n1,0\n,1\n", {}, r"row 1 \(from 0\), column 'a': the value is missing"),
    "NaN by name": ("a,y\n1,0\n2,0\nNaN,1\n", {}, r"row 2 \(from 0\), column 'a': the value is missing"),
    "infinity": ("a,y\n1,0\ninf,1\n", {}, r"row 1 \(from 0\), column 'a': inf is no finite float32"),
    "missing column": ("a,y\n1,0\n", {"features": ["aa"]}, "has no column 'aa'"),
    "ragged row": ("a,y\n1,0\n2\n", {}, r"row 1 \(from 0\) has 1 fields instead of 2: '2'"),
    "no rows": ("a,y\n", {}, "has no rows"),
    "nothing": ("", {}, "is empty"),
    "text among numbers": ("a,b,y\n1,2,0\nx,3,1\n", {}, r"holds texts.*row 1 \(from 0\), column 'a' holds 'x'"),
    "twice": ("a,a,y\n1,2,0\n", {}, "names the column 'a' twice"),
    "shape": ("a,b,y\n1,2,0\n", {"features": {"i": {"columns": ["a", "b"], "shape": [3]}}}, "has not the shape"),
    "type": ("a,y\n300,0\n", {"features": {"i": {"columns": ["a"], "dtype": "uint8"}}}, "300 is no uint8"),
    "fraction": ("a,y\n0.5,0\n", {"features": {"i": {"columns": ["a"], "dtype": "int32"}}}, "0.5 is no int32"),
    "weight": ("a,w,y\n1,-1,0\n", {"weight": "w"}, r"row 0 \(from 0\), column 'w': is no weight"),
}


def test_blanks_around_the_texts_of_a_csv_file_are_no_part_of_them(tmp_path: Path) -> None:
    """Not those within quotes either; and a field of blanks is an empty one."""
    text = 'size,city,y\n 1, Rome ,a\n2,Rome,"b "\n3,"\tNew York",a \n'
    dataset = load(csv(tmp_path, text), features={"size": "size", "city": "city"}, label="y")
    assert dataset.codes == {"city": ("New York", "Rome"), "y": ("a", "b")}
    assert (dataset.train.x["city"].tolist(), dataset.train.y.tolist()) == ([1, 1, 0], [0, 1, 0])
    for blank in ("  ", " NA "):
        with pytest.raises(InvalidData, match=r"row 1 \(from 0\), column 'city': the value is missing"):
            load(csv(tmp_path, f"city,y\nRome,0\n{blank},1\n"), features="city", label="y")


@pytest.mark.parametrize("write", [csv, parquet])
def test_times_in_seconds_which_float32_rounds_to_minutes_are_refused_unless_asked_for(
    tmp_path: Path, write: Any
) -> None:
    since = range(1_732_219_800, 1_732_220_000)
    table: Any = {"time": list(since), "y": [at % 2 for at in since]}
    rows = write(tmp_path, "time,y\n" + "".join(f"{at},{at % 2}\n" for at in since) if write is csv else table)
    with pytest.raises(
        InvalidData, match=r"holds 200 different numbers such as 1732219800, .* no more than 3 apart"
    ) as no:
        load(rows, features=["time"], label="y")
    assert str(no.value.where).endswith(": column 'time'")
    for asked in ({"dtype": "float32"}, {"dtype": "int64"}):
        assert load(rows, features={"at": {"columns": ["time"], **asked}}, label="y").train.num_rows == 200
    large = write(tmp_path, "pay,y\n3e9,0\n1e9,1\n" if write is csv else {"pay": [3 * 10**9, 10**9], "y": [0, 1]})
    assert load(large, features=["pay"], label="y").train.x.tolist() == [[3e9], [1e9]]


def test_two_codes_that_float32_takes_for_one_are_refused_unless_that_may_be_chance(tmp_path: Path) -> None:
    codes = [1_700_000_001 + row % 2 for row in range(20)]
    with pytest.raises(InvalidData, match=r"holds 2 different numbers such as 1700000001, .* no more than 1 apart"):
        load(parquet(tmp_path, {"code": codes, "y": [row % 2 for row in range(20)]}), features=["code"], label="y")
    few = parquet(tmp_path, {"code": codes[:2], "y": [0, 1]})
    assert load(few, features=["code"], label="y").train.num_rows == 2
    noise = parquet(
        tmp_path, {"code": [1e9 + row % 2 * 1e-7 for row in range(20)], "y": [row % 2 for row in range(20)]}
    )
    assert load(noise, features=["code"], label="y").train.num_rows == 20


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_in_a_csv_file_is_told_with_file_row_and_column(tmp_path: Path, kind: str) -> None:
    text, data, said = WRONG[kind]
    with pytest.raises(InvalidData, match=said) as caught:
        load(csv(tmp_path, text), **{"label": "y", **data})
    assert "rows.csv" in str(caught.value)
    assert caught.value.hint


def test_what_is_wrong_in_a_parquet_file_is_told_with_file_row_and_column(tmp_path: Path) -> None:
    wrong = {
        "has 2|is a list of 1": {"a": [[1.0, 2.0], [3.0, 4.0], [5.0]], "y": [0, 1, 2]},
        r"row 1 \(from 0\), column 'a': the value is missing": {"a": [[1.0, 2.0], [None, 4.0]], "y": [0, 1]},
        r"row 1 \(from 0\), column 'y': the value is missing": {"a": [1.0, 2.0], "y": [0, None]},
        "column 'a': holds timestamp": {"a": pa.array([0, 1], pa.timestamp("s")), "y": [0, 1]},
        r"row 0 \(from 0\), column 'a': is an empty list": {"a": pa.array([[], []], pa.list_(pa.int8())), "y": [0, 1]},
        "names the column 'a' twice": pa.Table.from_arrays([pa.array([0, 1])] * 3, names=["a", "a", "y"]),
    }
    for number, (said, table) in enumerate(wrong.items()):
        with pytest.raises(InvalidData, match=said) as caught:
            load(parquet(tmp_path, table, f"{number}.parquet"), label="y")
        assert f"{number}.parquet" in str(caught.value)


def test_schemas_that_differ_between_files_are_refused_with_both_names(tmp_path: Path) -> None:
    parquet(tmp_path, {"a": [1.0], "y": [0]}, "t/1.parquet")
    parquet(tmp_path, {"a": ["one"], "y": [0]}, "t/2.parquet")
    with pytest.raises(InvalidData, match=r"2\.parquet: the column 'a' holds texts, and numbers in .*1\.parquet"):
        load(str(tmp_path / "t"), label="y")

    parquet(tmp_path, {"b": [1.0], "y": [0]}, "u/1.parquet")
    parquet(tmp_path, {"a": [1.0], "y": [0]}, "u/2.parquet")
    with pytest.raises(InvalidData, match=r"2\.parquet: has no column 'b'"):
        load(str(tmp_path / "u"), label="y")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "no such file or folder"),
        (("t/_hidden",), "holds no files"),
        (("t/1.csv", "t/readme.txt"), "readme.txt: is neither"),
        (("t/1.csv", "t/2.parquet"), "several kinds"),
        (("t/1.csv", "t/a=1/2.csv"), "name different columns"),
    ],
)
def test_a_folder_that_cannot_be_read_as_one_table_is_refused(
    tmp_path: Path, names: tuple[str, ...], said: str
) -> None:
    for name in names:
        csv(tmp_path, "a,y\n1,0\n", name)
    with pytest.raises(InvalidData, match=said):
        load(str(tmp_path / "t"), label="y")


def test_a_file_that_is_no_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"")
    with pytest.raises(InvalidData, match=r"a\.parquet: is empty"):
        load(str(path), label="y")
    path.write_bytes(b"not at all a Parquet file")
    with pytest.raises(InvalidData, match=r"a\.parquet: is no Parquet file"):
        load(str(path), label="y")


def test_rows_that_do_not_fit_into_memory_are_refused_with_the_remedy(tmp_path: Path) -> None:
    source = parquet(tmp_path, {"a": np.arange(1000.0), "y": np.arange(1000) % 2}, row_group_size=10)
    job = parse_job({"name": "a", "model": "m:f", "data": {"source": source, "label": "y"}})
    scanned = scan(job.data, {"train": find_files(source, S3Settings())})
    pieces, layout = scanned.pieces["train"], scanned.layout

    assert len(read_rows(pieces, layout, max_bytes=12_000).y) == 1000
    with pytest.raises(InvalidData, match="are there for them") as caught:
        read_rows(pieces, layout, max_bytes=11_999)
    assert "data.stream: true" in str(caught.value.hint)


def test_a_label_among_the_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="is a label too"):
        load(csv(tmp_path, IRIS), features=["*"], label="species")
