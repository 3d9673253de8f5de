"""What the verdict costs: time to the first token of safe models against a stock LLaVA, on random weights.

    python examples/measure_speed.py --words 30 --device cpu

The shape is LLaVA-1.5-7B's at a smaller width, and so is the share of the work that each part does: 24 and 32 layers,
576 patches per image, 64 safety and 16 condition tokens. The extra positions alone set the floor (656 in place of
576); the rest is the safety projector, the head and the policy. The head that reads words has its true width here,
16/3 of its share. `assess`, the verdict alone, is compared with that of the head that reads the language model's
embeddings. The models take turns, so that other work on the machine slows all.
"""

import argparse
import copy
import statistics
import time

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, logging

from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration


IMAGE_TOKEN, PATCHES = 4, 576
STOCK, READINGS = "stock", ("words", "embeddings")


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=30, help="tokens of the question")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--width", type=float, default=3 / 16, help="as a share of LLaVA-1.5-7B's, n/16; 1: all of it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def build_models(args) -> dict[str, LlavaForConditionalGeneration]:
    """A stock model and safe ones of both readings around the same sizes."""

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
    models = {STOCK: LlavaForConditionalGeneration(config)}
    for reading in READINGS:
        safe = SafeLlavaConfig.from_base_config(
            copy.deepcopy(config), is_trained=True, head_reading=reading, projector_hidden_size=size(1088)
        )
        models[reading] = SafeLlavaForConditionalGeneration(safe)
    return {name: model.to(args.device).eval() for name, model in models.items()}


def build_inputs(model, words: int, device: str) -> dict[str, torch.Tensor]:
    """One picture and a question."""
    safety = getattr(model.config, "safety_config", None)
    extra = 0 if safety is None else safety.num_safety_tokens + safety.num_condition_tokens
    generator = torch.Generator().manual_seed(0)
    question = torch.randint(10, 8000, (words,), generator=generator).tolist()
    ids = torch.tensor([[1, *[IMAGE_TOKEN] * (PATCHES + extra), *question]], device=device)
    pixels = torch.randn(1, 3, 336, 336, generator=generator).to(device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    if safety is not None and safety.reads_words:
        asked = torch.randint(2000, safety.head_vocab_size, (1, words, 1), generator=generator)
        inputs["question_ids"] = torch.cat([asked, torch.ones_like(asked)], dim=-1).to(device)
    return inputs


def time_first_token(model, inputs: dict) -> float:
    """Seconds."""
    return _time(lambda: model.generate(**inputs, max_new_tokens=1, do_sample=False), inputs)


def time_verdict(model, inputs: dict) -> float:
    """Seconds of `assess`."""
    return _time(lambda: model.assess(**inputs), inputs)


def _time(run, inputs: dict) -> float:
    start = time.perf_counter()
    run()
    if inputs["input_ids"].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(argv=None) -> dict[str, float]:
    args = parse_args(argv)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    models = build_models(args)
    inputs = {name: build_inputs(model, args.words, args.device) for name, model in models.items()}
    rounds = []
    for _ in range(2 + args.repeats):
        first = {name: time_first_token(models[name], inputs[name]) for name in models}
        verdict = {name: time_verdict(models[name], inputs[name]) for name in READINGS}
        rounds.append((first, verdict))
    rounds = rounds[2:]
    figures = {f"first token, {name}, ms": 1000 * statistics.median(one[name] for one, _ in rounds) for name in models}
    figures |= {f"assess, {name}, ms": 1000 * statistics.median(one[name] for _, one in rounds) for name in READINGS}
    for reading in READINGS:
        figures |= spread(f"first token, {reading} / stock", [one[reading] / one[STOCK] for one, _ in rounds])
    figures |= spread("assess, words / embeddings", [one["words"] / one["embeddings"] for _, one in rounds])
    figures["floor (positions)"] = inputs["words"]["input_ids"].shape[1] / inputs[STOCK]["input_ids"].shape[1]
    for name, value in figures.items():
        print(f"{name:45} {value:9.3f}")
    return figures


def spread(name: str, ratios: list[float]) -> dict[str, float]:
    return {f"{name}, {of.__name__}": of(ratios) for of in (statistics.median, min, max)}


if __name__ == "__main__":
    main()
