"""The records of a run: which of a user's own are trained on, and what is said of the others."""

import logging

import datasets
import pytest
from support.tiny_training import messages, plain_text, published, write

from safevlm_hf.data.records import load_image
from safevlm_hf.training.arguments import DataArguments
from safevlm_hf.training.data import load_data


def load(stage, config, train_file, **arguments):
    return load_data(stage, DataArguments(train_file=str(train_file), **arguments), config.safety_config, seed=0)[0]


def test_stage1_leaves_plain_text_out(tiny_config, tmp_path, caplog):
    data = write(tmp_path / "own.jsonl", published(), plain_text(), plain_text())
    with caplog.at_level(logging.WARNING):
        assert len(load(1, tiny_config, data)) == 1
    assert "Records without an image, which stage 1 leaves out: 2." in caplog.text
    assert len(load(2, tiny_config, data)) == 3
    with pytest.raises(ValueError, match="no record has one"):
        load(1, tiny_config, write(tmp_path / "text.jsonl", plain_text()))


def test_skipped_records_are_counted_and_named(tiny_config, tmp_path, caplog):
    data = write(tmp_path / "own.jsonl", published(), published(level=7), published(level=8), published(level=1))
    with caplog.at_level(logging.WARNING):
        assert len(load(2, tiny_config, data, skip_bad_records=True)) == 2
    assert "Skipped 2 of 4 records" in caplog.text
    assert f"{data}:2" in caplog.text and f"{data}:3" in caplog.text


def test_reading_draws_no_progress_bars_of_its_own(tiny_config, tmp_path, capfd):
    records = [published() for _ in range(3)] + [messages() for _ in range(9)]
    data = str(write(tmp_path / "own.jsonl", *records, plain_text()))
    data_args = DataArguments(train_file=data, validation_file=data, replay_file=data, max_eval_samples=4)
    train, held_out = load_data(1, data_args, tiny_config.safety_config, seed=0)
    assert len(train["length"]) == 24 and len(held_out["length"]) == 4 and "Flattening" not in capfd.readouterr().err


def test_validation_pictures_that_are_trained_on_are_a_warning(tiny_config, tmp_path, caplog):
    data = str(write(tmp_path / "own.jsonl", published()))
    data_args = DataArguments(train_file=data, validation_file=data)
    load_data(2, data_args, tiny_config.safety_config, seed=0)
    assert "1 of 1 validation records show a picture that is trained on" in caplog.text


def test_no_clean_record_is_left_out_unasked(tiny_config, tmp_path, caplog):
    data = write(tmp_path / "own.jsonl", published(), *[messages() for _ in range(11)])
    few = write(tmp_path / "few.jsonl", published(), messages())
    with caplog.at_level(logging.WARNING):
        for stage in (1, 2):
            assert (len(load(stage, tiny_config, data)), len(load(stage, tiny_config, few))) == (12, 2)
    assert "eft out" not in caplog.text


def test_the_share_of_clean_records(tiny_config, tmp_path, caplog):
    data = write(tmp_path / "own.jsonl", *[published() for _ in range(11)], *[messages() for _ in range(11)])
    with caplog.at_level(logging.WARNING):
        paper = load(1, tiny_config, data, clean_share=3 / 14)
    assert sorted(paper["safety_level"]) == [0] * 3 + [3] * 11  # 3,000 clean beside 11,000 risky
    said = "Left out 8 of 11 clean records to keep their share at 0.214 (without `--clean_share` all are kept)."
    assert said in caplog.text
    assert load(1, tiny_config, data, clean_share=3 / 14)["source"] == paper["source"]
    for share, clean in ((0.0, 0), (0.01, 1), (0.5, 11), (0.9, 11), (1.0, 11)):
        assert load(2, tiny_config, data, clean_share=share)["safety_level"].count(0) == clean
    all_clean = write(tmp_path / "clean.jsonl", messages(), messages())
    assert len(load(1, tiny_config, all_clean, clean_share=3 / 14)) == 2
    with pytest.raises(ValueError, match=r"`clean_share` must be in \[0, 1\], got 1.5"):
        load(1, tiny_config, data, clean_share=1.5)


def test_data_sets_with_splits(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder, image = tmp_path / "set", str(tmp_path / "set" / "a.png")
    folder.mkdir()
    for split, number in (("train", 3), ("validation", 2), ("test", 1)):
        write(folder / f"{split}.jsonl", *[published(image=image) for _ in range(number)])
    options = {"validation_file": str(folder), "replay_file": f"{folder}:test", "replay_share": 0.25}
    data_args = DataArguments(train_file=str(folder), **options)
    train, held_out = load_data(2, data_args, tiny_config.safety_config, seed=0)
    assert (len(train), len(held_out)) == (4, 2) and train["images"] == [[image]] * 4


def test_drawn_records_of_several_shapes(tiny_config, tmp_path):
    drawn = {"num_riskcards": 12, "max_eval_samples": 4, "riskcards_dir": str(tmp_path), "varied_shapes": True}
    for records in load_data(1, DataArguments(**drawn), tiny_config.safety_config, seed=0):
        sizes = {load_image(image).size for images in records["images"] for image in images}
        assert len(sizes) > 2 and any(width != height for width, height in sizes)
