"""Records: two forms read as one, and every bad record named with file, line and reason before training starts."""

import json
import pickle

import pytest
from PIL import Image

from safevlm_hf.data.records import RecordError, load_image, load_records
from safevlm_hf.data.riskcards import write_riskcards


CATEGORIES = ("politics", "illegal risk", "insults and bullying", "fairness", "privacy", "misleading", "safe")
LEVELS = ("safe", "low", "medium", "high")


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "a.png")
    Image.new("RGB", (10, 20), "blue").save(tmp_path / "b.png")
    (tmp_path / "text.png").write_text("no image")
    return tmp_path


def published(**changes):
    record = {
        "image": "a.png",
        "safe_type": 4,
        "safe_level": 3,
        "conversations": [
            {"from": "USER", "value": "<image>\nWhat is this?"},
            {"from": "ASSISTANT", "value": "I can't say."},
        ],
    } | changes
    return {key: value for key, value in record.items() if value is not ...}


def chat(user="What is this?", answer="I can't say.", num_images=1, **changes):
    content = [{"type": "image"}] * num_images + [{"type": "text", "text": user}]
    record = {
        "images": ["a.png"] * num_images,
        "safety_category": "privacy",
        "safety_level": "high",
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
    } | changes
    return {key: value for key, value in record.items() if value is not ...}


def turns(*values):
    return [{"from": role, "value": value} for role, value in values]


def write(folder, *records):
    path = folder / "data.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in records))
    return path


def load(path, **arguments):
    return load_records(path, CATEGORIES, LEVELS, **arguments)


def test_both_forms_read_as_the_same_record(folder):
    records = load(write(folder, published(), chat(), chat(safety_category=4, safety_level=3)))
    first, *others = [{key: value for key, value in record.items() if key != "source"} for record in records]
    assert first == {
        "messages": [
            {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is this?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "I can't say."}]},
        ],
        "images": [str(folder / "a.png")],
        "safety_category": 4,
        "safety_level": 3,
        "image_categories": [4],
        "image_levels": [3],
        "extra": "{}",
    }
    assert others == [first, first]
    assert records["source"] == [f"{folder / 'data.jsonl'}:{line}" for line in (1, 2, 3)]


def test_unknown_fields_are_kept_in_extra_and_the_schema_is_uniform(folder):
    records = load(write(folder, published(region=[1, 2, 3, 4]), "", published(note="x"), published()))
    assert [json.loads(extra) for extra in records["extra"]] == [{"region": [1, 2, 3, 4]}, {"note": "x"}, {}]
    assert [source.rsplit(":", 1)[1] for source in records["source"]] == ["1", "3", "4"]


def test_text_records_have_no_verdict(folder):
    text = turns(("USER", "Hello."), ("ASSISTANT", "Hello."))
    records = load(write(folder, {"conversations": text}, chat(num_images=0, images=..., safety_category=...)))
    assert records["images"] == [[], []]
    assert records["safety_category"] == records["safety_level"] == [-100, -100]
    assert records["image_categories"] == records["image_levels"] == [[], []]


def test_labels_per_image_in_both_forms(folder):
    """One label counts for every image; of a list, the image with the highest level gives the record's."""
    two = turns(("USER", "<image><image>\nWhat?"), ("ASSISTANT", "No."))
    records = load(
        write(
            folder,
            published(image=["a.png", "b.png"], safe_type=[6, 1], safe_level=[0, 2], conversations=two),
            chat(num_images=2, safety_category=["privacy", "safe"], safety_level=["high", "safe"]),
            chat(num_images=3, safety_category=[0, 4, 5], safety_level=[1, 3, 3]),
            chat(num_images=2),
        )
    )
    assert records["image_categories"] == [[6, 1], [4, 6], [0, 4, 5], [4, 4]]
    assert records["image_levels"] == [[0, 2], [3, 0], [1, 3, 3], [3, 3]]
    assert list(zip(records["safety_category"], records["safety_level"])) == [(1, 2), (4, 3), (4, 3), (4, 3)]


