import json
import logging
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.browser import SCROLLED_TABLES, check_readable, open_page
from support.html_page import check_page, hostile

from safevlm_hf import SafetyPolicy
from safevlm_hf.calibration.calibrate import calibrate, calibrate_logits
from safevlm_hf.calibration.curves import precision_over_recall, roc
from safevlm_hf.calibration.figures import evaluate_policy
from safevlm_hf.calibration.logits import LabelledLogits, _groups, collect_verdict_logits, split
from safevlm_hf.calibration.report import render_calibration_report, write_calibration_report
from safevlm_hf.calibration.temperatures import fit_temperatures
from safevlm_hf.calibration.thresholds import choose_thresholds
from safevlm_hf.intervals.figure import share_of_counts
from safevlm_hf.intervals.reliability import calibration_error_interval, expected_calibration_error, reliability_bins
from safevlm_hf.modeling.configuration_safety import SafetyConfig
from safevlm_hf.modeling.operator_policy import enforced_policy
from safevlm_hf.modeling.safety_decision import calibrated_probabilities


pytestmark = pytest.mark.ci


CONFIG = SafetyConfig()
SAFE_CATEGORY = CONFIG.categories.index("safe")
RISKY = [name for name in CONFIG.categories if name != "safe"]
RISKY_IDS = [CONFIG.categories.index(name) for name in RISKY]
HOSTILE = '<script>alert("1")</script>'
SCALES = {"level": 2.5, "category": 1.6}


def draw(num_samples, seed, scales=SCALES, samples_a_picture=1):
    """Logits that are calibrated once divided by `scales`: half of the samples are clean."""
    generator = torch.Generator().manual_seed(seed)
    is_clean = torch.rand(num_samples, generator=generator) < 0.5
    category = torch.randint(0, SAFE_CATEGORY, (num_samples,), generator=generator)
    category = torch.where(is_clean, SAFE_CATEGORY, category)
    level = torch.where(is_clean, 0, torch.randint(1, 4, (num_samples,), generator=generator))
    # Unit Gaussians around each class have these posterior logits.
    category_prior = torch.tensor([1 / 12] * 6 + [0.5])
    logits = []
    for label, prior in ((level, torch.tensor([0.5] + [1 / 6] * 3)), (category, category_prior)):
        seen = torch.randn(num_samples, len(prior), generator=generator)
        seen[torch.arange(num_samples), label] += 2.5
        logits.append(2.5 * seen + prior.log())
    groups = tuple(f"{index // samples_a_picture}.jpg" for index in range(num_samples))
    return LabelledLogits(logits[0] * scales["level"], logits[1] * scales["category"], level, category, groups)


def reached(labelled, thresholds, kind, temperatures=SCALES):
    figures = evaluate_policy(SafetyPolicy(thresholds=thresholds, temperatures=temperatures), labelled, CONFIG)
    return figures.false_positives if kind == "target_false_positive_rate" else figures.misses


# --------------------------------------------------------------------------------------------------
# Reliability
# --------------------------------------------------------------------------------------------------


def test_calibration_error():
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0
    assert expected_calibration_error([0.0, 1.0], [True, False]) == 1
    assert expected_calibration_error([0.8] * 10, [True] * 8 + [False] * 2) == pytest.approx(0)
    assert expected_calibration_error([0.8] * 10, [True] * 3 + [False] * 7) == pytest.approx(0.5)
    assert expected_calibration_error([], []) is None
    first, last = reliability_bins([0.02, 0.04, 1.0], [False, True, True], num_bins=4)
    assert (first.low, first.high, first.num_samples, first.risky_share) == (0, 0.25, 2, 0.5)
    assert first.mean_risk == pytest.approx(0.03)
    assert (last.low, last.high, last.num_samples) == (0.75, 1, 1)
    with pytest.raises(ValueError, match="a risk is 1.5"):
        reliability_bins([1.5], [True])
    with pytest.raises(ValueError, match="2 risks but 1 labels"):
        reliability_bins([0.5, 0.5], [True])


