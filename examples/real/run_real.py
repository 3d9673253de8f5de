"""Trains and measures SafeVLM on real pictures: data, base, stage 1, stage 2, fine-tuning alone, the table, and the
policy that the checkpoint keeps.

    OMP_NUM_THREADS=2 python examples/real/run_real.py                  # seed 0
    OMP_NUM_THREADS=2 python examples/real/run_real.py --seeds 0 1 2    # and a table over the seeds

A step that is done is skipped, so that a run that was stopped goes on. `steps.json` beside the results has the seconds
and the command of each step; those of data and base, which all seeds share, lie in the folder above.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import make_base
import measure_real
from real_base.tuning import tune
from real_base.weights import unpack_encoder
from transformers import AutoConfig, GenerationConfig

from safevlm_hf.data.scenes import write_scenes
from safevlm_hf.files import write_text
from safevlm_hf.training.run import run_stage1, run_stage2


HERE = Path(__file__).parent
STEPS = "steps.json"


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/real"), help="data, base, features and seeds")
    parser.add_argument("--sources", type=Path, default=Path("runs/real/sources"), help="as of `safevlm data scenes`")
    parser.add_argument("--accept_terms", action="store_true", help="as of `safevlm data scenes`: read class B, too")
    parser.add_argument("--stage1", default=str(HERE / "stage1.yaml"), help="YAML file of stage 1")
    parser.add_argument("--stage2", default=str(HERE / "stage2.yaml"), help="YAML file of stage 2")
    parser.add_argument("--num_answered", type=int, default=300, help="as of measure_real.py")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    top = args.output_dir
    if not (top / "scenes/scenes.json").is_file():  # both may come from elsewhere
        make_scenes(top, args.sources, args.accept_terms)
    if not (top / "base/naming.json").is_file():
        files = {"--train_files": "scenes/train.jsonl", "--held_out_files": "scenes/test.jsonl"}
        files |= {"--output_dir": "base", "--weights": "weights", "--feature_cache_dir": "features"}
        words = [word for name, path in files.items() for word in (name, str(top / path))]
        Steps(top).run("base", "examples/real/make_base.py", [*words, "--overwrite"], make_base.main)
    for seed in args.seeds:
        run_seed(args, seed)
    if len(args.seeds) > 1:
        runs = [str(top / f"seed{seed}") for seed in args.seeds]
        measure_real.main(["--runs", *runs, "--folder", str(top)])


def make_scenes(top: Path, sources: Path, accept_terms: bool):
    command = f"safevlm data scenes {top / 'scenes'} --sources {sources}"
    if not sources.is_dir():
        raise ValueError(
            f"{top / 'scenes'} holds no pictures, and there is no folder {sources} to make them of. `{command} "
            "--download` gets drawings and public domain, and with `--accept-terms` photographs, too, whose terms you "
            "then keep (docs/scenes.md); the figures of the documents are of both."
        )
    words = [str(sources), *(["--accept-terms"] if accept_terms else [])]
    Steps(top).run("scenes", command, words[1:], lambda _: write_scenes(top / "scenes", sources, accept_terms))


def run_seed(args, seed: int):
    """Train and measure one seed."""
    top = args.output_dir
    folder = top / f"seed{seed}"
    steps = Steps(folder)

    def stage_options(number: int, model: Path) -> list[str]:
        data = {"train_file": "scenes/train.jsonl", "validation_file": "scenes/validation.jsonl"}
        places = {name: top / path for name, path in (data | {"feature_cache_dir": "features"}).items()}
        places |= {"model_name_or_path": model, "output_dir": folder / f"stage{number}"}
        options = [word for name, path in places.items() for word in (f"--{name}", str(path))]
        return [getattr(args, f"stage{number}"), "--seed", str(seed), *options, "--overwrite_output_dir", "true"]

    stage1, stage2 = stage_options(1, top / "base"), stage_options(2, folder / "stage1")
    stage1 += ["--sentence_encoder", str(unpack_encoder(top / "weights", top / "encoder"))]
    measured = ["--folder", folder, "--scenes", top / "scenes", "--feature_cache_dir", top / "features"]
    steps.run("stage1", "examples/run_stage1.py", stage1, run_stage1)
    steps.run("stage2", "examples/run_stage2.py", stage2, run_stage2)
    steps.run("tuned", "real_base.tuning.tune, as", stage2, lambda words: tune(top / "base", folder / "tuned", words))
    steps.run(
        "table",
        "examples/real/measure_real.py",
        [*map(str, measured), "--num_answered", str(args.num_answered)],
        measure_real.main,
    )
    kept = [str(folder / "stage2"), str(folder / "policy.json")]
    steps.run("policy", "run_real.keep_policy, of", kept, lambda words: keep_policy(*map(Path, words)))


def keep_policy(checkpoint: Path, policy_file: Path):
    """Make the thresholds and temperatures that were chosen on validation the checkpoint's own: at the default
    threshold of 0.5 it refuses too much of what is unlike its training (docs/real.md)."""
    policy = json.loads(policy_file.read_text())
    for kind in (GenerationConfig, AutoConfig):  # the config second: its digest is of both
        settings = kind.from_pretrained(checkpoint)
        settings.safety_policy = policy
        settings.save_pretrained(checkpoint)


class Steps:
    """
    The steps of a run that are done, kept in `steps.json`: their commands and seconds.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self.file = folder / STEPS
        self.done = json.loads(self.file.read_text()) if self.file.is_file() else {}

    def run(self, name: str, command: str, words: list[str], make: Callable[[list[str]], object]):
        """Call `make` with the words of a command, unless the step is done."""
        if name in self.done:
            print(f"{self.file.parent}: {name} is done, in {self.done[name]['seconds']} s", flush=True)
            return
        print(f"{self.file.parent}: {name}", flush=True)
        begin = time.monotonic()
        make(words)
        self.done[name] = {"seconds": round(time.monotonic() - begin), "command": f"{command} {shlex.join(words)}"}
        write_text(self.file, json.dumps(self.done, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
