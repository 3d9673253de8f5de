"""Pictures that are judged in parts, too: the tiles of backbones that cut them, the first or the last of which shows
the whole picture, and parts of maps that are larger than the projector's grid."""

import math
from itertools import product

import torch
from transformers.utils.generic import can_return_tuple

from .configuration_safety import GRID_SIZE
from .safety_blocks import Layout, grids_of
from .safety_inputs import SafetyInputs
from .safety_outputs import SafetyImageOutput


AROUND, WHOLE = "<fake_token_around_image>", "<global-img>"  # structure tokens: around each tile, and of the last one


def cut_map(features: torch.Tensor, side: int) -> list[torch.Tensor]:
    """Cut a map (rows, columns, width) into parts of `side` rows and columns at most."""
    rows, columns = features.shape[:2]
    strips = features.tensor_split(math.ceil(rows / side))
    return [part for strip in strips for part in strip.tensor_split(math.ceil(columns / side), dim=1)]


def parts_of_large_maps(maps: list[torch.Tensor], side: int) -> list[list[torch.Tensor]]:
    """Cut each map that is larger than the projector's grid: the whole one is an average there, which small print does
    not survive."""
    return [cut_map(one, side) if max(one.shape[:2]) > side else [] for one in maps]


class FirstTileMixin:
    """
    A base model that takes `pixel_values` of shape (images, tiles, channels, height, width) and puts the features of
    the whole picture first, in front of [`SafeModelMixin`] and the backbone's base model.
    """

    pixel_values_ndim = 5

    def judge_first_tiles(
        self, outputs, pixel_values: torch.Tensor, safety_inputs: SafetyInputs | None
    ) -> SafetyImageOutput:
        """Give verdicts by the whole picture and by its tiles, where small print can be read (h_i)."""
        side = self.config.vision_config.image_size // self.config.vision_config.patch_size
        maps = [features[: side * side].unflatten(0, (side, side)) for features in outputs.pooler_output]
        tiles = [self._cut_tiles(features[side * side :], side) for features in outputs.pooler_output]
        return self.judge_images(outputs, maps, list(pixel_values), safety_inputs, tiles)

    def _cut_tiles(self, features: torch.Tensor, side: int) -> list[torch.Tensor]:
        """Return maps (rows, columns, width), each of `side` rows and columns at most, of the tiles: the backbone has
        joined them to one map, has cut off what was padding, and has put a newline behind each row."""
        is_newline = (features == self.image_newline.to(features)).all(dim=-1)
        columns = int(is_newline.long().argmax()) if len(features) else 0
        if not columns:  # nothing but the newline: the picture was not cut
            return []
        return cut_map(features.unflatten(0, (-1, columns + 1))[:, :-1], side)

    def split_pixels(self, pixel_values: torch.Tensor, **image_inputs) -> list[torch.Tensor]:
        # In a batch a picture gets tiles of zeros up to the number of the others': they are none of its own.
        return [tiles[(tiles != 0).flatten(1).any(dim=1)] for tiles in pixel_values]


class LastTileConfigMixin:
    """A configuration of tiles that all have one grid of positions, in front of [`SafeConfigMixin`]."""

    @property
    def tile_side(self) -> int:
        """Rows, and columns, of a tile's positions."""
        return self.vision_config.image_size // self.vision_config.patch_size // self.scale_factor

    @property
    def safety_grid_size(self) -> int:
        """Side of the square of safety features (h_s) of a tile: to enlarge a tile's own grid would only repeat it."""
        return self.safety_config.projector_grid_size or min(self.tile_side, GRID_SIZE)


class LastTileMixin:
    """
    A base model whose last tile of an image shows the whole picture, in front of [`SafeModelMixin`] and the backbone's
    base model.

    The backbone does not tell an image of three tiles from three images, so the processor says how many each has.
    """

    pools_tensor = True
    has_structure_tokens = True

    def judge_last_tiles(
        self, outputs, features: torch.Tensor, pixels: list[torch.Tensor], safety_inputs: SafetyInputs | None
    ) -> SafetyImageOutput:
        """Give verdicts by the whole picture and by its tiles, where small print can be read (h_i): `features` (tiles
        of all images, positions, width), and the tiles of each image as `split_tiles` gives them."""
        tiles = features.split([len(image_tiles) for image_tiles in pixels])
        outputs.pooler_output = [image_tiles.flatten(0, 1) for image_tiles in tiles]
        side = self.config.tile_side
        maps = [image_tiles.unflatten(1, (side, side)) for image_tiles in tiles]
        whole, others = [image_maps[-1] for image_maps in maps], [list(image_maps[:-1]) for image_maps in maps]
        return self.judge_images(outputs, whole, pixels, safety_inputs, others)

    def split_tiles(self, tiles: torch.Tensor, safety_num_tiles: torch.LongTensor | None) -> list[torch.Tensor]:
        """Split the tiles of all images (tiles, ...) into those of each, of which there are as many as the processor
        said."""
        if safety_num_tiles is None or int(safety_num_tiles.sum()) != len(tiles):
            given = "none" if safety_num_tiles is None else safety_num_tiles.tolist()
            raise ValueError(
                f"`safety_num_tiles` must say how many of the {len(tiles)} tiles each image has, got {given}: prepare "
                f"the inputs with {self.config.class_prefix}Processor."
            )
        return list(tiles.split(safety_num_tiles.tolist()))