def test_the_interval_of_the_calibration_error():
    random = np.random.RandomState(0)
    risks = random.uniform(size=400)
    is_risky = random.uniform(size=400) < risks**2
    error = expected_calibration_error(risks, is_risky)
    low, high = calibration_error_interval(risks, is_risky, range(400))
    assert low < error < high and 0.04 < high - low < 0.15
    doubled = [np.repeat(one, 2) for one in (risks, is_risky, np.arange(400))]
    assert calibration_error_interval(*doubled) == pytest.approx((low, high))  # two questions about each picture
    assert np.isnan(calibration_error_interval([0.5], [True], ["a.jpg"])).all()


# --------------------------------------------------------------------------------------------------
# Logits with labels
# --------------------------------------------------------------------------------------------------


def test_logits_are_those_of_each_records_last_question(nano_model, nano_processor, riskcards, caplog):
    records = list(riskcards)
    nano_model.train()
    together = collect_verdict_logits(nano_model, nano_processor, records, batch_size=5, progress=False)
    assert nano_model.training and "leaves out" not in caplog.text
    alone = [collect_verdict_logits(nano_model, nano_processor, [one], progress=False) for one in records]
    torch.testing.assert_close(together.level_logits, torch.cat([one.level_logits for one in alone]))
    torch.testing.assert_close(together.category_logits, torch.cat([one.category_logits for one in alone]))
    assert together.level.tolist() == [one["safety_level"] for one in records]
    assert together.category.tolist() == [one["safety_category"] for one in records]
    assert together.groups == tuple(one["images"][0] for one in records)


RISKY_LEVELS = [[9.0, 0, 0, 0], [0, 0, 0, 9.0]]
# The second image is less risky, and of a higher level: the strictest, as generation decides.
RISING_LEVELS = [[0, 9.0, 0, 0], [0, 0, 0, 2.0]]


@pytest.mark.parametrize("levels", [RISKY_LEVELS, RISING_LEVELS], ids=["riskier", "higher"])
def test_of_several_images_the_strictest_counts(nano_model, nano_processor, riskcards, levels):
    first, second = riskcards[0], riskcards[1]
    question = first["messages"][0]["content"]
    image = [part for part in question if part["type"] == "image"]
    both = {
        **first,
        "images": first["images"] + second["images"],
        "messages": [{"role": "user", "content": image + question}, *first["messages"][1:]],
    }
    seen = nano_model.assess

    def assess(**inputs):
        outputs = seen(**inputs)
        outputs.safety_level_logits = torch.tensor(levels)
        return outputs

    nano_model.assess = assess
    labelled = collect_verdict_logits(nano_model, nano_processor, [both], progress=False)
    assert labelled.level_logits.tolist() == levels[1:] and labelled.groups == (first["images"][0],)


def test_what_cannot_be_used_is_named(nano_model, nano_processor, riskcards, caplog):
    text = {"images": [], "messages": [], "safety_level": -100, "safety_category": -100, "source": "x.jsonl:7"}
    unlabelled = {**riskcards[1], "safety_level": None, "source": "x.jsonl:8"}
    with caplog.at_level(logging.WARNING):
        labelled = collect_verdict_logits(nano_model, nano_processor, [text, riskcards[0], unlabelled], progress=False)
    assert len(labelled) == 1
    assert "leaves out 2 of 3 records:\n- x.jsonl:7: no image\n- x.jsonl:8: no labels" in caplog.text
    with pytest.raises(ValueError, match="none of 2 records can be used"):
        collect_verdict_logits(nano_model, nano_processor, [text, unlabelled], progress=False)
    with pytest.raises(ValueError, match="safety_category is 9, but the model has 7"):
        collect_verdict_logits(nano_model, nano_processor, [{**riskcards[0], "safety_category": 9}], progress=False)
    with pytest.raises(ValueError, match="safety head"):
        collect_verdict_logits(torch.nn.Linear(1, 1), nano_processor, list(riskcards))