def test_system_message_many_turns_and_other_role_names(folder):
    conversation = turns(("human", "<image>\nOne?"), ("gpt", "1"), ("human", "Two?"), ("gpt", "2"))
    system = chat()["messages"]
    records = load(
        write(
            folder,
            published(conversations=conversation),
            chat(messages=[{"role": "system", "content": "Be short."}, *system]),
        )
    )
    roles = [[message["role"] for message in messages] for messages in records["messages"]]
    assert roles == [["user", "assistant"] * 2, ["system", "user", "assistant"]]


def test_typed_mark_in_a_message_is_text(folder):
    [record] = load(write(folder, chat(user="What does <image> mean?")))
    assert [part["type"] for part in record["messages"][0]["content"]] == ["image", "text"]
    assert record["messages"][0]["content"][1]["text"] == "What does <image> mean?"


def test_image_root(folder, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("elsewhere"), published())
    assert load(path, image_root=folder)["images"] == [[str(folder / "a.png")]]
    with pytest.raises(RecordError, match="image not found"):
        load(path)


BAD = {
    "broken JSON": '{"image": ',
    "broken JSON: Exceeds the limit": '{"safe_type": ' + 5000 * "9" + "}",
    "broken JSON: .*surrogate": chat(user="half \ud800"),
    "a line must be a JSON object, got list": [],
    "needs either 'conversations' .* or 'messages'": published(conversations=...),
    "missing 'safe_type'": published(safe_type=...),
    "missing 'safe_level'": published(safe_level=...),
    "missing 'safety_category'": chat(safety_category=...),
    "missing 'safety_level'": chat(safety_level=...),
    "safe_type is 7, expected 0 to 6": published(safe_type=7),
    "safe_type is -1, expected": published(safe_type=-1),
    "safety_category is 'crime', expected .*'politics'": chat(safety_category="crime"),
    "safe_level is 4, expected 0 to 3": published(safe_level=4),
    "safe_level is True, expected": published(safe_level=True),
    "safe_level is 1.5, expected": published(safe_level=1.5),
    "safety_level is 'huge', expected": chat(safety_level="huge"),
    "contradiction: safe_type is 'safe', but safe_level is 'high'": published(safe_type=6),
    "contradiction: safety_category is 'privacy', but safety_level is 'safe'": chat(safety_level=0),
    "safety_level has 1 labels for 2 image": chat(num_images=2, safety_level=["high"]),
    "safety_category has 2 labels for 1 image": chat(safety_category=["privacy", "safe"]),
    "safety_level has 1 labels for 0 image": chat(num_images=0, images=..., safety_level=["high"]),
    "safe_level is None, expected 0 to 3": published(safe_level=[None]),
    "contradiction: safety_category is 'safe', but safety_level is 'high'": chat(
        num_images=2, safety_category=["privacy", "safe"], safety_level=["high", "high"]
    ),
    "image not found: .*none.png": published(image="none.png"),
    "'image' is a web address, 'https://a.org/b.jpg': download": published(image="https://a.org/b.jpg"),
    "'images' is a web address, 'HTTP://a.org/b.jpg'": chat(images=["HTTP://a.org/b.jpg"]),
    "'image' is a web address, 'a.png<split>http": published(image="a.png<split>http://a.org/b.jpg"),
    "unreadable image: .*text.png": published(image="text.png"),
    "image not found: .*gone.png": published(image="a.png<split>gone.png"),
    "'image' must be a path": published(image=3),
    "2 <image> in 'conversations', but 1 image": published(
        conversations=turns(("USER", "<image><image>\nWhat?"), ("ASSISTANT", "No."))
    ),
    "0 <image> in 'conversations', but 1 image": published(
        conversations=turns(("USER", "What?"), ("ASSISTANT", "No."))
    ),
    "1 <image> in 'conversations', but 0 image": published(image=...),
    '1 {"type": "image"} in \'messages\', but 2 image': chat(images=["a.png", "b.png"]),
    "no assistant turn": published(conversations=turns(("USER", "<image>\nWhat?"))),
    "no assistant turn in 'messages'": chat(messages=[]),
    "the first turn in 'conversations' is not the user's": published(
        conversations=turns(("ASSISTANT", "No."), ("USER", "<image>\nWhat?"))
    ),
    "<image> in an assistant turn": published(
        conversations=turns(("USER", "<image>\nWhat?"), ("ASSISTANT", "<image>"))
    ),
    "an image in an assistant turn": chat(answer=[{"type": "image"}]),
    "an empty assistant turn": chat(answer=" "),
    "unknown role 'tool'": published(conversations=turns(("tool", "<image>\nWhat?"), ("ASSISTANT", "No."))),
    "has no 'value'": published(conversations=[{"from": "USER"}]),
    "'conversations' must be a list": published(conversations="What?"),
    "unknown content part": chat(answer=[{"type": "video"}]),
    "content must be text or a list": chat(answer=3),
    "a system turn in 'messages' that is not the first": chat(
        messages=[*chat()["messages"], {"role": "system", "content": "Be short."}]
    ),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_record_is_named_with_file_line_and_reason(folder, reason):
    path = write(folder, published(), BAD[reason])
    with pytest.raises(RecordError, match=reason) as caught:
        load(path)
    [problem] = caught.value.problems
    assert problem.startswith(f"{path}:2: ")


def test_bytes_that_are_no_text(folder):
    path = folder / "data.jsonl"
    path.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(RecordError, match="data.jsonl:1: broken JSON"):
        load(path)


def test_all_bad_records_are_listed_at_once(folder):
    path = write(folder, *BAD.values(), published())
    with pytest.raises(RecordError) as caught:
        load(path)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        f"{path}:{line}" for line in range(1, len(BAD) + 1)
    ]
    assert all(f"\n- {problem}\n" in str(caught.value) for problem in caught.value.problems[:10])
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.problems == caught.value.problems and str(copy) == str(caught.value)


