"""Stage 1 of SafeVLM's training: the safety modules alone.

python examples/run_stage1.py                       # the embedded default: RiskCards on the nano base
python examples/run_stage1.py my_run.yaml --seed 1  # flags win over the file in front of them
python examples/run_stage1.py --model_name_or_path llava-hf/llava-1.5-7b-hf --train_file records.jsonl
"""

from safevlm_hf.quiet import errors_in_one_line
from safevlm_hf.training.figures import show_figures
from safevlm_hf.training.run import run_stage1


if __name__ == "__main__":
    with errors_in_one_line():
        show_figures(run_stage1())
