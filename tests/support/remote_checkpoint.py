"""Loads a checkpoint as somebody does who has transformers but not this package, and writes down what it answers.

python remote_checkpoint.py CHECKPOINT PHOTO FOLDER_TO_SAVE_IN [CHECKPOINT_WHOSE_CODE_IS_ELSEWHERE]
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline


REFUSE_ALL = {
    "thresholds": {"privacy": 0.0},
    "actions": {"privacy": {"low": "refuse", "medium": "refuse", "high": "refuse"}},
    "refusals": {"privacy": "Not this one."},
}


def answer(model, processor, photo) -> dict:
    """Tokens and verdicts of one greedy answer about `photo`."""
    inputs = processor.apply_chat_template(
        _messages(photo), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    outputs = model.generate(**inputs, max_new_tokens=8, do_sample=False, return_dict_in_generate=True)
    verdicts = processor.post_process_safety(outputs)
    # A refusal needs the tokenizer, which the model finds by itself.
    refused = model.generate(**inputs, max_new_tokens=30, safety_policy=REFUSE_ALL)
    return {
        "tokens": outputs.sequences.tolist(),
        "verdicts": [json.loads(json.dumps(asdict(verdict))) for verdict in verdicts],
        "refusal": processor.decode(refused[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip(),
    }


def answer_by_pipeline(photo, **kwargs) -> str:
    """The text of the same answer."""
    generated = pipeline("image-text-to-text", **kwargs)(
        text=_messages(photo), max_new_tokens=8, do_sample=False, return_full_text=False
    )
    return generated[0]["generated_text"]


def _messages(photo):
    content = [{"type": "image", "path": str(photo)}, {"type": "text", "text": "What does the card say?"}]
    return [{"role": "user", "content": content}]


def main(checkpoint, photo, folder, other=None):
    sys.modules["safevlm_hf"] = None  # importing it fails, installed or not
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)
    model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    for_text = AutoModelForImageTextToText.from_pretrained(checkpoint, trust_remote_code=True)
    report = {
        "config": [type(config).__name__, type(config).__module__],
        "AutoModel": answer(model, processor, photo),
        "AutoModelForImageTextToText": answer(for_text, processor, photo),
        "pipeline": answer_by_pipeline(photo, model=checkpoint, trust_remote_code=True),
    }
    model.save_pretrained(f"{folder}/again")
    processor.save_pretrained(f"{folder}/again")
    config.save_pretrained(f"{folder}/config")
    processor.save_pretrained(f"{folder}/processor")
    if other is not None:
        AutoModel.from_pretrained(other, trust_remote_code=True).save_pretrained(f"{folder}/again")
        AutoProcessor.from_pretrained(other, trust_remote_code=True).save_pretrained(f"{folder}/again")
    again = AutoModel.from_pretrained(f"{folder}/again", trust_remote_code=True)
    processor_again = AutoProcessor.from_pretrained(f"{folder}/again", trust_remote_code=True)
    report["saved again"] = answer(again, processor_again, photo)

    del sys.modules["safevlm_hf"]
    sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
    import safevlm_hf

    local = AutoModel.from_pretrained(f"{folder}/again")
    assert type(local) is safevlm_hf.SafeLlavaForConditionalGeneration and type(local) is not type(model)
    report["package"] = answer(local, AutoProcessor.from_pretrained(f"{folder}/again"), photo)
    report["remote beside package"] = answer(again, processor_again, photo)
    Path(folder, "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