def test_an_image_without_a_verdict_is_left_out(nano_model, nano_processor, riskcards, caplog):
    seen = nano_model.assess

    def assess(**inputs):
        outputs = seen(**inputs)
        outputs.safety_category_logits[outputs.safety_image_rows == 0] = math.nan
        return outputs

    nano_model.assess = assess
    with caplog.at_level(logging.WARNING):
        labelled = collect_verdict_logits(nano_model, nano_processor, list(riskcards), progress=False)
    assert len(labelled) == len(riskcards) - 1 and "no verdict" in caplog.text


def test_questions_about_one_picture_stay_together():
    labelled = draw(300, 0, samples_a_picture=2)
    choose, check = split(labelled, holdout_share=0.3, seed=1)
    assert len(choose) + len(check) == 300 and abs(len(check) - 90) <= 2
    assert not set(choose.groups) & set(check.groups)
    again, other = split(labelled, 0.3, seed=1)[1], split(labelled, 0.3, seed=2)[1]
    assert check.groups == again.groups != other.groups
    row = labelled.groups.index(check.groups[0])
    torch.testing.assert_close(check.level_logits[0], labelled.level_logits[row])
    with pytest.raises(ValueError, match="holdout_share is 1"):
        split(labelled, 1)
    with pytest.raises(ValueError, match="two pictures or more"):
        split(labelled.select([0, 1]))


def test_samples_that_share_any_picture_are_one_group():
    groups = _groups([["a", "b"], ["c"], ["b"], ["d<split>c"], ["e", "d"], ["f"]])
    assert groups[0] == groups[2] and groups[1] == groups[3] == groups[4] and len(set(groups)) == 3


# --------------------------------------------------------------------------------------------------
# Temperatures and thresholds
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [{"level": 2.5, "category": 1.6}, {"level": 0.4, "category": 12.0}])
def test_known_temperatures_are_found(scales):
    labelled = draw(4000, 0, scales)
    temperatures = fit_temperatures(labelled)
    assert temperatures == pytest.approx(scales, rel=0.08)
    assert temperatures == fit_temperatures(labelled)
    SafetyPolicy(temperatures=temperatures)


def test_a_temperature_that_the_samples_do_not_tell_is_left_alone(caplog):
    labelled = LabelledLogits(torch.eye(4), torch.eye(7)[:4], torch.arange(4), torch.arange(4), tuple("abcd"))
    with caplog.at_level(logging.WARNING):
        assert fit_temperatures(labelled) == {}
    assert "temperature of the level is left as it is" in caplog.text and "bound, 0.05" in caplog.text
    with pytest.raises(ValueError, match="no samples"):
        fit_temperatures(labelled.select([]))


@pytest.mark.parametrize("kind", ["target_false_positive_rate", "target_miss_rate"])
@pytest.mark.parametrize("target", [0.05, 0.1, 0.2])
def test_fresh_samples_reach_the_target(kind, target):
    rates = []
    for seed in range(6):
        labelled = draw(1200, seed)
        choice = choose_thresholds(labelled, SCALES, CONFIG, **{kind: target})
        thresholds = choice.thresholds
        assert list(thresholds) == RISKY and not choice.undetermined
        chosen = reached(labelled, thresholds, kind)
        assert 0.8 * target < chosen.value <= target
        fresh = reached(draw(1200, 100 + seed), thresholds, kind)
        error = math.sqrt(target * (1 - target) * (1 / chosen.total + 1 / fresh.total))
        assert abs(fresh.value - target) < 3 * error
        rates.append(fresh.value)
    assert sum(rates) / len(rates) == pytest.approx(target, abs=2 * error / math.sqrt(len(rates)))


