"""Pictures of strangers; tests/app/test_pictures.py and tests/serving/test_requests.py send more of them."""

import io
import weakref

import pytest
from PIL import Image

from safevlm_hf.untrusted import pictures


def encoded(form="PNG", size=(32, 32)):
    buffer = io.BytesIO()
    Image.new("RGB", size, "white").save(buffer, form)
    return buffer.getvalue()


def test_a_picture_is_let_go_once_it_is_decoded(monkeypatch):
    """With its decoder and its pixels: of several pictures, each is in memory once."""
    seen, to_rgb = [], pictures.to_rgb

    def watched(image):
        assert not any(before() for before in seen)
        seen.append(weakref.ref(image))
        return to_rgb(image)

    monkeypatch.setattr(pictures, "to_rgb", watched)
    contents = map(encoded, ("PNG", "GIF", "WEBP", "JPEG"))
    assert len(pictures.open_pictures(contents, 2**25, 20)) == len(seen) == 4


@pytest.mark.parametrize(
    ("content", "number", "reason"),
    [
        (b"no picture", 2, "is none of GIF, JPEG, PNG, WEBP"),
        (encoded("BMP"), 2, "is none of"),
        (encoded(size=(210, 10)), 2, "more than 20 times"),
        (encoded(size=(64, 64)), None, "more than 4096 together"),
        (encoded()[:60], 2, "cannot be read|broken"),
    ],
)
def test_an_error_says_which_picture_and_why(content, number, reason):
    with pytest.raises(pictures.PictureError, match=reason) as found:
        pictures.open_pictures([encoded(), content], 64 * 64, 20)
    assert found.value.number == number


def test_no_pixels_are_decoded_before_all_sizes_are_known(monkeypatch):
    monkeypatch.setattr(pictures, "to_rgb", lambda image: pytest.fail("a picture is decoded"))
    with pytest.raises(pictures.PictureError, match="together"):
        pictures.open_pictures([encoded()] * 5, 4 * 32 * 32, 20)
