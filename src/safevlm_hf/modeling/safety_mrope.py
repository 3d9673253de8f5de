"""Backbones with M-RoPE: images of any resolution, whose patches have positions of three dimensions."""

import torch
from transformers.utils.generic import can_return_tuple

from .safety_blocks import check_runs
from .safety_inputs import SafetyInputs
from .safety_outputs import SafetyImageOutput
from .safety_tiles import parts_of_large_maps


class MRopeMixin:
    """
    A base model that takes `pixel_values` of shape (patches of all images, values) with `image_grid_thw` (images, 3),
    in front of [`SafeModelMixin`] and the backbone's base model.

    The extra positions of a block are the backbone's image ids, so `mm_token_type_ids` call them image, too. The
    backbone would then look for patches there. Here they become text, whoever asks for the positions.
    """

    pixel_values_ndim = 2
    places_images_by_prompt = True

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.LongTensor | None = None,
        safety_inputs: SafetyInputs | None = None,
        **kwargs,
    ) -> tuple | SafetyImageOutput:
        r"""
        Encode images, give each its verdict, and build its block. The safety projector reads h_i, and its parts where
        an image has more positions than the projector's grid.

        Args:
            pixel_values: (patches of all images, values).
            image_grid_thw: (images, 3), patches in time, height and width.
        """
        self.check_images(pixel_values)
        self.check_given("image_grid_thw", image_grid_thw)
        outputs = super().get_image_features(pixel_values, image_grid_thw=image_grid_thw, return_dict=True, **kwargs)
        maps = [
            features.unflatten(0, (rows, columns))
            for features, (rows, columns) in zip(outputs.pooler_output, self._grids(image_grid_thw))
        ]
        pixels = self.split_pixels(pixel_values, image_grid_thw)
        parts = parts_of_large_maps(maps, self.config.safety_grid_size)
        return self.judge_images(outputs, maps, pixels, safety_inputs, parts)

    def split_pixels(self, pixel_values: torch.Tensor, image_grid_thw: torch.LongTensor) -> list[torch.Tensor]:
        return list(pixel_values.split(image_grid_thw.prod(dim=-1).tolist()))

    def _grids(self, image_grid_thw: torch.LongTensor) -> list[tuple[int, int]]:
        """Return rows and columns of each image's features."""
        side = self.config.vision_config.spatial_merge_size
        return [(time * height // side, width // side) for time, height, width in image_grid_thw.tolist()]

    def check_arguments(self, arguments: dict):
        super().check_arguments(arguments)
        if arguments.get("position_ids") is not None:  # they are made from what is checked here
            return
        for name in ("image_grid_thw", "mm_token_type_ids", "input_ids"):
            self.check_given(name, arguments.get(name))

    def get_rope_index(self, input_ids, mm_token_type_ids=None, image_grid_thw=None, **kwargs):
        """Find positions as the backbone does; `mm_token_type_ids` (batch, length) are 1 on whole blocks."""
        if image_grid_thw is not None:
            mm_token_type_ids = self._with_text_in_blocks(mm_token_type_ids, image_grid_thw)
        return super().get_rope_index(
            input_ids=input_ids, mm_token_type_ids=mm_token_type_ids, image_grid_thw=image_grid_thw, **kwargs
        )

    def _with_text_in_blocks(self, mm_token_type_ids: torch.Tensor, image_grid_thw: torch.LongTensor) -> torch.Tensor:
        safety, types_in_blocks = self.config.safety_config, []
        for rows, columns in self._grids(image_grid_thw):
            types_in_blocks += (
                [0] * safety.num_safety_tokens + [1] * (rows * columns) + [0] * safety.num_condition_tokens
            )
        is_image = mm_token_type_ids == 1
        if int(is_image.sum()) != len(types_in_blocks):
            raise ValueError(
                f"`mm_token_type_ids` mark {int(is_image.sum())} positions of images, and the blocks of these images "
                f"have {len(types_in_blocks)}: prepare the inputs with {self.config.class_prefix}Processor."
            )
        extra = safety.num_safety_tokens + safety.num_condition_tokens
        # Positions are found in front of the images' encoding, which looks at the token ids.
        check_runs(self, is_image, [extra + rows * columns for rows, columns in self._grids(image_grid_thw)])
        types = mm_token_type_ids.clone()
        types[is_image] = torch.tensor(types_in_blocks, dtype=types.dtype, device=types.device)
        return types

    @property
    def cache_state(self) -> torch.Tensor | None:
        """Offset of each row's positions, which belongs to the cache of the last call and lies on the model."""
        return self.rope_deltas

    @cache_state.setter
    def cache_state(self, state: torch.Tensor | None):
        self.rope_deltas = state
