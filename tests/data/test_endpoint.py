import base64
import io
import logging
import time

import numpy as np
import pytest
from PIL import Image

from text2video.data.answers import NoAnswer, Question
from text2video.data.endpoint import DEAD, Endpoint, without_credentials
from text2video.errors import ModelError, UsageError

FRAMES = np.stack([np.full((24, 32, 3), level, np.uint8) for level in (40, 200)])


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    """The client's pauses between tries, shortened; that they grow is its own affair."""
    import openai._base_client as client

    monkeypatch.setattr(client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(client, "MAX_RETRY_DELAY", 0.02)


def scripted(*replies):
    """These replies in order, then a caption."""
    return lambda prompt, number: replies[number] if number < len(replies) else "a caption"


def ask(server, **options) -> str:
    endpoint = Endpoint(server.url, "tiny", **options)
    try:
        return endpoint.answer([Question("What?", FRAMES)])[0]
    finally:
        endpoint.close()


def test_frames_go_in_order_as_jpeg_before_the_prompt(chat_server):
    assert ask(chat_server, max_tokens=50, temperature=0.0) == "a made caption 0"
    (request,) = chat_server.requests
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("tiny", 50, 0.0)
    *pictures, text = request["messages"][0]["content"]
    assert text == {"type": "text", "text": "What?"}
    for picture, frame in zip(pictures, FRAMES, strict=True):
        kind, data = picture["image_url"]["url"].split(",")
        assert kind == "data:image/jpeg;base64"
        got = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert np.abs(got.astype(int) - frame).max() <= 2


def test_without_frames_the_prompt_is_plain_text(chat_server):
    endpoint = Endpoint(chat_server.url, "tiny")
    endpoint.answer([Question("Rewrite", None)])
    endpoint.close()
    assert chat_server.requests[0]["messages"][0]["content"] == "Rewrite"
    assert "max_tokens" not in chat_server.requests[0]


@pytest.mark.parametrize("failure", [429, 500, 503, "<drop>"])
def test_what_may_pass_is_tried_again(chat_server, failure):
    chat_server.reply = scripted(failure, failure)
    assert ask(chat_server, retries=2) == "a caption"
    assert len(chat_server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (500, "HTTP 500"),
        (400, "HTTP 400: scripted"),
        ("<garbage>", "not JSON"),
        ({"content": None}, "empty"),
        ({"content": None, "refusal": "I will not"}, "refused: I will not"),
    ],
)
def test_one_question_fails_with_its_reason(chat_server, reply, reason):
    chat_server.reply = lambda prompt, number: reply
    with pytest.raises(NoAnswer, match=reason):
        ask(chat_server, retries=1)


def test_a_slow_server_is_not_waited_for(chat_server):
    chat_server.reply = scripted("<slow>")
    began = time.monotonic()
    with pytest.raises(NoAnswer, match="in time"):
        ask(chat_server, retries=0, timeout=0.2)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_wrong_settings_end_everything_at_once(chat_server, status, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    chat_server.reply = lambda prompt, number: status
    with pytest.raises(ModelError) as caught:
        ask(chat_server, api_key_env="MY_KEY")
    assert len(chat_server.requests) == 1
    assert "sk-very-secret" not in str(caught.value)


def test_a_dead_endpoint_is_told_from_one_bad_question(chat_server):
    chat_server.reply = lambda prompt, number: "fine" if number == DEAD - 1 else 500
    endpoint = Endpoint(chat_server.url, "tiny", retries=0)
    question = [Question("What?", None)]
    for _ in range(DEAD - 1):
        with pytest.raises(NoAnswer):
            endpoint.answer(question)
    assert endpoint.answer(question) == ["fine"]  # it lives: counting begins again
    for _ in range(DEAD - 1):
        with pytest.raises(NoAnswer):
            endpoint.answer(question)
    with pytest.raises(ModelError, match=f"{DEAD} times in a row"):
        endpoint.answer(question)
    endpoint.close()


def test_nobody_there_is_said_at_the_first_question():
    with pytest.raises(ModelError, match="nothing answers there"):
        Endpoint("http://127.0.0.1:9/v1", "tiny", retries=0).answer([Question("What?", None)])


def test_the_key_goes_to_the_server_and_nowhere_else(chat_server, monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    chat_server.reply = lambda prompt, number: 400  # its message repeats the key
    endpoint = Endpoint(chat_server.url, "tiny", api_key_env="MY_KEY")
    with caplog.at_level(logging.INFO), pytest.raises(NoAnswer) as caught:
        endpoint.answer([Question("What?", None)])
    endpoint.close()
    assert chat_server.keys == {"Bearer sk-very-secret"}
    assert "sk-very-secret" not in f"{caught.value}{caplog.text}{endpoint.about}{endpoint.settings}"
    with pytest.raises(UsageError, match="NO_SUCH_KEY"):
        Endpoint(chat_server.url, "tiny", api_key_env="NO_SUCH_KEY")


def test_credentials_in_a_url_are_not_kept():
    assert without_credentials("https://me:secret@example.org:8443/v1?key=secret#x") == "https://example.org:8443/v1"
    assert without_credentials("http://[::1]:8000/v1") == "http://[::1]:8000/v1"
    for wrong in ("127.0.0.1:8000/v1", "ftp://x/v1", "http://", "http://me:secret@[/v1", "http://x:port/v1"):
        with pytest.raises(UsageError, match="is no URL") as caught:
            without_credentials(wrong)
        assert "secret" not in str(caught.value)
