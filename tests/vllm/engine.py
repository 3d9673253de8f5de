"""An engine beside the test, and the conditions that it gave."""

from operator import attrgetter

from vllm import LLM, SamplingParams


GREEDY = {"temperature": 0.0, "max_tokens": 32}


def watch_conditions(model):
    """In the engine's process: remember the condition of each image by its block."""
    keep, model.seen = model._safety_inputs, {}

    def remember(*args):
        model.safety_inputs = keep(*args)
        return model.safety_inputs

    features = model._get_features

    def get_features(modality, pixel_values, **kwargs):
        blocks = kwargs["image_block_ids"].tolist()
        result = features(modality, pixel_values, **kwargs)
        encoded = model.safety_inputs.record[-1]
        rows = dict(zip(encoded.safety_image_rows.tolist(), encoded.safety_condition_ids.tolist()))
        model.seen.update({tuple(block): rows[number] for number, block in enumerate(blocks)})
        return result

    model._safety_inputs, model._get_features = remember, get_features


def conditions(seen: dict, prompt_ids: list[int], image_token_id: int) -> list[int]:
    """Rows of a prompt's images, in their order."""
    rows, start = [], 0
    length = len(next(iter(seen)))
    while image_token_id in prompt_ids[start:]:
        start = prompt_ids.index(image_token_id, start)
        rows.append(seen[tuple(prompt_ids[start : start + length])])
        start += length
    return rows


def start_engine(folder, **options) -> LLM:
    llm = LLM(
        str(folder),
        model_impl="transformers",
        dtype="float32",
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=8,
        limit_mm_per_prompt={"image": 3},
        **options,
    )
    llm.apply_model(watch_conditions)
    return llm


def image_part(image):
    return {"type": "image_pil", "image_pil": image}


def ask(engine, *chats, **params):
    messages = [chat.as_messages(image_part) for chat in chats]
    return engine.chat(messages, SamplingParams(**{**GREEDY, **params}), use_tqdm=False)


def compare(engine, chats, answers, **params):
    """Tokens and conditions are transformers'."""
    image_token_id = engine.model_config.hf_config.image_token_id
    outputs = ask(engine, *chats, **params)
    seen, *_ = engine.apply_model(attrgetter("seen"))  # of each rank
    assert [list(output.outputs[0].token_ids) for output in outputs] == [answer.ids for answer in answers]
    found = [conditions(seen, output.prompt_token_ids, image_token_id) for output in outputs]
    assert found == [answer.conditions for answer in answers]
