"""What families show in addition that judge pictures in parts: each is judged, whatever the others show."""

import torch

from .safety_model_tester import picture


def windows_of_tiles(model, inputs):
    """Level logits of one picture of four tiles: of these together and of each, (1 + tiles, windows, levels)."""
    seen = []
    hook = model.model.safety_head.register_forward_hook(lambda *call: seen.append(call[-1]))
    model.assess(**inputs)
    hook.remove()
    ((levels, _, is_window),) = seen
    assert is_window.any()
    return levels[is_window].unflatten(0, (5, -1))


class TiledModelTester:
    """In front of `SafetyModelTester`, for families that cut pictures into tiles."""

    def test_every_tile_is_judged_and_none_changes_what_another_one_says(self, model, processor):
        inputs = self.prepare(processor, [[self.says([picture((64, 64), 1)], "Read it.")]])
        before, changed_tiles = windows_of_tiles(model, inputs), []
        shape = inputs["pixel_values"].shape
        for place in range(shape.numel() // shape[-3:].numel()):
            pixels = inputs["pixel_values"].flatten(0, -4).clone()
            pixels[place, :, :4, :4] = 2.5
            after = windows_of_tiles(model, {**inputs, "pixel_values": pixels.view(shape)})
            differs = (after - before).abs().amax(dim=(1, 2)) > 1e-5
            changed_tiles.append(differs.nonzero()[:, 0].tolist())
        # The whole picture stands beside each.
        assert sorted(changed_tiles) == [[0, 1], [0, 1, 2, 3, 4], [0, 2], [0, 3], [0, 4]]

    def test_the_strictest_tile_decides(self, model, processor):
        inputs = self.prepare(processor, [[self.says([picture((64, 64), 1)], "Read it.")]])
        risks = 1 - windows_of_tiles(model, inputs).softmax(dim=-1)[..., 0]
        risk = 1 - model.assess(**inputs).safety_level_logits.softmax(dim=-1)[0, 0]
        torch.testing.assert_close(risk, risks.max())

    def test_what_decided_contributes(self, model, processor):
        """One tile, or all of them together."""
        found = model.explain(**self.prepare(processor, self.conversations()))
        assert (found.tile_contributions[0] != 0).sum() in (1, 4)

    def test_a_picture_is_judged_as_without_others_beside_it(self, model, processor):
        """Others have more tiles, so that its features are padded."""
        chats = self.conversations()[:2]
        together = model.assess(**self.prepare(processor, chats)).safety_level_logits
        alone = torch.cat([model.assess(**self.prepare(processor, [chat])).safety_level_logits for chat in chats])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


class LargeMapTester:
    """In front of `SafetyModelTester`, for families whose pictures have as many positions as they are large. The
    projector's grid is 3 x 3, of 8 x 8 pixels each."""

    def test_a_large_picture_is_judged_in_parts(self, model, processor):
        for size, parts in (((24, 24), 0), ((48, 24), 2), ((64, 64), 9)):
            found = model.explain(**self.prepare(processor, [[self.says([picture(size, 1)], "Read it.")]]))
            assert found.tile_contributions.shape == (1, parts)
            assert int((found.tile_contributions != 0).sum()) in (min(parts, 1), parts)
