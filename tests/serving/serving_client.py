"""A client of the server, and a checkpoint whose verdicts are known."""

import base64
import io
import json

import torch
from fastapi.testclient import TestClient
from PIL import Image

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor, serving
from safevlm_hf.modeling.refusal_texts import REFUSALS


NAME = "nano"
QUESTION = "What does the card say?"
REFUSE = {"actions": {"*": {"high": "refuse"}}}
REFUSAL = REFUSALS["en"]["privacy"]
RISKY, CLEAN = Image.new("RGB", (336, 336), "white"), Image.new("RGB", (336, 336), "navy")
CHAT, MODERATION = "/v1/chat/completions", "/v1/moderations"


def text(value):
    return {"type": "text", "text": value}


def encoded(image, form="PNG"):
    file = io.BytesIO()
    image.save(file, form)
    return base64.b64encode(file.getvalue()).decode()


def image_url(url):
    return {"type": "image_url", "image_url": {"url": url}}


def picture(image, form="PNG"):
    return image_url(f"data:image/{form.lower()};base64,{encoded(image, form)}")


def ask(*parts, **fields):
    return {"messages": [{"role": "user", "content": list(parts)}], **fields}


def answer_of(response):
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"].strip()


def events(response):
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def streamed(response):
    *chunks, end = events(response)
    assert end == "[DONE]"
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks).strip()
    assert chunks[-1]["choices"][0]["finish_reason"] == ("content_filter" if said == REFUSAL else "stop")
    return said


def error_of(response):
    assert 400 <= response.status_code < 500, response.text
    return response.json()["error"]["message"]


def inputs_of(processor, image, question=QUESTION):
    content = [{"type": "image", "image": image}, text(question)]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def moderate(client, *parts):
    response = client.post(MODERATION, json={"input": list(parts)})
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["id"].startswith("modr-") and body["model"] == NAME
    (result,) = body["results"]
    return result


def load(checkpoint):
    model = SafeLlavaForConditionalGeneration.from_pretrained(checkpoint).eval()
    return model, SafeLlavaProcessor.from_pretrained(checkpoint)


def open_client(checkpoint, **options):
    app = serving.create_app(*load(checkpoint), NAME, **{"policy": REFUSE, "moderations": True, **options})
    return TestClient(app, raise_server_exceptions=False)


@torch.no_grad()
def point_head(model, processor):
    """White pictures become "privacy, high", navy ones safe: the head looks along the line between the two."""
    head, pooled = model.model.safety_head, []
    hook = head.level_head.register_forward_pre_hook(lambda module, args: pooled.append(args[0][0].mean(dim=0)))
    for image in (RISKY, CLEAN):
        model.assess(**inputs_of(processor, image))
    hook.remove()
    direction = pooled[0] - pooled[1]
    direction *= 9 / direction.square().sum()
    middle = (pooled[0] + pooled[1]) / 2 @ direction
    for linear, risky, safe in ((head.level_head, 3, 0), (head.category_head, 4, 6)):
        linear.weight.zero_()
        linear.bias.fill_(-9.0)
        linear.weight[risky], linear.bias[risky] = 2 * direction, -2 * middle
        linear.bias[safe] = 0.0
