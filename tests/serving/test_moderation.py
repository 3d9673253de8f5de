"""Moderations: the verdict of `assess`, in OpenAI's shape."""

import pytest
import torch
from fastapi.testclient import TestClient
from serving_client import (
    CLEAN,
    MODERATION,
    NAME,
    QUESTION,
    REFUSE,
    RISKY,
    error_of,
    inputs_of,
    load,
    moderate,
    picture,
    text,
)

from safevlm_hf import serving
from safevlm_hf.modeling.safety_policy import SafetyVerdict
from safevlm_hf.serving import moderation


@pytest.mark.parametrize("image", [RISKY, CLEAN], ids=["risky", "clean"])
def test_moderation_is_the_verdict_of_assess(client, checkpoint, image):
    model, processor = load(checkpoint)
    (verdict,) = processor.post_process_safety(model.assess(**inputs_of(processor, image), safety_policy=REFUSE))
    result = moderate(client, text(QUESTION), picture(image))
    names = [name for name in processor.categories if name != "safe"]
    assert result["flagged"] == (image is RISKY)
    assert result["categories"] == {name: image is RISKY and name == "privacy" for name in names}
    assert result["category_scores"] == pytest.approx({name: verdict.category_probabilities[name] for name in names})
    assert result["category_applied_input_types"] == {name: ["image", "text"] for name in names}
    assert result["level_scores"] == pytest.approx(verdict.level_probabilities)
    assert (result["level"], result["action"]) == (verdict.level, verdict.action)
    assert (result["level"], result["action"]) == (("high", "refuse") if image is RISKY else ("safe", "answer"))


def test_moderation_of_several_pictures(client):
    alone, both = moderate(client, picture(RISKY)), moderate(client, picture(CLEAN), picture(RISKY))
    assert both["flagged"] and (both["level"], both["action"]) == ("high", "refuse")
    assert both["category_scores"]["privacy"] == pytest.approx(alone["category_scores"]["privacy"], abs=0.05)
    assert set(map(tuple, alone["category_applied_input_types"].values())) == {("image",)}


def test_of_several_pictures_the_highest_level_is_told():
    """As the policy decides: by action, then by level, then by risk."""
    categories, levels = {"privacy": 0.9, "safe": 0.1}, {"safe": 0.2, "low": 0.3, "high": 0.5}
    high = SafetyVerdict(0, "privacy", "high", 0.8, categories, levels, "privacy, high", "condition", ("privacy",))
    low = SafetyVerdict(0, "privacy", "low", 0.95, categories, {"safe": 0.05, "low": 0.9, "high": 0.05},
                        "privacy, high", "condition", ("privacy",))  # fmt: skip
    for verdicts in ([high, low], [low, high]):
        result = moderation._result(verdicts, ["image"])
        assert (result["level"], result["level_scores"]) == ("high", levels)


@pytest.mark.parametrize("value", ["How?", ["How?", "Why?"], [text("How?")]], ids=str)
def test_text_without_a_picture_has_no_verdict(client, value):
    response = client.post(MODERATION, json={"input": value})
    assert response.status_code == 400
    assert "no verdict" in error_of(response)
    assert "flagged" not in response.text


def test_moderation_runs_no_language_model(checkpoint):
    model, processor = load(checkpoint)

    def fail(*args):
        raise AssertionError("the language model ran")

    model.model.language_model.register_forward_pre_hook(fail)
    with TestClient(serving.create_app(model, processor, NAME, moderations=True)) as client:
        assert moderate(client, picture(RISKY))["flagged"]


def test_a_picture_that_the_model_cannot_read_is_flagged(checkpoint):
    model, processor = load(checkpoint)
    with torch.no_grad():
        model.model.safety_head.level_head.bias.fill_(torch.nan)
    with TestClient(serving.create_app(model, processor, NAME, moderations=True)) as client:
        assert moderate(client, picture(CLEAN))["flagged"]
