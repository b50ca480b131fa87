"""`text2video demo --fast` and `text2video evaluate`, as a user calls them."""

import json
import re
import shutil

import pytest

from text2video import video
from text2video.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert main.run(["demo", "--fast", "--output_dir", str(folder)]) == 0
    return folder


def rows(folder):
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["prompts"]


def test_the_demo_first_shows_the_model_of_the_package(made):
    assert len(list((made / "moving-shapes").glob("*.mp4"))) == 2
    assert (made / "moving-shapes" / "contact_sheet.png").is_file()


def test_the_demo_makes_data_a_model_and_a_report(made):
    assert len(list((made / "data" / "videos").glob("*.mp4"))) == 16
    assert video.probe(made / "data" / "videos" / "train-000000.mp4").width == 64
    assert (made / "final" / "model_index.json").is_file()
    assert len(rows(made / "evaluation")) == 8
    page = (made / "report.html").read_text(encoding="utf-8")
    assert page.count("<video ") == 8 + 12
    assert page.count('class="chart"') == 2
    assert "3 steps, 6 clips in" in page


def test_a_stopped_demo_goes_on(made, capsys):
    before = rows(made / "evaluation")
    shutil.rmtree(made / "final")  # as if it had been stopped after the last checkpoint
    (made / "report.html").unlink()
    (made / "moving-shapes" / "contact_sheet.png").unlink()  # and here amid its first videos
    assert main.run(["demo", "--fast", "--output_dir", str(made)]) == 0
    assert rows(made / "evaluation") == before
    assert (made / "moving-shapes" / "contact_sheet.png").is_file()
    assert len(list((made / "moving-shapes").glob("*.mp4"))) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["first", "data", "training", "evaluation", "report"]
    assert lines[-2] == str(made / "report.html")
    assert re.fullmatch(r"accuracy: \d+\.\d%", lines[-1])
    assert (made / "report.html").is_file()


def test_the_demo_leaves_other_folders_alone(made, tmp_path, capsys):
    (tmp_path / "report.html").write_text("mine")
    assert main.run(["demo", "--fast", "--output_dir", str(tmp_path)]) == 2
    assert (tmp_path / "report.html").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert main.run(["demo", "--output_dir", str(made)]) == 2  # that one is a fast demo
    assert "another --output_dir" in capsys.readouterr().err


def test_evaluate_with_its_own_settings(made, tmp_path, capsys):
    options = "--num_prompts 3 --batch_size 2 --num_inference_steps 3 --scheduler dpm++ --split train --report"
    command = ["evaluate", "--model", str(made), *options.split(), "--output_dir", str(tmp_path / "new")]
    assert main.run(command) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"evaluation.json", "report.html", "sheet.png"}
    stored = json.loads((tmp_path / "new" / "evaluation.json").read_text(encoding="utf-8"))
    assert stored["settings"]["scheduler"] == "dpm++"
    assert stored["settings"]["num_inference_steps"] == 3
    assert capsys.readouterr().out.splitlines()[-1].startswith("accuracy: ")


def test_evaluate_names_what_is_missing(tmp_path, capsys):
    assert main.run(["evaluate", "--model", str(tmp_path / "none")]) == 1
    assert "model_index.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
