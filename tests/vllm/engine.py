"""An engine beside the test, and the verdicts that it gave."""

from operator import attrgetter

import torch
from vllm import LLM, SamplingParams

from safevlm_hf.vllm.keys import zero_token_id
from safevlm_hf.vllm.prompts import BLOCK, PLACE


GREEDY = {"temperature": 0.0, "max_tokens": 32}


def watch_verdicts(model):
    """In the engine's process: remember condition and level logits of each picture by its block."""
    get_inputs, encode, model.seen = model._safety_inputs, model._encode, {}

    def get_and_keep_inputs(*args):
        model.safety_inputs = get_inputs(*args)
        return model.safety_inputs

    def encode_and_remember(prompts):
        blocks = encode(prompts)
        encoded = model.safety_inputs.outputs[-1]
        for number, prompt in enumerate(prompts):
            own = encoded.safety_image_rows == number
            verdicts = zip(encoded.safety_condition_ids[own].tolist(), encoded.safety_level_logits[own].tolist())
            verdicts = list(verdicts)
            model.seen.update({tuple(item[BLOCK].tolist()): verdicts[int(item[PLACE])] for item in prompt})
        return blocks

    model._safety_inputs, model._encode = get_and_keep_inputs, encode_and_remember


def find_blocks(seen: dict, prompt_ids: list[int], image_token_id: int) -> list[tuple]:
    """The blocks of a prompt, in their order."""
    blocks, start = [], 0
    while image_token_id in prompt_ids[start:]:
        start = prompt_ids.index(image_token_id, start)
        blocks.append(next(block for block in seen if tuple(prompt_ids[start : start + len(block)]) == block))
        start += len(blocks[-1])
    return blocks


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
    llm.apply_model(watch_verdicts)
    return llm


def image_part(image):
    return {"type": "image_pil", "image_pil": image}


def ask(engine, *chats, **params):
    messages = [chat.as_messages(image_part) for chat in chats]
    return engine.chat(messages, SamplingParams(**{**GREEDY, **params}), use_tqdm=False)


def compare(engine, chats, answers, **params):
    """Prompts, tokens, conditions and verdicts are transformers'."""
    compare_outputs(engine, ask(engine, *chats, **params), answers)


def compare_outputs(engine, outputs, answers):
    image_token_id = engine.model_config.hf_config.image_token_id
    zero_id = zero_token_id(engine.get_tokenizer())
    seen, *_ = engine.apply_model(attrgetter("seen"))  # of each rank
    assert [list(output.outputs[0].token_ids) for output in outputs] == [answer.ids for answer in answers]
    for output, answer in zip(outputs, answers):
        blocks = find_blocks(seen, output.prompt_token_ids, image_token_id)
        assert [seen[block][0] for block in blocks] == answer.conditions
        found, expected = (torch.tensor(logits) for logits in ([seen[block][1] for block in blocks], answer.logits))
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        assert without_keys(output.prompt_token_ids, blocks, image_token_id, zero_id) == answer.prompt_ids


def without_keys(prompt_ids: list[int], blocks: list[tuple], image_token_id: int, zero_id: int) -> list[int]:
    ids, start = list(prompt_ids), 0
    for block in blocks:
        start = ids.index(image_token_id, start)
        ids[start : start + len(block)] = [image_token_id if one == zero_id else one for one in block]
        start += len(block)
    return ids
