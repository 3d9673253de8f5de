"""Calibration on RiskCards: a head that has seen few pictures too often is too sure, until it is calibrated."""

import pytest
import yaml

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor, SafetyConfig
from safevlm_hf.calibration.calibrate import calibrate_logits
from safevlm_hf.calibration.logits import collect_verdict_logits
from safevlm_hf.data.records import load_records
from safevlm_hf.data.riskcards import write_riskcards
from safevlm_hf.training.arguments import nano_config
from safevlm_hf.training.run import run_stage1


SAFETY = SafetyConfig()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Verdicts on held-out cards, by a head that was trained on 250 cards for 40 epochs."""
    folder = tmp_path_factory.mktemp("calibration")
    values = yaml.safe_load(nano_config(1).read_text()) | {
        "riskcards_dir": str(folder),
        "output_dir": str(folder / "run"),
    }
    values |= {"num_riskcards": 250, "num_train_epochs": 40, "lm_loss_every": 0}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values | {"disable_tqdm": True}))
    run_stage1([str(path)])
    model = SafeLlavaForConditionalGeneration.from_pretrained(folder / "run")
    processor = SafeLlavaProcessor.from_pretrained(folder / "run")
    records = load_records(write_riskcards(folder / "held out", "test", 1600, 1), SAFETY.categories, SAFETY.levels)
    return collect_verdict_logits(model, processor, records, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("target", [{"target_false_positive_rate": 0.05}, {"target_miss_rate": 0.1}], ids=str)
def test_calibration_error_falls_and_the_target_is_reached(labelled, target):
    results = [calibrate_logits(labelled, SAFETY, **target, seed=seed) for seed in range(10)]
    for result in results:
        assert result.after.level_error < result.before.level_error / 2
        assert result.after.category_error < result.before.category_error * 0.65
    shares = [result.after.category_error / result.before.category_error for result in results]
    assert sum(shares) / len(shares) < 0.55
    # Within a sampling error of 95%, that is 19 of 20 draws.
    assert sum(result.is_on_target for result in results) >= 8, [result.reached.value for result in results]
    reached = sum(result.reached.value for result in results) / len(results)
    assert reached == pytest.approx(*target.values(), rel=0.25)