def test_false_alarms_can_be_spent_where_they_find_most():
    target, kind = 0.05, "target_false_positive_rate"
    rates, found, found_evenly = [], [], []
    for seed in range(6):
        labelled, fresh = draw(1200, seed), draw(1200, 100 + seed)
        # Three of four risky samples are of one category, and hard to tell from clean ones.
        for one in (labelled, fresh):
            common = ((one.level > 0) & (torch.arange(len(one)) % 4 > 0)).nonzero()[:, 0]
            logits = one.category_logits[common, one.category[common]]
            one.category_logits[common, one.category[common]] = one.category_logits[common, RISKY_IDS[0]]
            one.category_logits[common, RISKY_IDS[0]] = logits - 2
            one.category[common] = RISKY_IDS[0]
        evenly = choose_thresholds(labelled, SCALES, CONFIG, **{kind: target}).thresholds
        most = choose_thresholds(labelled, SCALES, CONFIG, **{kind: target}, maximize_recall=True).thresholds
        assert list(most) == RISKY and reached(labelled, most, kind).value <= target
        rates.append(reached(fresh, most, kind).value)
        missed = [reached(fresh, one, "target_miss_rate").value for one in (most, evenly)]
        found.append(1 - missed[0])
        found_evenly.append(1 - missed[1])
    assert sum(rates) / 6 == pytest.approx(target, abs=0.015)
    assert sum(found) > sum(found_evenly) + 6 * 0.03
    with pytest.raises(ValueError, match="name target_false_positive_rate, not target_miss_rate"):
        choose_thresholds(draw(200, 0), SCALES, CONFIG, target_miss_rate=0.1, maximize_recall=True)
    with pytest.raises(ValueError, match=r"false_positive_rate of 0.001 cannot be chosen with \d+ clean"):
        choose_thresholds(draw(200, 0), SCALES, CONFIG, target_false_positive_rate=0.001, maximize_recall=True)


def test_thresholds_are_monotone_in_the_target():
    labelled, targets = draw(1200, 0), (0.02, 0.05, 0.2, 0.6, 0.95)
    by_alarms, by_misses = (
        [choose_thresholds(labelled, SCALES, CONFIG, **{kind: one}).thresholds for one in targets]
        for kind in ("target_false_positive_rate", "target_miss_rate")
    )
    for name in RISKY:
        alarms, misses = [one[name] for one in by_alarms], [one[name] for one in by_misses]
        assert alarms == sorted(alarms, reverse=True) and misses == sorted(misses)
        assert all(0 < value <= 1 for value in alarms + misses)


