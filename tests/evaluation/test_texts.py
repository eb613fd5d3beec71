"""Texts of every kind: what is read, how far, and what is said of those that cannot be read."""

import json
import sys
import tracemalloc

import pytest

from fusion_slerp.evaluation.texts import Text, TextError

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

DOCUMENTS = ["one\ntwo", "three\u2028four", "", "fünf"]


def documents_of(path) -> list[str]:
    Text(path).check(in_full=True)
    return list(Text(path).documents())


def problem_of(path, in_full: bool = True) -> str:
    with pytest.raises(TextError) as caught:
        Text(path).check(in_full)
    return str(caught.value)


def test_a_text_file_is_one_document_as_it_stands(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\nthree \xc3\xa9\n")
    assert documents_of(file) == ["one\r\ntwo\n\nthree é\n"]


def test_a_jsonl_file_has_one_document_per_line(tmp_path):
    file = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": DOCUMENTS[0], "id": 1}), "", '{"text": "three\u2028four"}', '{"text": ""}']
    file.write_text("\ufeff" + "\r\n".join([*lines, '{"text": "fünf"}\n']), encoding="utf-8", newline="")
    assert documents_of(file) == DOCUMENTS


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string()], ids=str)
def test_a_parquet_file_has_one_document_per_row(tmp_path, kind):
    table = pyarrow.table({"id": [1, 2, 3, 4], "text": pyarrow.array(DOCUMENTS, kind)})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    assert documents_of(tmp_path / "a.parquet") == DOCUMENTS


@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_saved_dataset_has_one_document_per_row(tmp_path, n_shards):
    dataset = datasets.Dataset.from_dict({"text": DOCUMENTS, "id": [1, 2, 3, 4]})
    dataset.save_to_disk(tmp_path / "a", num_shards=n_shards)
    assert documents_of(tmp_path / "a") == DOCUMENTS


def test_rows_that_were_selected_are_read_in_their_order(tmp_path):
    datasets.Dataset.from_dict({"text": DOCUMENTS}).select([3, 0]).save_to_disk(tmp_path / "a")
    assert documents_of(tmp_path / "a") == [DOCUMENTS[3], DOCUMENTS[0]]


def test_splits_are_named(tmp_path):
    split = datasets.Dataset.from_dict({"text": DOCUMENTS})
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(tmp_path / "a")
    message = problem_of(tmp_path / "a")
    assert "it holds the splits train, test; name the folder of one, such as a/train" in message
    assert documents_of(tmp_path / "a" / "test") == DOCUMENTS


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_documents_are_read_one_by_one(tmp_path, suffix):
    file, document = tmp_path / f"a{suffix}", "word " * 2000
    if suffix == ".jsonl":
        file.write_text(f"{json.dumps({'text': document})}\n" * 2000, encoding="utf-8")
    else:
        parquet.write_table(pyarrow.table({"text": [document] * 2000}), file, row_group_size=50)
    for _ in Text(file).documents():  # what is imported or kept at first does not count
        break
    tracemalloc.start()
    n_characters = sum(map(len, Text(file).documents()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_characters == 2000 * len(document)
    assert peak < n_characters / 10


def test_only_the_beginning_is_read_if_that_is_enough(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": ""}\n{"text": "one"}\nnot JSON\n', encoding="utf-8")
    Text(file).check(in_full=False)
    assert list(Text(file).head([0, 2])) == ["", "on"]
    assert "line 3 is not JSON" in problem_of(file)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.md", b"text", "the name ends in '.md'; it must be a .txt, .jsonl or .parquet file, or a folder"),
        ("a.txt", b"", "it contains no text"),
        ("a.txt", b" \n\n", "it contains no text"),
        ("a.jsonl", b'{"text": ""}\n', "it contains no text"),
        ("a.txt", b"abc\xff", "not UTF-8 at byte 3"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', "not UTF-8 at byte 24"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "line 2 has no field `text` with a string"),
        ("a.jsonl", b'{"text": 5}\n', "line 1 has no field `text` with a string"),
        ("a.jsonl", b'["text"]\n', "line 1 has no field `text` with a string"),
        ("a.parquet", b"PAR1", "not readable as Parquet: "),
    ],
)
def test_an_unreadable_file_says_why(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert expected in problem_of(tmp_path / name)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"txt": ["a"], "id": [1]}, "no column `text`; its columns: txt, id"),
        ({"text": [1, 2]}, "its column `text` holds int64, not strings"),
        ({"text": ["a", None]}, "row 2 has no `text`"),
        ({"text": [""]}, "it contains no text"),
    ],
)
def test_tables_without_texts_say_why(tmp_path, columns, expected):
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert problem_of(tmp_path / "a.parquet") == expected
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "a")
    assert problem_of(tmp_path / "a") == expected


def test_a_missing_file_and_other_folders_say_so(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "state.json").write_text("{}")
    assert "No such file" in problem_of(tmp_path / "none.txt")
    assert "directory" in problem_of(tmp_path / "folder.txt")
    assert "a folder without state.json, which `datasets` writes" in problem_of(tmp_path)
    assert "its state.json does not list the files" in problem_of(tmp_path / "odd")


def test_without_pyarrow_the_remedy_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TextError, match="needs pyarrow") as caught:
        Text(tmp_path / "a.parquet").check(in_full=True)
    assert caught.value.fix == "pip install pyarrow"
