"""Pack the checkpoint of `make demo` for this package: half precision, without code, training state and optimizer.

    python examples/pack_checkpoint.py runs/demo/stage2 src/safevlm_hf/data/nano_safe

It loads as float32: the weights take half of the disk, and what is computed with them keeps its precision. `safevlm
assess` and `safevlm chat` use what lies in src/safevlm_hf/data/nano_safe where no other model is named.
"""

import argparse
import hashlib
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import safevlm_hf  # noqa: F401
from safevlm_hf.files import refuse_to_overwrite


KEPT = (".json", ".jinja", ".md", ".safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="The checkpoint.")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--overwrite", action="store_true", help="Replace what lies in output_dir.")
    args = parser.parse_args()
    if not args.overwrite:
        refuse_to_overwrite(args.output_dir, "`--overwrite` replaces it, another folder keeps it")
    AutoModelForImageTextToText.from_pretrained(args.model).save_pretrained(args.output_dir)
    AutoProcessor.from_pretrained(args.model).save_pretrained(args.output_dir)
    for file in args.output_dir.iterdir():
        if file.suffix not in KEPT:
            file.unlink()
    weights = args.output_dir / "model.safetensors"
    halves = {name: weight.half() for name, weight in load_file(weights).items()}
    save_file(halves, weights, metadata={"format": "pt"})
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    print(f"{weights}: {weights.stat().st_size / 1e6:.1f} MB, sha256 {digest}")


if __name__ == "__main__":
    main()
