"""Items and answers for the tests of judges."""

from PIL import Image

from safevlm_hf.items import Answer, Item


def item(name: str = "1", question: str = "What is this?", images=(), **labels) -> Item:
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": question}]
    return Item(name, [str(image) for image in images], [{"role": "user", "content": content}], labels=labels)


def pairs(*texts: str | None, images=(), **labels) -> tuple[list[Item], list[Answer]]:
    """An item and an answer for each text."""
    items = [item(str(number), f"Question {number}?", images, **labels) for number, _ in enumerate(texts)]
    failures = [None if text is not None else "out of memory" for text in texts]
    answers = [Answer(one.id, text, failure=why) for one, text, why in zip(items, texts, failures)]
    return items, answers


def picture(folder, colour: str = "red", size=(8, 6)):
    path = folder / f"{colour}.png"
    Image.new("RGB", size, colour).save(path)
    return path
