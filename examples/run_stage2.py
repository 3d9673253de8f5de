"""Stage 2 of SafeVLM's training: the language model, safety modules frozen.

python examples/run_stage2.py                       # the embedded default: RiskCards on the result of stage 1
python examples/run_stage2.py my_run.yaml --seed 1  # flags win over the file in front of them
python examples/run_stage2.py --model_name_or_path runs/stage1 --train_file records.jsonl
"""

from safevlm_hf.quiet import errors_in_one_line
from safevlm_hf.training.figures import show_figures
from safevlm_hf.training.run import run_stage2


if __name__ == "__main__":
    with errors_in_one_line():
        show_figures(run_stage2())