class PaddedTilesMixin(LastTileMixin):
    """A [`LastTileMixin`] that takes `pixel_values` of shape (samples, tiles, channels, height, width), with empty
    tiles where a sample has fewer."""

    pixel_values_ndim = 5

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor | None = None,
        safety_num_tiles: torch.LongTensor | None = None,
        safety_inputs: SafetyInputs | None = None,
        **kwargs,
    ) -> tuple | SafetyImageOutput:
        r"""
        Encode images, give each its verdict, and build its block. The safety projector reads the whole picture and its
        tiles, where small print can be read (h_i).

        Args:
            pixel_values: (samples, tiles, channels, height, width).
            pixel_attention_mask: (samples, tiles, height, width).
            safety_num_tiles: (images,), tiles of each image.
        """
        self.check_images(pixel_values)
        pixels = self.split_pixels(pixel_values, safety_num_tiles=safety_num_tiles)
        outputs = super().get_image_features(
            pixel_values, pixel_attention_mask=pixel_attention_mask, return_dict=True, **kwargs
        )
        # There is one entry per sample, or per tile before transformers 5.20.
        features = torch.cat([found.flatten(0, -2) for found in outputs.pooler_output])
        return self.judge_last_tiles(outputs, features.unflatten(0, (-1, self.image_seq_len)), pixels, safety_inputs)

    def split_pixels(
        self, pixel_values: torch.Tensor, safety_num_tiles: torch.LongTensor | None = None, **image_inputs
    ) -> list[torch.Tensor]:
        tiles = pixel_values.flatten(0, 1)
        # The backbone takes tiles of zeros for padding.
        return self.split_tiles(tiles[(tiles != 0).flatten(1).any(dim=1)], safety_num_tiles)

    def block_layouts(self, num_features: int) -> list[Layout]:
        """Return the ways in which the processor may write a picture of so many positions."""
        length, num_tiles = self.image_seq_len, num_features // self.image_seq_len - 1
        if not num_tiles:
            return [Layout([0, length, 0], [(AROUND, WHOLE), (AROUND,)])]
        runs = [0, *[length] * (num_tiles + 1), 0]
        end = [("\n", "\n", AROUND, WHOLE), (AROUND,)]
        layouts = []
        for rows, columns in grids_of(num_tiles):
            # Each tile's place stands in front of it, and a line break where a row of tiles ends.
            between: list[tuple[str, ...]] = [
                (*(("\n",) if row and not column else ()), AROUND, f"<row_{row + 1}_col_{column + 1}>")
                for row, column in product(range(rows), range(columns))
            ]
            layouts.append(Layout(runs, [*between, *end]))
        return layouts

    def inputs_merger(self, input_ids, inputs_embeds: torch.Tensor, image_hidden_states: torch.Tensor):
        # Before transformers 5.20 it wants whole tiles in a row, and a block has further positions.
        if input_ids is None:
            image_token = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(image_token)).all(dim=-1)
        else:
            mask = input_ids == self.config.image_token_id
        return inputs_embeds.masked_scatter(mask[..., None], image_hidden_states.to(inputs_embeds.dtype))


class TiledProcessorMixin:
    """Add `safety_num_tiles` for [`LastTileMixin`], in front of the backbone's processor."""

    def _process_images(self, images, **kwargs):
        processed, replacements = super()._process_images(images, **kwargs)
        processed["safety_num_tiles"] = self.count_tiles(processed)
        return processed, replacements

    def count_tiles(self, processed: dict) -> list[int]:
        """Count the tiles of each image, the whole picture among them, from what the image processor has said."""
        samples = zip(processed["rows"], processed["cols"])
        grids = [grid for rows, columns in samples for grid in zip(rows, columns)]
        return [int(rows) * int(columns) + 1 for rows, columns in grids]

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "safety_num_tiles"]