def test_long_list_is_cut_in_the_message_alone(folder):
    with pytest.raises(RecordError, match=r"^63 bad records:(?s:.*)\n\.\.\. and 53 more\n") as caught:
        load(write(folder, *["{"] * 63))
    assert len(caught.value.problems) == 63 and len(str(caught.value).splitlines()) == 13
    assert "`safevlm data check " in str(caught.value).splitlines()[-1]


def test_skipping_counts_and_names_every_bad_record(folder, caplog):
    path = write(folder, published(), *["{"] * 60, published(safe_level=9), chat())
    with caplog.at_level("WARNING"):
        records = load(path, skip_bad_records=True)
    assert [source.rsplit(":", 1)[1] for source in records["source"]] == ["1", "63"]
    assert "Skipped 61 of 63 records" in caplog.text
    assert all(f"{path}:{line}: " in caplog.text for line in range(2, 63))


@pytest.mark.parametrize("lines", [(), ("{",)])
def test_no_record_left_is_an_error(folder, lines):
    with pytest.raises(RecordError):
        load(write(folder, *lines), skip_bad_records=True)


def test_split_joins_two_images_side_by_side(folder):
    [record] = load(write(folder, published(image="a.png<split>b.png")))
    assert record["images"] == [f"{folder / 'a.png'}<split>{folder / 'b.png'}"]
    image = load_image(record["images"][0])
    assert image.mode == "RGB" and image.size == (25, 10)  # the second is scaled to the first's height
    assert image.getpixel((2, 5)) == (255, 0, 0) and image.getpixel((23, 5)) == (0, 0, 255)


def test_image_is_turned_upright(folder):
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: the left side is the top
    image.save(folder / "turned.jpg", exif=exif, quality=100)
    upright = load_image(folder / "turned.jpg")
    assert upright.size == (10, 20)
    assert upright.getpixel((5, 2))[2] > 200 and upright.getpixel((5, 17))[0] > 200


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_image_is_rgb(folder, mode):
    Image.new("RGB", (4, 4)).convert(mode).save(folder / "mode.tiff")
    assert load_image(folder / "mode.tiff").mode == "RGB"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.raises(RecordError, match="20 x 10 pixels, more than 150"):
        load(write(folder, published()))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_cut_off_image_is_found(folder, suffix):
    Image.effect_noise((200, 200), 60).save(folder / f"whole.{suffix}")
    whole = (folder / f"whole.{suffix}").read_bytes()
    (folder / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match="unreadable image"):
        load(write(folder, published(image=f"cut.{suffix}")))


def test_riskcards_are_good_records(tmp_path):
    path = write_riskcards(tmp_path, "train", 30)
    records = load(path)
    assert len(records) == 30
    assert json.loads(records[0]["extra"]).keys() >= {"complying_answer", "pair_id", "region", "topic", "text_request"}
