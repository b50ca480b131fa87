"""The page holds what it says, asks nothing of the outside, and takes any text."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from text2video import video
from text2video.config import RunConfig
from text2video.data import shapes
from text2video.evaluation.curves import chart, read_metrics, smooth
from text2video.evaluation.metrics import summarise
from text2video.evaluation.report import clock, data_uri, write_report
from text2video.evaluation.shapes import Row, ShapesResult
from text2video.generation import Generated, Settings

HOSTILE = '<script>alert("x")</script> & $summary "quoted"'


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "rect", "polyline", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def make_result(prompts, checks):
    scene, _ = shapes.make_clip(0)
    frames = shapes.render(scene, 8, 32, 32)
    rows = [Row(p, i, c, all(c.values())) for i, (p, c) in enumerate(zip(prompts, checks, strict=True))]
    shown = [Generated(row.prompt, row.seed, Settings(), "m", frames) for row in rows]
    used = {"scheduler": "Euler", "num_inference_steps": 20, "guidance_scale": 2.0, "fps": 8.0}
    used |= {"num_frames": 8, "width": 32, "height": 32}
    return ShapesResult(
        model=HOSTILE,
        split="heldout",
        rates=summarise(checks),
        control=summarise([dict.fromkeys(c, False) for c in checks]),
        chance={"colour": 0.125},
        rows=rows,
        shown=shown,
        settings=used,
        parameters={"unet": 2_200_000, "text_encoder": 100_000},
        seconds=70.0,
    )


RIGHT = {"colour": True, "shape": True, "motion": True}
WRONG = {"colour": True, "shape": False, "motion": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = RunConfig.build({"data": {"caption_prefix": HOSTILE}, "train": {"batch_size": 16}})
    (folder / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    lines = [{"step": s, "lr": 0.001 * (1 - s / 400), "train/loss": 1 / s} for s in range(1, 401)]
    speed = {"seconds_per_step": 0.25, "clips_per_second": 64.0}  # of a first stage
    lines += [{"step": s, **speed, "memory/ram_gb": s / 100} for s in range(10, 201, 10)]
    speed = {"seconds_per_step": 0.5, "clips_per_second": 32.0}
    lines += [{"step": s, **speed, "memory/ram_gb": s / 100} for s in range(210, 401, 10)]
    lines += [{"step": 200, "val/loss": 0.02}, {"step": 400, "val/loss": 0.01}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 401, "lr": 0.0'  # a kill cut this line
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    result = make_result([HOSTILE, "a red square moves left"], [WRONG, RIGHT])
    clip = shapes.render(shapes.make_clip(1)[0], 8, 64, 64)
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, result, run, [(clip, HOSTILE)], {"training": 200.0}, command=f"text2video {HOSTILE}")
    return path.read_text(encoding="utf-8")


def test_it_asks_nothing_of_the_outside(page):
    found = Page(page)
    assert found.open == []  # every tag is closed in its turn
    for _, attrs in found.tags:
        for name in ("src", "href", "poster", "srcset", "data"):
            assert attrs.get(name, "data:").startswith("data:")
    assert "default-src 'none'" in page
    assert not re.search(r"url\(|@import|https?://", page)


def test_any_text_stays_text(page):
    found = Page(page)
    assert len(found.all("script")) == 1
    assert found.text.count(HOSTILE) >= 5  # prompt, caption, model, command, configuration
    assert "$" not in page.replace(HOSTILE.split(" & ")[1].split()[0], "")  # no place of the template was left empty


def test_it_says_what_was_measured(page):
    text = " ".join(Page(page).text.split())
    assert "50.0% 95% interval 9.5% to 90.5%" in text
    assert "1 of 2 videos show" in text
    assert "2.30M (unet 2.20M, text_encoder 0.10M)" in text
    # 200 * 0.25 + 200 * 0.5 = 150 s, of 16 clips a step
    assert "400 steps, 6,400 clips in 2 min 30 s, 42.7 clips a second" in text
    assert "4.00 GB at most" in text
    for said in ("colour", "shape", "motion", "12.5%", "guidance 2", "torch " + torch.__version__.split("+")[0]):
        assert said in text


def test_right_and_wrong_are_said_in_words_too(page):
    marks = re.findall(r'<li class="(right|wrong)">.*?</span> (\w+)<span class="spoken"> (right|wrong)</span>', page)
    assert [(name, said) for kind, name, said in marks if kind == said] == [
        ("colour", "right"),
        ("shape", "wrong"),
        ("motion", "right"),
        *((name, "right") for name in RIGHT),
    ]


def test_its_videos_play_by_themselves(page, tmp_path):
    players = Page(page).all("video")
    assert len(players) == 3
    for player in players:
        assert {"autoplay", "muted", "loop", "playsinline"} <= player.keys()
        assert player["aria-label"]
    (tmp_path / "a.mp4").write_bytes(base64.b64decode(players[0]["src"].partition(",")[2]))
    frames = video.read(tmp_path / "a.mp4").frames
    assert frames.shape == (8, 192, 192, 3)  # 32 pixels, six times as large


def test_it_can_be_made_of_a_result_alone(tmp_path):
    path = write_report(tmp_path / "report.html", make_result(["a red square moves left"], [RIGHT]))
    found = Page(path.read_text(encoding="utf-8"))
    assert len(found.all("video")) == 1
    hidden = [attrs for tag, attrs in found.tags if tag in ("section", "details") and "hidden" in attrs]
    assert len(hidden) == 4  # training clips, curves, times, configuration
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_enlarging_keeps_every_pixel():
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[:, 4:8, 4:8] = (226, 48, 52)
    assert data_uri(frames, 8) != data_uri(frames[:, ::-1], 8)
    assert data_uri(frames, 8).startswith("data:video/mp4;base64,")


def test_metrics_are_read_past_a_broken_line(run):
    metrics = read_metrics(run / "metrics.jsonl")
    assert metrics["val/loss"] == [(200, 0.02), (400, 0.01)]
    assert len(metrics["train/loss"]) == len(metrics["lr"]) == 400
    assert read_metrics(run / "none.jsonl") == {}


def test_smoothing_is_a_mean_over_what_came_before():
    points = [(step, float(step)) for step in range(1, 201)]  # a window of 4
    assert smooth(points)[0] == (1, 1.0)
    assert smooth(points)[99] == (100, 98.5)
    assert smooth([]) == []


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [1e-9, 1e9], [-3.0, 2.0], [5e-4] * 3])
@pytest.mark.parametrize("log", [False, True])
def test_curves_stay_inside_their_picture(values, log):
    drawn = chart("Loss", {"a<b": [(step, value) for step, value in enumerate(values)]}, log)
    Page(drawn)
    numbers = re.search(r'points="([^"]*)"', drawn)[1].replace(",", " ").split()
    assert all(0 <= float(x) <= 640 for x in numbers[::2])
    assert all(0 <= float(y) <= 270 for y in numbers[1::2])
    assert len(re.findall(r'text-anchor="end"', drawn)) >= 2


def test_times_are_in_words():
    assert [clock(s) for s in (7.31, 59.97, 560, 7500)] == ["7.3 s", "60.0 s", "9 min 20 s", "2 h 5 min"]
