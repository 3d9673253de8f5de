"""The way from a picture of floats to a model's inputs, through every family's own processor."""

import pytest
import torch
from attacked import TESTERS, make_tester
from support.safety_model_tester import picture
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from safevlm_hf.studies.attacks.pixels import check_gradients, encode_pixels, process_pictures, to_image, to_pixels


pytestmark = pytest.mark.ci


def test_a_picture_comes_back_as_it_was():
    image = picture((40, 24), 1)
    pixels = to_pixels(image)
    assert pixels.shape == (3, 24, 40) and pixels.dtype == torch.float32 and 0 <= pixels.min() < pixels.max() <= 1
    assert to_image(pixels).tobytes() == image.tobytes() == to_image(pixels + 0.4 / 255).tobytes()


@pytest.mark.parametrize("family", TESTERS)
def test_gradients_come_through_every_processor(family):
    tester = make_tester(family)
    processor = tester.make_processor(tester.tokenizer())
    images = [picture((40, 24), 1), picture((64, 64), 2)]
    check_gradients(processor, images[0])
    pixels = [to_pixels(image).requires_grad_() for image in images]
    encoded = encode_pixels(processor, pixels)
    expected = process_pictures(processor, [[image] for image in images])
    for name in expected:
        if name != "pixel_values":
            assert torch.equal(torch.as_tensor(encoded[name]), torch.as_tensor(expected[name]))
    assert encoded["pixel_values"].shape == expected["pixel_values"].shape
    # Rounding in 8 bits, and bright edges that a file cannot hold.
    assert (encoded["pixel_values"] - expected["pixel_values"]).abs().mean() < 0.01
    gradients = torch.autograd.grad(encoded["pixel_values"].square().sum(), pixels)
    assert all(gradient.ne(0).float().mean() > 0.5 for gradient in gradients)


def test_a_processor_without_gradients_is_an_error(tiny):
    processor = make_tester("llava").make_processor(tiny.processor.tokenizer)
    processor.image_processor = CLIPImageProcessorPil(size={"shortest_edge": 24})
    with pytest.raises(ValueError, match="CLIPImageProcessorPil takes no pictures with gradients .*torchvision"):
        check_gradients(processor, picture((40, 24), 1))


def test_a_processor_that_cuts_gradients_off_is_an_error():
    def cut(images, return_tensors):
        return {"pixel_values": torch.stack([torch.as_tensor(to_float(image)).detach() for (image,) in images])}

    with pytest.raises(ValueError, match="function lets no gradient through"):
        check_gradients(cut, picture((8, 8), 1))


def test_a_processor_that_reads_floats_differently_is_an_error():
    def scale_files_only(images, return_tensors):
        return {"pixel_values": torch.stack([to_float(image) for (image,) in images])}

    with pytest.raises(ValueError, match="other values for a picture of floats than for its file"):
        check_gradients(scale_files_only, picture((8, 8), 1))


def to_float(image):
    return image if torch.is_tensor(image) else to_pixels(image)
