"""What the safety layer costs on each backbone: parameters and extra positions per image, at the size of a checkpoint
that people use.

python examples/count_parameters.py
"""

import argparse

import torch

from safevlm_hf.checkpoints.families import BY_MODEL_TYPE


# Model type to: checkpoint, and hidden size of its language model.
CHECKPOINTS = {
    "safe_llava": ("llava-hf/llava-1.5-7b-hf", 4096),
    "safe_qwen2_vl": ("Qwen/Qwen2-VL-7B-Instruct", 3584),
    "safe_qwen2_5_vl": ("Qwen/Qwen2.5-VL-7B-Instruct", 3584),
    "safe_smolvlm": ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", 2048),
    "safe_idefics3": ("HuggingFaceM4/Idefics3-8B-Llama3", 4096),
    "safe_llava_next": ("llava-hf/llava-v1.6-mistral-7b-hf", 4096),
    "safe_llava_onevision": ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 3584),
    "safe_fast_vlm": ("KamilaMila/FastVLM-7B", 3584),
    "safe_qwen3_vl": ("Qwen/Qwen3-VL-8B-Instruct", 4096),
    "safe_qwen3_5": ("Qwen/Qwen3.5-27B", 5120),
    "safe_gemma3": ("google/gemma-3-4b-it", 2560),
    "safe_mistral3": ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", 5120),
    "safe_internvl": ("OpenGVLab/InternVL3-8B-hf", 3584),
    "safe_glm4v": ("zai-org/GLM-4.1V-9B-Thinking", 4096),
}


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| backbone | counted at | parameters of the safety layer | extra positions per image |")
    print("|---|---|---|---|")
    for model_type, (checkpoint, hidden_size) in CHECKPOINTS.items():
        model = build(model_type, hidden_size)
        safety = model.config.safety_config
        count = sum(weight.numel() for name, weight in model.named_parameters() if name.startswith("safety_"))
        positions = f"{safety.num_safety_tokens} + {safety.num_condition_tokens}"
        print(f"| {model_type.removeprefix('safe_')} | {checkpoint} | {count / 1e6:.0f} M | {positions} |")


def build(model_type: str, hidden_size: int) -> torch.nn.Module:
    """A base model with a language model of one layer, without weights."""
    family = BY_MODEL_TYPE[model_type]
    text_config = {
        "hidden_size": hidden_size,
        "num_hidden_layers": 1,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "vocab_size": 200000,
        "intermediate_size": 64,
        "pad_token_id": 0,
    }
    config = family.config(text_config=text_config, pad_token_id=0)
    with torch.device("meta"):
        return family.model.safe_model_class(config)


if __name__ == "__main__":
    main()