def test_targets_that_cannot_be_chosen():
    labelled = draw(200, 0)
    for targets in ({}, {"target_false_positive_rate": 0.1, "target_miss_rate": 0.1}):
        with pytest.raises(ValueError, match="one target"):
            choose_thresholds(labelled, SCALES, CONFIG, **targets)
    for value in (0, 1, -0.1, 5, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1, as 0.05"):
            choose_thresholds(labelled, SCALES, CONFIG, target_miss_rate=value)
    for kind, which in (("false_positive_rate", "clean"), ("miss_rate", "risky")):
        with pytest.raises(
            ValueError, match=rf"{kind} of 0.001 cannot be chosen with \d+ {which}.*takes about \d{{4}}"
        ):
            choose_thresholds(labelled, SCALES, CONFIG, **{f"target_{kind}": 0.001})


@pytest.mark.parametrize("kind", ["target_false_positive_rate", "target_miss_rate"])
def test_a_category_without_samples_is_left_alone(kind):
    labelled = draw(600, 0)
    labelled = labelled.select((labelled.category != CONFIG.categories.index("fairness")).nonzero()[:, 0])
    result = calibrate_logits(labelled, CONFIG, **{kind: 0.1})
    assert set(result.thresholds) == set(RISKY) - {"fairness"}
    assert result.policy.threshold("fairness") is None
    assert result.remarks == ["fairness: threshold not determined, left alone: no sample of its own to choose with"]
    off = calibrate_logits(labelled, CONFIG, **{kind: 0.1}, base_policy={"categories": {"fairness": False}})
    assert off.policy.categories == {"fairness": False} and off.remarks == []


# --------------------------------------------------------------------------------------------------
# What the samples do not determine
# --------------------------------------------------------------------------------------------------


def separate(num_samples, seed, margin=18.0):
    """A head that is always right, and sure of it: probabilities of 1e-8 and of almost 1."""
    labelled = draw(num_samples, seed)
    level, category = (
        margin * torch.nn.functional.one_hot(label, size) + torch.rand(num_samples, size)
        for label, size in ((labelled.level, 4), (labelled.category, 7))
    )
    return replace(labelled, level_logits=level, category_logits=category)


@pytest.mark.parametrize("kind", ["target_false_positive_rate", "target_miss_rate"])
@pytest.mark.parametrize("target", [0.01, 0.05, 0.3])
def test_separated_samples_give_the_middle_of_the_gap(kind, target):
    result = calibrate_logits(separate(600, 0), CONFIG, **{kind: target})
    assert result.temperatures == {}
    assert list(result.thresholds) == list(result.undetermined) == RISKY
    assert all(value == pytest.approx(0.5, abs=0.01) for value in result.thresholds.values())
    assert result.after.false_positives.count == result.after.misses.count == 0
    assert result.is_on_target
    assert len(result.remarks) == len(RISKY) + 2
    assert "the middle of a gap" in result.remarks[0] and "temperature of the level" in result.remarks[-2]
    assert result.figures()["not_determined"] == result.remarks


def test_a_gap_that_lies_low_is_left_alone():
    labelled = separate(600, 0)
    # Every risky sample of politics is taken for safe, a little less surely than a clean one.
    politics = labelled.category == CONFIG.categories.index("politics")
    logits = labelled.category_logits.clone()
    logits[politics] = 0
    logits[politics, SAFE_CATEGORY] = 18
    logits[politics, 0] = 10
    choice = choose_thresholds(replace(labelled, category_logits=logits), {}, CONFIG, target_false_positive_rate=0.05)
    assert "politics" not in choice.thresholds and "left alone" in choice.undetermined["politics"]
    assert set(choice.thresholds) == set(RISKY) - {"politics"}


@pytest.mark.parametrize("kind", ["target_false_positive_rate", "target_miss_rate"])
@pytest.mark.parametrize("target", [0.02, 0.05, 0.3])
def test_few_mistakes_of_a_sure_head_move_no_threshold_to_where_nothing_lies(kind, target):
    labelled = separate(2000, 1)
    logits = labelled.category_logits.clone()
    for index in range(0, 2000, 100):  # 1 in 100 is taken for another, as surely as the rest
        logits[index] = logits[index].roll(1 + index // 100 % 6)
    choice = choose_thresholds(replace(labelled, category_logits=logits), {}, CONFIG, **{kind: target})
    assert list(choice.thresholds) == RISKY
    assert all(0.05 <= value <= 0.95 for value in choice.thresholds.values()), choice.thresholds


def test_a_target_out_of_reach_is_named():
    labelled = separate(1000, 1)
    logits = labelled.category_logits.clone()
    wrong = (labelled.level > 0).nonzero()[::10, 0]  # 1 in 10 is taken for safe, beyond any sound threshold
    logits[wrong] = 18.0 * torch.nn.functional.one_hot(torch.tensor(SAFE_CATEGORY), 7)
    with pytest.raises(ValueError, match="miss_rate of 0.05 cannot be chosen.*0.05 to 0.95 can mend"):
        choose_thresholds(replace(labelled, category_logits=logits), {}, CONFIG, target_miss_rate=0.05)


def test_a_low_threshold_needs_samples_there():
    labelled = draw(1200, 0)
    thresholds = choose_thresholds(labelled, SCALES, CONFIG, target_false_positive_rate=0.9).thresholds
    scores = calibrated_probabilities(SafetyPolicy(temperatures=SCALES), labelled.category_logits, "category")
    for name, threshold in thresholds.items():
        own = scores[labelled.category == CONFIG.categories.index(name), CONFIG.categories.index(name)]
        assert threshold >= 1 / len(labelled)
        assert threshold >= 0.05 or int((own <= threshold).sum()) >= 5


def test_every_window_counts():
    labelled = draw(400, 0)
    risky = (labelled.level > 0).nonzero()[0, 0].item()
    both = torch.cat([labelled.level_logits, labelled.category_logits], dim=-1)
    clean = (labelled.level == 0).nonzero()[:50, 0].tolist()
    # Fifty clean samples have a window, not the one that decided, that is as risky as a risky sample.
    windows = tuple(torch.stack([both[row], both[risky if row in clean else row]]) for row in range(400))
    policy = SafetyPolicy(thresholds={"*": 0.5})
    alone = evaluate_policy(policy, labelled, CONFIG).false_positives
    together = evaluate_policy(policy, replace(labelled, windows=windows), CONFIG).false_positives
    assert alone.count < together.count <= alone.count + 50
    some = replace(labelled, windows=windows).select([risky, *clean])
    assert len(some.windows) == 51 and torch.equal(some.windows[1][1], both[risky])
    assert evaluate_policy(policy, some, CONFIG).false_positives.count == 50


def test_scores_that_are_all_alike():
    labelled = draw(200, 0)
    alike = LabelledLogits(
        labelled.level_logits * 0, labelled.category_logits * 0, labelled.level, labelled.category, labelled.groups
    )
    for kind in ("target_false_positive_rate", "target_miss_rate"):
        with pytest.raises(ValueError, match="cannot be chosen"):
            choose_thresholds(alike, SCALES, CONFIG, **{kind: 0.3})


# --------------------------------------------------------------------------------------------------
# Calibration
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result():
    return calibrate_logits(draw(3000, 3, samples_a_picture=2), CONFIG, target_false_positive_rate=0.05, seed=4)


def test_calibration_is_checked_on_other_samples(result):
    assert result.temperatures == pytest.approx(SCALES, rel=0.1)
    assert result.after.level_error < result.before.level_error
    assert result.after.category_error < result.before.category_error
    assert not set(result.choose.groups) & set(result.check.groups)
    assert result.reached == result.after.false_positives and result.is_on_target
    assert result.reached == evaluate_policy(result.policy, result.check, CONFIG).false_positives
    assert result.reached.total == int((result.check.level == 0).sum())


def test_the_written_policy_decides_alike(result):
    written = SafetyPolicy.create(json.loads(json.dumps(result.policy.to_dict())), CONFIG)
    assert evaluate_policy(written, result.check, CONFIG) == result.after
    assert json.loads(json.dumps(result.figures()))["after"]["false_positives"]["count"] == result.reached.count


def test_the_base_policy_is_kept():
    base = {"actions": {"*": {"high": "refuse"}}, "categories": {"politics": False}, "thresholds": {"privacy": 0.3}}
    result = calibrate_logits(draw(1200, 0), CONFIG, target_miss_rate=0.1, base_policy=base)
    assert result.policy.actions == base["actions"] and result.policy.categories == base["categories"]
    assert set(result.policy.thresholds) == set(RISKY) - {"politics"}
    assert result.policy.thresholds["privacy"] != 0.3 == result.base_policy.thresholds["privacy"]
    is_missable = (result.check.level > 0) & (result.check.category != CONFIG.categories.index("politics"))
    assert result.after.misses.total == int(is_missable.sum()) and result.is_on_target
    with pytest.raises(ValueError, match="flags nothing"):
        calibrate_logits(draw(100, 0), CONFIG, target_miss_rate=0.1, base_policy={"enabled": False})


def test_a_review_band_that_a_threshold_comes_under_is_left_out_and_named():
    base = {"review_thresholds": {"*": 0.6, "privacy": 0.01}}
    result = calibrate_logits(draw(1200, 0), CONFIG, target_miss_rate=0.05, base_policy=base)
    low = {name for name, threshold in result.thresholds.items() if threshold <= 0.6} - {"privacy"}
    assert low and set(result.covered_bands) == low
    for name in result.thresholds:
        begin = result.policy.review_threshold(name)
        assert begin is None if name in low else begin < result.policy.threshold(name)
    assert any("review band is left out, for it began at 0.6" in remark for remark in result.remarks)


def test_calibrating_a_model_starts_from_its_policy(nano_model, nano_processor, riskcards, monkeypatch):
    seen = []

    def collect(*arguments):
        seen.append(arguments)
        return draw(1200, 0)

    monkeypatch.setattr("safevlm_hf.calibration.calibrate.collect_verdict_logits", collect)
    nano_model.generation_config.safety_policy = {"language": "de", "thresholds": {"*": 0.5}}
    arguments = (nano_model, nano_processor, riskcards)
    result = calibrate(*arguments, target_miss_rate=0.1, base_policy={"language": "fr"}, batch_size=7, progress=False)
    assert seen == [(*arguments, 7, False)] and result.policy.language == "fr"
    assert result.policy.thresholds == {"*": 0.5, **result.thresholds}
    with pytest.raises(ValueError, match="one target"):
        calibrate(*arguments)
    with pytest.raises(ValueError, match="flags nothing"):
        calibrate(*arguments, target_miss_rate=0.1, base_policy={"enabled": False})
    assert len(seen) == 1  # bad arguments cost no work


def test_a_calibrated_checkpoint_starts_under_its_calibrated_policy(
    nano_model, nano_processor, riskcards, monkeypatch
):
    monkeypatch.setattr("safevlm_hf.calibration.calibrate.collect_verdict_logits", lambda *arguments: draw(1200, 0))
    refuse = {"actions": {"*": {"high": "refuse"}}}
    nano_model.generation_config.safety_policy = {"risk_threshold": 0.7, "remembered_turns": 3}
    arguments = (nano_model, nano_processor, riskcards)
    result = calibrate(*arguments, target_miss_rate=0.1, base_policy=refuse, progress=False)
    own, named = result.policy.to_dict(), json.loads(json.dumps(result.policy.to_dict()))
    with pytest.raises(ValueError, match="thresholds.*temperatures.*remembered_turns"):
        enforced_policy(own, refuse, CONFIG)
    assert enforced_policy(own, named, CONFIG) == result.policy and result.policy.refuses(CONFIG)


def test_intervals_of_rates():
    assert share_of_counts("rate", 5, 100).value == 0.05
    assert share_of_counts("rate", 5, 100).interval == pytest.approx((0.0215, 0.1118), abs=1e-4)
    assert share_of_counts("rate", 0, 50).interval == pytest.approx((0, 0.0713), abs=1e-4)
    assert share_of_counts("rate", 0, 0).value is None and share_of_counts("rate", 0, 0).interval is None


# --------------------------------------------------------------------------------------------------
# Report
# --------------------------------------------------------------------------------------------------


def test_curves():
    scores, is_positive = np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, False])
    curve = roc(scores, is_positive, threshold=0.8)
    assert (curve.x.tolist(), curve.y.tolist(), curve.area) == ([0, 0, 0.5, 1], [0, 0.5, 1, 1], 0.875)
    assert curve.chosen == (0.5, 1) and roc(scores, is_positive, 0.95).chosen == (0, 0)
    curve = precision_over_recall(scores, is_positive, threshold=0.5)
    assert curve.x.tolist() == [0, 0.5, 1, 1] and curve.y == pytest.approx([1, 1, 2 / 3, 0.5])
    assert curve.area == pytest.approx(0.5 + 0.5 * 2 / 3) and curve.chosen == pytest.approx((1, 2 / 3))
    assert precision_over_recall(scores, is_positive, 0.95).chosen is roc(scores, is_positive).chosen is None
    assert precision_over_recall(scores, ~is_positive).y[0] == 0  # not the 1 that scikit-learn begins with
    assert roc(np.zeros(4), is_positive).area == 0.5


