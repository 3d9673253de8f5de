"""Items and a scripted model for the tests of baselines."""

from PIL import Image

from safevlm_hf.evaluation.pipeline import Candidate
from safevlm_hf.evaluation.protocol.system import System
from safevlm_hf.items import Answer, Item


def draw(folder, colour="red") -> str:
    path = folder / f"{colour}.png"
    Image.new("RGB", (60, 60), colour).save(path)
    return str(path)


def item(name="1", question="What is this?", images=(), before=()) -> Item:
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    return Item(name, list(images), [*before, {"role": "user", "content": content}])


class Scripted:
    """Answers by rules on the text of the last turn, and notes what it was asked."""

    def __init__(self, *rules, otherwise="A red card."):
        self.rules, self.otherwise, self.batches = rules, otherwise, []

    def __call__(self, items):
        assert items, "a model was asked nothing"
        assert len({bool(one.images) for one in items}) == 1, "stock models take no batch of both"
        self.batches.append(list(items))
        return [Answer(one.id, self._say(one.question)) for one in items]

    def _say(self, text):
        return next((said for part, said in self.rules if part in text), self.otherwise)

    @property
    def questions(self):
        return [one.question for batch in self.batches for one in batch]

    def candidate(self):
        return Candidate(System("stock", "stock", options={"dtype": "float32"}), self)
