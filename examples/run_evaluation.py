"""Evaluates a safe checkpoint on one benchmark, beside its verdict switched off: `safevlm evaluate` in a page.

python examples/run_evaluation.py --model runs/demo/stage2 --benchmark riskcards --data runs/benchmarks
"""

import argparse
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor

import safevlm_hf  # noqa: F401  registers the safe classes
from safevlm_hf.benchmarks import find_benchmark
from safevlm_hf.evaluation.candidates import VERDICT_OFF, safe_candidate
from safevlm_hf.evaluation.comparing import save_comparison
from safevlm_hf.evaluation.judges.defaults import default_judges
from safevlm_hf.evaluation.pipeline import Settings, evaluate_systems, result_names
from safevlm_hf.evaluation.report import refuse_to_lose_results, summary_rows, write_evaluation_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/stage2")
    parser.add_argument("--benchmark", default="riskcards")
    parser.add_argument("--data", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--output_dir", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--overwrite", action="store_true", help="replace the report of another run")
    args = parser.parse_args()

    # The files are checked before the model is loaded.
    benchmark = find_benchmark(args.benchmark)
    items = benchmark.load(args.data)

    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype="auto").eval()
    processor = AutoProcessor.from_pretrained(args.model)
    settings = Settings(judges=default_judges())
    systems = [
        safe_candidate("verdict off", args.model, model, processor, settings, VERDICT_OFF),
        safe_candidate("verdict on", args.model, model, processor, settings),
    ]
    report = args.output_dir / "report.html"
    if not args.overwrite:
        names = result_names(benchmark, items, systems, settings)
        refuse_to_lose_results(report, names, "`--overwrite` replaces it, another `--output_dir` keeps it")
    evaluated = evaluate_systems(benchmark, items, systems, settings, args.output_dir)
    save_comparison(evaluated, args.output_dir)
    for row in summary_rows(evaluated):
        print("\t".join(row))
    print("report:", write_evaluation_report(report, [evaluated]))


if __name__ == "__main__":
    main()