def test_report_shows_every_part(result, tmp_path):
    path = write_calibration_report(tmp_path / "made" / "calibration.html", result, {"command": "safevlm calibrate"})
    page = path.read_text()
    for heading in ("Figures", "Reliability of the level", "Reliability of the category", "Curves"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<svg") == 7 and page.count('class="chosen"') == 1
    for figures in (result.before, result.after):
        assert f"ECE {figures.level_error:.4f}" in page and f"ECE {figures.category_error:.4f}" in page
    assert f"({result.reached.count} of {result.reached.total};" in page and "within sampling error" in page
    for name, threshold in result.thresholds.items():
        assert f'<th scope="row">{name}</th><td data-head="threshold">{threshold:.3g}</td>' in page
    assert len(re.findall(r'<th scope="row">0\.\d+</th>', page)) == 15
    assert "safevlm calibrate" in page and f"{len(result.choose)} to choose" in page


def test_every_calibration_error_has_its_interval(result):
    page = render_calibration_report(result)
    lead, figures = page.split("<dl")[0], page.split("<h2>Figures</h2>")[1].split("<h2>")[0]
    for part in (lead, figures):
        assert len(re.findall(r"0\.\d{4}(?:</?\w[^>]*>| )*\(0\.\d\d to 0\.\d\d\)", part)) == 4
    assert "bootstrap" in figures


def test_what_was_reached_and_every_area_has_its_interval(result):
    page = render_calibration_report(result)
    low, high = result.reached.interval
    assert f"{100 * result.reached.value:.1f}%</b> ({100 * low:.1f}% to {100 * high:.1f}%)" in page.split("<dl")[0]
    areas = page.split('aria-label="Areas under the curves"')[2].split("</table>")[0]
    assert len(re.findall(r"0\.\d{4} <span class=\"note\">\(0\.\d{4} to [01]\.\d{4}\)", areas)) == 2 * 6


def test_drawn_cards_are_said_to_be_drawn(result):
    drawn, own = (render_calibration_report(result, {"data": data}) for data in ("RiskCards, test split", "own.jsonl"))
    assert "drawn cards" in drawn and "drawn cards" not in own


def test_the_report_is_readable_on_every_screen(result, tmp_path):
    path = write_calibration_report(tmp_path / "calibration.html", result)
    with open_page() as page:
        page.set_viewport_size({"width": 1300, "height": 900})
        page.goto(path.as_uri())
        check_readable(page)
        widths = page.evaluate("[...document.querySelectorAll('svg')].map(one => one.getBoundingClientRect().width)")
        assert len(widths) == 7 and min(widths) > 430  # as wide as they were drawn
        page.set_viewport_size({"width": 390, "height": 900})
        assert page.evaluate(SCROLLED_TABLES) == []


def test_report_escapes_data_and_loads_nothing():
    config = SafetyConfig(categories=[HOSTILE, "a $ b", "_c", "safe"])
    labelled = draw(600, 0)
    category = torch.where(labelled.category == SAFE_CATEGORY, 3, labelled.category % 3)
    labelled = LabelledLogits(
        labelled.level_logits, labelled.category_logits[:, [0, 1, 2, 6]], labelled.level, category, labelled.groups
    )
    result = calibrate_logits(labelled, config, target_miss_rate=0.2)
    page = render_calibration_report(result, {HOSTILE: HOSTILE}, title=HOSTILE)
    assert "<script" not in page and page.count("&lt;script&gt;") > 5
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{0,12})""", page)
    assert all(link.startswith("#") for link in links)
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_whatever_comes_from_data_stays_text():
    names, title, key, value = [*map(hostile, "abc"), "safe"], *map(hostile, ("title", "key", "value"))
    labelled = draw(600, 0)
    labelled = labelled.select((labelled.category != 1).nonzero()[:, 0])  # the second category has no samples
    category = torch.where(labelled.category == SAFE_CATEGORY, 3, labelled.category.clamp(max=2))
    labelled = replace(labelled, category=category, category_logits=labelled.category_logits[:, [0, 1, 2, 6]])
    result = calibrate_logits(labelled, SafetyConfig(categories=names), target_false_positive_rate=0.1)
    assert names[1] in result.undetermined
    said = check_page(render_calibration_report(result, {key: value}, title)).said
    assert [one for one in (*names[:3], title, key, value) if one not in said] == []
    assert f"{names[1]}: threshold not determined" in said


def test_report_where_the_check_lacks_a_category(result):
    clean = (result.check.level == 0).nonzero()[:, 0]
    check = result.check.select(clean)
    figures = evaluate_policy(result.policy, check, CONFIG)
    page = render_calibration_report(replace(result, check=check, before=figures, after=figures))
    assert "no samples" in page


def test_report_says_what_is_not_determined():
    labelled = separate(600, 0)
    labelled = labelled.select((labelled.category != CONFIG.categories.index("fairness")).nonzero()[:, 0])
    page = render_calibration_report(calibrate_logits(labelled, CONFIG, target_miss_rate=0.05))
    assert page.count("<li>") == len(RISKY) + 2 and "the middle of a gap" in page
    assert (
        '<th scope="row">fairness<small>not determined</small></th><td data-head="threshold">left alone</td>' in page
    )
