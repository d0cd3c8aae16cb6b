"""The tables of the documents are what the results say."""

import pytest

from bench import tables


def test_the_documents_have_the_tables_of_the_results(capsys):
    assert tables.main(["--check"]) == 0, capsys.readouterr().err
    marks = [name for document in tables.DOCUMENTS for _, name, _ in tables.MARK.findall(read(document))]
    assert set(marks) == set(tables.TABLES)


def read(document):
    return (tables.ROOT / document).read_text(encoding="utf-8")


@pytest.fixture
def documents(tmp_path, monkeypatch):
    """A document with one table."""
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "DOCUMENTS", ["a.md"])
    monkeypatch.setattr(tables, "TABLES", {"one": lambda: iter(["|  | IoU |", "|---|---|", "| a | 12.3 |"])})
    (tmp_path / "a.md").write_text("before\n<!-- table one -->\nold\n<!-- end -->\nafter\n")
    return tmp_path


def test_a_table_is_written_between_its_marks(documents, capsys):
    assert tables.main(["--check"]) == 1
    assert "a.md: a table is not what bench/results says" in capsys.readouterr().err
    assert "old" in (documents / "a.md").read_text()
    assert tables.main([]) == 0
    table = "|  | IoU |\n|---|---|\n| a | 12.3 |"
    assert (documents / "a.md").read_text() == f"before\n<!-- table one -->\n\n{table}\n\n<!-- end -->\nafter\n"
    assert tables.main(["--check"]) == 0
