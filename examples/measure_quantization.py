"""How many verdicts on held-out RiskCards change where the weights are quantised.

python examples/measure_quantization.py --model runs/demo/stage2
"""

import argparse
import tempfile
from copy import copy

import torch
from transformers import BitsAndBytesConfig, TorchAoConfig
from transformers.utils import is_bitsandbytes_available, is_torchao_available

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaModel, SafeLlavaProcessor
from safevlm_hf.asking import encode_prompts
from safevlm_hf.data.records import load_records
from safevlm_hf.data.riskcards import write_riskcards
from safevlm_hf.quiet import quiet


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/stage2")
    parser.add_argument("--num_samples", type=int, default=400)
    parser.add_argument("--quantise_tower", action="store_true", help="The vision tower, too, which is left out else.")
    args = parser.parse_args()
    quiet()
    if args.quantise_tower:
        # Each tells quantisers what to leave alone.
        SafeLlavaForConditionalGeneration.vision_modules = SafeLlavaModel.vision_modules = r"nothing"
    batches = held_out_batches(args.model, args.num_samples)
    expected = verdicts(load(args.model), batches)
    print("| weights | levels or categories that change | conditions that change | largest change of a logit |")
    print("|---|---|---|---|")
    for name, kwargs in variants().items():
        given = verdicts(load(args.model, **kwargs), batches)
        changed = (given["classes"] != expected["classes"]).any(dim=-1).sum()
        conditions = (given["conditions"] != expected["conditions"]).sum()
        largest = (given["logits"] - expected["logits"]).abs().max()
        print(f"| {name} | {changed} of {len(given['logits'])} | {conditions} | {largest:.2f} |", flush=True)


def variants() -> dict[str, dict]:
    """Arguments of `from_pretrained`, as far as what they need is installed."""
    found = {"float16": {"dtype": torch.float16}, "bfloat16": {"dtype": torch.bfloat16}}
    if is_torchao_available():
        from torchao.quantization import Int8WeightOnlyConfig

        found["torchao int8"] = {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig(version=2))}
    if is_bitsandbytes_available():
        four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        found["bitsandbytes 8 bit"] = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
        found["bitsandbytes 4 bit (nf4)"] = {"quantization_config": four_bits}
    return found


def load(model: str, **kwargs):
    return SafeLlavaForConditionalGeneration.from_pretrained(model, **kwargs).eval()


def held_out_batches(model: str, num_samples: int, batch_size: int = 20) -> list:
    processor = SafeLlavaProcessor.from_pretrained(model)
    with tempfile.TemporaryDirectory() as folder:
        path = write_riskcards(folder, "test", num_samples, seed=0)
        records = list(load_records(path, processor.categories, processor.levels))
        starts = range(0, len(records), batch_size)
        return [encode_prompts(processor, records[start : start + batch_size]) for start in starts]


def verdicts(model, batches: list) -> dict[str, torch.Tensor]:
    # Copies: `to` rounds the batch itself, and the next model would see rounded pixels.
    outputs = [model.assess(**copy(batch).to(model.device, model.dtype)) for batch in batches]
    logits = [(output.safety_level_logits, output.safety_category_logits) for output in outputs]
    return {
        "classes": torch.cat([torch.stack([part.argmax(dim=-1) for part in pair], dim=-1) for pair in logits]),
        "conditions": torch.cat([output.safety_condition_ids for output in outputs]),
        "logits": torch.cat([torch.cat(pair, dim=-1) for pair in logits]),
    }


if __name__ == "__main__":
    main()
