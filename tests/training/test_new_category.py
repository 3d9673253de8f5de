"""A new category is learned and the old ones are kept, on RiskCards: stage 1 twice, without the language model."""

import pytest
import yaml

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.data import NANO_SAFE
from safevlm_hf.data.records import load_records
from safevlm_hf.data.riskcards import NEW_CATEGORY, write_riskcards
from safevlm_hf.evaluation.answering_records import give_verdicts
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS
from safevlm_hf.training.arguments import CONFIGS
from safevlm_hf.training.run import run_stage1


def train(name: str, folder, **changes):
    """The embedded default of this name, the head alone."""
    values = yaml.safe_load((CONFIGS / name).read_text()) | {"riskcards_dir": str(folder), "lm_loss_every": 0}
    values |= {"eval_strategy": "no", "disable_tqdm": True, **changes}
    path = folder / name
    path.write_text(yaml.safe_dump(values))
    return run_stage1([str(path)])


def category_accuracy(checkpoint, file, only_new=False) -> float:
    model = SafeLlavaForConditionalGeneration.from_pretrained(checkpoint)
    processor = SafeLlavaProcessor.from_pretrained(checkpoint)
    names = [*DEFAULT_CATEGORIES, NEW_CATEGORY]
    records = load_records(file, names, DEFAULT_LEVELS)
    answers = give_verdicts(model, processor, records, progress=False)
    labels = [names[record["safety_category"]] for record in records]
    right = [
        answer.category == label
        for label, answer in zip(labels, answers, strict=True)
        if not only_new or label == NEW_CATEGORY
    ]
    return sum(right) / len(right)


@pytest.mark.slow
def test_a_new_category_is_learned_and_the_old_ones_are_kept(tmp_path):
    old_file = write_riskcards(tmp_path / "old", "test", 1600, seed=0)
    new_file = write_riskcards(tmp_path / "new", "test", 300, seed=0, clean_share=0.3, new_category=True)
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    train("nano_stage1.yaml", tmp_path, output_dir=first)
    before = category_accuracy(first, old_file)
    assert before >= 0.9 and category_accuracy(first, new_file, only_new=True) == 0
    train("nano_new_category.yaml", tmp_path, model_name_or_path=first, output_dir=second)
    assert category_accuracy(second, new_file, only_new=True) >= 0.88
    assert category_accuracy(second, old_file) >= before - 0.01


@pytest.mark.ci
def test_its_config_fits_the_checkpoint_that_make_demo_makes(tmp_path):
    few = {"num_riskcards": 16, "max_steps": 1, "max_eval_samples": 8, "replay_share": 0.5}
    trainer = train(
        "nano_new_category.yaml", tmp_path, model_name_or_path=str(NANO_SAFE), output_dir=str(tmp_path / "new"), **few
    )
    assert trainer.model.config.safety_config.categories[-1] == NEW_CATEGORY
