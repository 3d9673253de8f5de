"""Uploaded pictures may be anything; drawn ones show what they were asked to."""

import io
import random
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from safevlm_hf.app.pictures import MAX_PIXELS, card_topics, draw_card, open_pictures
from safevlm_hf.data.riskcards import TOPICS


def png(width, height):
    """The head of a PNG that says it is so large, and nothing behind it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head)) + chunk + struct.pack(">I", zlib.crc32(chunk))


def encoded(image, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


HOSTILE = {
    "a page": b"<script>alert(1)</script>",
    "a drawing": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "a program for a printer": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n/Times-Roman findfont\n",
    "nothing": b"",
    "cut off": encoded(Image.effect_noise((90, 90), 50), "PNG")[:900],
    "a bomb": png(100_000, 100_000),
    "larger than allowed": png(8000, 8000),
    "a strip": encoded(Image.new("RGB", (210, 10)), "PNG"),
    "a format that Python decodes": encoded(Image.new("RGB", (9, 9)), "BMP"),
    "another format": encoded(Image.new("RGB", (9, 9)), "TIFF"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_picture_gets_one_sentence(content, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(ValueError) as found:
        open_pictures([str(path)])
    said = str(found.value)
    assert said.startswith("The picture") and said.endswith(".") and len(said.splitlines()) == 1
    assert str(tmp_path) not in said and "0x" not in said


def test_a_picture_with_long_texts_is_not_unpacked(tmp_path):
    texts = PngImagePlugin.PngInfo()
    for _ in range(3):
        texts.add_text("comment", "a" * (2**20 - 100), zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=texts)
    with pytest.raises(ValueError, match="broken"):
        open_pictures([str(tmp_path / "a.png")])


def test_a_picture_that_is_gone_says_so(tmp_path):
    with pytest.raises(ValueError, match="no longer here"):
        open_pictures([str(tmp_path / "gone.png")])


def test_pictures_have_a_size_together(tmp_path):
    path, side = tmp_path / "half.png", int((MAX_PIXELS / 2) ** 0.5) + 1
    Image.new("1", (side, side)).save(path)
    assert open_pictures([str(path)])[0].mode == "RGB"
    with pytest.raises(ValueError, match="together"):
        open_pictures([str(path)] * 2)


def test_every_topic_can_be_drawn():
    labels = dict(card_topics())
    assert set(labels.values()) == {topic.text for topic in TOPICS}
    assert labels["PIN CODE (privacy, high)"] == "PIN CODE" and labels["BAKERY (clean)"] == "BAKERY"
    for topic in labels.values():
        image, question = draw_card(topic, random.Random(0))
        assert image.size == (336, 336) and question
    assert draw_card("ID CARD", random.Random(0))[1] == "What is the address?"


@pytest.mark.parametrize("topic", ["no such topic", None, ["PIN CODE"], {"a": 1}])
def test_no_other_topic_is_drawn(topic):
    with pytest.raises(ValueError, match="no such topic"):
        draw_card(topic, random.Random(0))
