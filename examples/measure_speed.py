"""What the verdict costs: time to the first token of a safe model against a stock LLaVA, on random weights.

    python examples/measure_speed.py --words 30 --device cpu

The shape is LLaVA-1.5-7B's at a smaller width, and so is the share of the work that each part does: 24 and 32 layers,
576 patches per image, 64 safety and 16 condition tokens. The extra positions alone set the floor (656 in place of
576); the rest is the safety projector, the head and the policy. The two models take turns, so that other work on the
machine slows both.
"""

import argparse
import copy
import statistics
import time

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, logging

from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration


IMAGE_TOKEN, PATCHES = 4, 576


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=30, help="tokens of the question")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--width", type=float, default=3 / 16, help="as a share of LLaVA-1.5-7B's, in sixteenths")
    parser.add_argument("--head_pooling", default="windows", choices=("windows", "mean", "first"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def build_models(args) -> tuple[LlavaForConditionalGeneration, SafeLlavaForConditionalGeneration]:
    """A stock model and a safe one around the same sizes."""

    def size(of_7b: int) -> int:
        return round(of_7b * args.width)

    vision = CLIPVisionConfig(
        image_size=336,
        patch_size=14,
        hidden_size=size(1024),
        intermediate_size=size(4096),
        num_hidden_layers=24,
        num_attention_heads=size(16),
    )
    text = LlamaConfig(
        vocab_size=8000,
        hidden_size=size(4096),
        intermediate_size=size(11008),
        num_hidden_layers=32,
        num_attention_heads=size(32),
        num_key_value_heads=size(32),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    safe = SafeLlavaConfig.from_base_config(
        copy.deepcopy(config), is_trained=True, head_pooling=args.head_pooling, projector_hidden_size=size(1088)
    )
    models = LlavaForConditionalGeneration(config), SafeLlavaForConditionalGeneration(safe)
    return tuple(model.to(args.device).eval() for model in models)


def build_inputs(model, words: int, device: str) -> dict[str, torch.Tensor]:
    """One picture and a question."""
    safety = getattr(model.config, "safety_config", None)
    extra = 0 if safety is None else safety.num_safety_tokens + safety.num_condition_tokens
    generator = torch.Generator().manual_seed(0)
    question = torch.randint(10, 8000, (words,), generator=generator).tolist()
    ids = torch.tensor([[1, *[IMAGE_TOKEN] * (PATCHES + extra), *question]], device=device)
    pixels = torch.randn(1, 3, 336, 336, generator=generator).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def time_first_token(model, inputs: dict) -> float:
    """Seconds."""
    start = time.perf_counter()
    model.generate(**inputs, max_new_tokens=1, do_sample=False)
    if inputs["input_ids"].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(argv=None) -> dict[str, float]:
    args = parse_args(argv)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    models = build_models(args)
    inputs = [build_inputs(model, args.words, args.device) for model in models]
    rounds = [[time_first_token(*pair) for pair in zip(models, inputs)] for _ in range(2 + args.repeats)][2:]
    ratios = sorted(safe / stock for stock, safe in rounds)
    figures = {
        "stock, ms": 1000 * statistics.median(stock for stock, _ in rounds),
        "safe, ms": 1000 * statistics.median(safe for _, safe in rounds),
        "ratio, median": statistics.median(ratios),
        "ratio, lowest": ratios[0],
        "ratio, highest": ratios[-1],
        "floor (positions)": inputs[1]["input_ids"].shape[1] / inputs[0]["input_ids"].shape[1],
    }
    for name, value in figures.items():
        print(f"{name:20} {value:9.3f}")
    return figures


if __name__ == "__main__":
    main()
