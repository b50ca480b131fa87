import pytest

from text2video.data.shapes import Ask, Request, parse
from text2video.errors import DataError


@pytest.mark.parametrize(
    ("text", "ask"),
    [
        ("a red circle moves left", Ask("red", "circle", "left")),
        ("The large blue square slowly drifts to the upper right.", Ask("blue", "square", "up right", "large", "slow")),
        ("a green triangle that stays still", Ask("green", "triangle", "still")),
        ("white box, spinning fast", Ask("white", "square", "rotating", None, "fast")),
        ("A SMALL pink disc moving down-left", Ask("pink", "circle", "down left", "small")),
        ("an orange square moves up to the left", Ask("orange", "square", "up left")),
        ("a purple triangle gets bigger", Ask("purple", "triangle", "growing")),
        ("a yellow circle towards the bottom right", Ask("yellow", "circle", "down right")),
        ("a red 3 rises", Ask("red", "3", "up")),
        ("the digit five, pink, is held still", Ask("pink", "5", "still")),
        ("a lime plus sign bounces off the top edge", Ask("lime", "cross", "bouncing up")),
        ("a hoop that is cyan goes anticlockwise around the middle", Ask("cyan", "ring", "orbiting counterclockwise")),
        ("a heart turns from red to blue", Ask("red", "heart", "changing colour", becomes="blue")),
        ("a white star becomes green", Ask("white", "star", "changing colour", becomes="green")),
        ("a white star becomes smaller", Ask("white", "star", "shrinking")),
        ("a small red circle is carried to the left by an unseen hand", Ask("red", "circle", "left", "small")),
    ],
)
def test_prompts_are_understood(text, ask):
    assert parse(text).things == (ask,)


SQUARE, STAR = Ask("blue", "square", "still"), Ask("red", "star", "left", "small")
RING = Ask("white", "ring", "left")


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        (
            "a small red circle rises past a large blue square on a striped background",
            Request(
                (Ask("red", "circle", "up", "small"), Ask("blue", "square", "still", "large")), "striped", "in front of"
            ),
        ),
        ("a blue square stays still behind a small red star moving left", Request((STAR, SQUARE), None, "in front of")),
        ("a small red star moves left inside a white ring", Request((STAR, RING), None, "inside")),
        ("a white ring moving left enclosing a small red star moving left", Request((STAR, RING), None, "inside")),
        ("a small red star moves left, left of a blue box that rests", Request((STAR, SQUARE), None, "left of")),
        (
            "a blue box rests and a small red star moves left above a white ring moving left",
            Request((STAR, RING, SQUARE), None, "above"),
        ),
        ("three little red stars move left", Request((STAR, STAR, STAR))),
        ("two small red stars move left and a blue square rests", Request((STAR, STAR, SQUARE))),
        ("two small red 2s move left", Request((Ask("red", "2", "left", "small"),) * 2)),
        ("a blue square rests in front of a plain background", Request((SQUARE,), "plain")),
    ],
)
def test_counts_and_relations_are_understood(text, request_):
    assert parse(text) == request_


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a cat on a sofa", "'cat'"),
        ("a red circle", "motion"),
        ("moves left", "colour and the shape"),
        ("a red blue circle moves left", "red and blue"),
        ("a red circle and a blue square move left", "motion"),
        ("two red circles move left and two blue squares move up", "4 things"),
        (
            "a red circle moves left above a blue square moving left above a pink disc moving left",
            "more than one relation",
        ),
        ("two red circles move left above a blue square that rests", "two single things"),
        ("a red circle moves left inside a blue square", "only a ring"),
        ("a red ring spins", "a ring cannot be seen to rotate"),
        ("a red square turns from blue to green", "two colours, red and blue"),
        ("a red square turns red", "cannot be seen to turn red"),
        ("a small red square slowly turns blue", "no speed"),
        ("a red square moves left above", "the colour and the shape"),
        ("a small circle that is red grows", "no size"),
        ("a red square slowly stays still", "no speed"),
        ("a red circle rotates", "rotate"),
        ("", "colour"),
    ],
)
def test_a_prompt_outside_the_grammar_is_refused_with_what_is_understood(text, reason):
    with pytest.raises(DataError, match=reason) as caught:
        parse(text)
    assert "red, orange, yellow" in str(caught.value)
