"""The folder that a run's results go to where none is named."""

from concurrent.futures import ThreadPoolExecutor

from cfcam_gpu.photographs import result_files


def test_processes_at_once_get_a_folder_each(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: result_files.make_new(tmp_path / "out" / "demo"), range(24)))
    assert {path.name for path in made} == {"demo", *(f"demo-{number}" for number in range(2, 25))}
    assert all(path.is_dir() for path in made)


def test_a_file_or_a_folder_in_the_way_is_left(tmp_path):
    (tmp_path / "demo").write_text("mine")
    (tmp_path / "demo-2").mkdir()
    assert result_files.make_new(tmp_path / "demo") == tmp_path / "demo-3"
    assert (tmp_path / "demo").read_text() == "mine"


def test_only_results_are_taken_for_results_of_earlier_runs(tmp_path):
    for name in ("demo-2", "demo-3", "demo-x", "demolition-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "explanations.jsonl").touch()
    (tmp_path / "demo-3" / "explanations.jsonl").rename(tmp_path / "demo-3" / "holiday.jpg")
    assert result_files.earlier(tmp_path / "demo") == [tmp_path / "demo", tmp_path / "demo-2"]
    assert result_files.earlier(tmp_path / "nowhere" / "demo") == [tmp_path / "nowhere" / "demo"]
