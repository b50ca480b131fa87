import json

import pytest

from text2video.data.answers import AnswerLog, NoAnswer, clean_answer
from text2video.errors import DataError

PLAIN = "A red circle moves left."


@pytest.mark.parametrize(
    "said",
    [
        PLAIN,
        f'  "{PLAIN}"\n',
        f"“{PLAIN}”",
        f"Caption: {PLAIN}",
        f"**Caption:** {PLAIN}",
        f"Here is the caption:\n\n{PLAIN}",
        f"Here's a short description of the video: {PLAIN}",
        f'Sure! Here is a caption for the clip: "{PLAIN}"',
        f"Certainly, {PLAIN}",
        f"<think>It shows a circle.\nOr does it?</think>\n{PLAIN}",
        f"It shows a circle, I think.</think>{PLAIN}",
        f"```\n{PLAIN}\n```",
        "A red circle\nmoves   left.",
    ],
)
def test_what_stands_around_a_caption_goes(said):
    assert clean_answer(said) == PLAIN


@pytest.mark.parametrize(
    "said",
    [
        "Sure-footed goats climb a wall.",
        'A sign reads "open" and a man waves "hello"',
        "Here is a dog that jumps: it lands in a lake.",
        "A clock shows 12:30 while people pass.",
        "一个红色的圆圈向左移动。",
        "Sorry cat sits in the rain",
        "'Tis the season: a tree is lit",
    ],
)
def test_captions_stay_as_they_are(said):
    assert clean_answer(said) == said


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "empty"),
        (' ""\n', "empty"),
        ("...", "empty"),
        ("<think>I will never end", "empty"),
        ("Here is the caption:", "empty"),
        ("I'm sorry, but I can't help with that.", "refused"),
        ("As an AI language model, I cannot see videos.", "refused"),
        ("I cannot describe the people in it.", "refused"),
    ],
)
def test_no_caption_has_a_reason(said, reason):
    with pytest.raises(NoAnswer, match=reason):
        clean_answer(said)


def test_the_log_keeps_whole_lines_and_goes_on_after_half_a_line(tmp_path):
    path = tmp_path / "a.answers"
    AnswerLog(path).add({"key": "1", "caption": "ein Kreis – 円"})
    with path.open("ab") as file:
        file.write(b'{"key": "2", "capt')  # killed here
    log = AnswerLog(path)
    assert list(log.records) == ["1"]
    log.add({"key": "3", "caption": "c"})
    assert {key: record["caption"] for key, record in AnswerLog(path).records.items()} == {
        "1": "ein Kreis – 円",
        "3": "c",
    }
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0])["caption"] == "ein Kreis – 円"


def test_a_file_of_another_kind_is_not_added_to(tmp_path):
    path = tmp_path / "a.answers"
    path.write_text("my answers to life\n")
    with pytest.raises(DataError, match="holds none"):
        AnswerLog(path)
    assert path.read_text() == "my answers to life\n"
