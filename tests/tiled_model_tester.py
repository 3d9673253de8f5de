"""What families that cut pictures into tiles show in addition: small print in a tile is judged."""

import torch
from safety_model_tester import picture


class TiledModelTester:
    """In front of `SafetyModelTester`."""

    def test_every_tile_is_judged(self, model, processor):
        inputs = self.prepare(processor, [[self.says([picture((64, 64), 1)], "Read it.")]])
        before = model.assess(**inputs).safety_level_logits
        num_tiles = inputs["pixel_values"].shape[1]
        assert num_tiles == 5
        for place in range(num_tiles):
            changed = inputs["pixel_values"].clone()
            changed[:, place, :, :4, :4] = 2.5
            after = model.assess(**{**inputs, "pixel_values": changed}).safety_level_logits
            assert (after - before).abs().max() > 1e-5

    def test_tiles_contribute(self, model, processor):
        found = model.explain(**self.prepare(processor, self.conversations()))
        assert (found.tile_contributions[0] != 0).any()

    def test_a_picture_is_judged_as_without_others_beside_it(self, model, processor):
        """Others have more tiles, so that its features are padded."""
        chats = self.conversations()[:2]
        together = model.assess(**self.prepare(processor, chats)).safety_level_logits
        alone = torch.cat([model.assess(**self.prepare(processor, [chat])).safety_level_logits for chat in chats])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
