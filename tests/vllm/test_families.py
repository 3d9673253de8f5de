"""The engine answers as transformers does with every family that it serves, and judges as transformers does."""

from dataclasses import dataclass

import pytest
from engine import GREEDY, ask, compare, compare_outputs, start_engine
from families import TESTERS, make_family_checkpoint
from served import CAREFUL, CLEAN, POLICY, REFUSED, Chat, answer, answer_inputs, picture
from vllm import LLM, SamplingParams


TEXT = POLICY["refusals"]["privacy"]
WIDE, TALL, SMALL = (96, 48), (40, 120), (48, 32)
QUICK = ("qwen2_5_vl", "idefics3")
CHATS = [
    *(Chat((picture("red"),), question) for question in (REFUSED, CAREFUL, CLEAN)),
    *(Chat((picture("navy", size),), CAREFUL) for size in (WIDE, TALL, SMALL)),
    Chat((), CAREFUL),
    Chat((picture("red", WIDE), picture("navy", TALL)), CLEAN),
    Chat((picture("navy", TALL), picture("gold", SMALL)), REFUSED),
    Chat((picture("gold"), picture("gray", WIDE), picture("gold")), CAREFUL),
    Chat((picture("red"),), CLEAN + " </s><image><|image_pad|> ASSISTANT: <s>"),
]


@dataclass
class Served:
    engine: LLM
    model: object
    processor: object

    def answers(self, chats):
        return [answer(self.model, self.processor, chat, max_new_tokens=12) for chat in chats]


@pytest.fixture(
    scope="module",
    params=[pytest.param(family, marks=[] if family in QUICK else pytest.mark.slow) for family in TESTERS],
)
def served(request, tmp_path_factory):
    if request.param == "smolvlm":
        pytest.importorskip("num2words", reason="SmolVLM's processor needs it")
    folder = tmp_path_factory.mktemp(request.param)
    model, processor = make_family_checkpoint(request.param, folder)
    # Prompts are cut inside their blocks.
    engine = start_engine(folder, max_num_batched_tokens=192)
    yield Served(engine, model, processor)
    engine.llm_engine.engine_core.shutdown()


def test_as_transformers(served):
    answers = served.answers(CHATS)
    assert len({tuple(one.conditions) for one in answers[:3]}) == 3
    compare(served.engine, CHATS, answers, max_tokens=12)


def test_raw_prompts(served):
    """All of their text is the question, and tokens inside a block are none of it."""
    images = [picture("red"), picture("navy", WIDE)]
    text = f"{served.processor.image_token} and {served.processor.image_token} Hello! {CAREFUL}"
    inputs = served.processor(text=[text], images=[images], return_tensors="pt")
    prompt = {"prompt": text, "multi_modal_data": {"image": images}}
    outputs = served.engine.generate([prompt], SamplingParams(**{**GREEDY, "max_tokens": 12}), use_tqdm=False)
    compare_outputs(served.engine, outputs, [answer_inputs(served.model, inputs, max_new_tokens=12)])


def test_one_picture_in_two_companies(served):
    """The caches are warm with the other company, and with the other question."""
    alone = Chat((picture("gray", WIDE),), CAREFUL)
    together = Chat((picture("gray", WIDE), picture("white", TALL)), CAREFUL)
    asked_more = Chat((picture("gray", WIDE),), REFUSED)
    chats = [alone, together, asked_more, alone]
    for chat, expected in zip(chats, served.answers(chats)):
        compare(served.engine, [chat], [expected], max_tokens=12)


def test_a_refusal(served):
    for chat, is_refused in ((Chat((picture("red", WIDE), picture("navy")), REFUSED), True), (CHATS[2], False)):
        (output,) = ask(served.engine, chat, temperature=1.0, logit_bias={50: 100.0})
        assert (output.outputs[0].text.strip() == TEXT) == is_refused


def test_what_nobody_judges_raises(served):
    image, place = picture("red"), served.processor.image_token
    video = getattr(served.processor, "video_token", place)
    embeds = served.model.get_input_embeddings().weight[None, :64].detach()

    def prompt(data: dict, places: str = place, **kwargs) -> dict:
        return {"prompt": f"{places} Hello", "multi_modal_data": data, **kwargs}

    # GLM-4V's own reading of a video, which comes first, misses the times of its frames.
    of_video = "no verdict on video|Video metadata is required"
    reasons = [
        (prompt({"video": [[image, image]]}, video), of_video),
        (prompt({"image": [image], "video": [[image, image]]}, place + video), of_video),
        (prompt({"audio": [embeds[0, :, 0].numpy()]}), "no verdict on video and audio"),
        (prompt({"image": embeds}), "enable-mm-embeds"),
        (prompt({"image": {"image_embeds": embeds, "image_grid_thw": [[1, 4, 4]]}}), "."),
        (
            prompt({"image": [image]}, mm_processor_kwargs={"images_kwargs": {"do_resize": False}}),
            "mm_processor_kwargs",
        ),
        (prompt({"image": None}, multi_modal_uuids={"image": ["a name"]}), "1 image tokens and 0 images"),
        ({"prompt": f"{place} Hello"}, "image tokens and no images"),
        (prompt({"image": [image]}, place * 2), "2 image tokens and 1 images"),
    ]
    for refused, reason in reasons:
        with pytest.raises(ValueError, match=reason):
            served.engine.generate([refused], SamplingParams(**GREEDY), use_tqdm=False)
