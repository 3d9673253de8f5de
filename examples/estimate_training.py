"""GPU memory, hours and disk of a training, before anything is downloaded: a formula, with its terms.

    python examples/estimate_training.py --backbone llava-1.5-7b --stage 1
    python examples/estimate_training.py --backbone qwen2.5-vl-7b --stage 2 --gpus 8 --gradient_checkpointing

Parameters are counted on the model that the stage would train, built without weights. Activations and operations are
estimated from its sizes (tests/test_estimate_training.py holds both against counts on a small model). Hours need an
assumption: which share of the GPU's peak the training reaches. 0.1 is what the paper's own times come to (about one
hour for stage 1 and eight for stage 2, on 8 A100).
"""

import argparse
from dataclasses import dataclass

import torch

from safevlm_hf.checkpoints.families import BY_MODEL_TYPE
from safevlm_hf.checkpoints.word_reader import new_reading
from safevlm_hf.training.arguments import LoraArguments
from safevlm_hf.training.stages import (
    SAFETY_PREFIX,
    count_parameters,
    language_prefix,
    prepare_stage1,
    prepare_stage2,
    unwrap,
)


GPUS = {"a100-80gb": (80, 312), "h100-80gb": (80, 989), "l40s-48gb": (48, 362)}
"""GB of memory and dense bfloat16 TFLOPS, by the vendor's data sheets."""
RECORDS = {1: 14_000, 2: 100_000}
CLIP_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
QWEN_TOWER = {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16, "out_hidden_size": 3584}
BACKBONES = {
    "llava-1.5-7b": {
        "model_type": "safe_llava",
        "text_config": {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32064,
        },
        "vision_config": {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **CLIP_LARGE},
        "patches": 577,
        "image_positions": 576,
    },
    "qwen2.5-vl-7b": {
        "model_type": "safe_qwen2_5_vl",
        "text_config": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "pad_token_id": 0,
        },
        "vision_config": QWEN_TOWER,
        "patches": 4 * 391,  # of 640 x 480 pixels, the size of most of COCO's: 23 x 17 positions of 28 x 28 pixels
        "image_positions": 391,
    },
}
SEEING = ("safety_projector", "safety_head.k_proj", "safety_head.v_proj")


@dataclass(frozen=True)
class Sizes:
    """What the formula needs to know of a model, counted on the model itself. Parameters, unless it says otherwise.

    Args:
        total, trained: of the model that the stage trains, adapters included.
        language: of the language model's linear layers, without adapters, embeddings and output layer.
        output: of the output layer.
        adapters: of LoRA.
        adapted_inputs: widths of the inputs of all layers that have an adapter, added up.
        adapter_ranks: ranks of all adapters, added up.
        tower, projector, safety: of those modules.
        seeing: of the safety modules, those that each position of a picture passes.
        layers, hidden, attended, inner, vocabulary: sizes of the language model; `attended` is heads x head size.
        tower_layers, tower_hidden: sizes of the tower.
        blocks, width: of the safety projector, RegNet blocks in both stages and channels.
        extra_positions: safety tokens and condition tokens of an image.
    """

    total: int
    trained: int
    language: int
    output: int
    adapters: int
    adapted_inputs: int
    adapter_ranks: int
    tower: int
    projector: int
    safety: int
    seeing: int
    layers: int
    hidden: int
    attended: int
    inner: int
    vocabulary: int
    tower_layers: int
    tower_hidden: int
    blocks: int
    width: int
    extra_positions: int


@dataclass(frozen=True)
class Load:
    """What a step has to do: pictures' patches, positions of a picture and tokens of text per record, records per
    step and GPU, and how it is done."""

    patches: int
    image_positions: int
    text_tokens: int
    batch: int = 2
    lm_loss_every: int = 1
    gradient_checkpointing: bool = False
    base_bytes: int = 4
    dropout: bool = True


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=BACKBONES, default="llava-1.5-7b")
    parser.add_argument("--stage", type=int, choices=(1, 2), default=1)
    parser.add_argument("--full", action="store_true", help="stage 2 without LoRA (`--use_lora false`)")
    parser.add_argument("--lora_r", type=int, default=LoraArguments.lora_r)
    parser.add_argument("--records", type=int, help="the paper's number if unset: 14,000 and 100,000")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--text_tokens", type=int, default=100, help="of question and answer, mean per record")
    parser.add_argument("--image_positions", type=int, help="of a picture in the language model, if others than usual")
    parser.add_argument("--batch", type=int, default=2, help="`per_device_train_batch_size`")
    parser.add_argument("--lm_loss_every", type=int, default=1, help="as in stage 1")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of frozen weights")
    parser.add_argument("--gpu", choices=GPUS, default="a100-80gb")
    parser.add_argument("--gpus", type=int, default=1, help="processes, each with the whole model (DDP)")
    parser.add_argument("--utilisation", type=float, default=0.1, help="assumed share of the GPU's peak")
    args = parser.parse_args(argv)
    if min(args.epochs, args.batch, args.gpus, args.text_tokens, args.lora_r, args.lm_loss_every) <= 0:
        parser.error("numbers must be over 0")
    if not 0 < args.utilisation <= 1:
        parser.error("--utilisation must be over 0 and at most 1")
    if args.stage == 1 and (args.full or args.dtype != "float32"):
        parser.error("stage 1 trains weights of the dtype that is loaded, which must be float32, and no adapters")
    if args.full and args.dtype != "float32":
        parser.error("full fine-tuning needs float32 weights: at the paper's learning rate others hardly move")
    return args


def build(backbone: str, stage: int, lora: LoraArguments) -> torch.nn.Module:
    """The model that a stage trains, with what it freezes and its adapters, without weights."""
    given = BACKBONES[backbone]
    family = BY_MODEL_TYPE[given["model_type"]]
    parts = {name: given[name] for name in ("text_config", "vision_config")}
    config = family.config(**parts, **new_reading({}), tie_word_embeddings=False)
    with torch.device("meta"):
        model = family.model(config)
        return prepare_stage1(model) if stage == 1 else prepare_stage2(model, lora)


def measure(model: torch.nn.Module) -> Sizes:
    """Count what the formula needs."""
    trained, total = count_parameters(model)
    safe = unwrap(model)
    config, text, safety = safe.config, safe.config.get_text_config(), safe.config.safety_config
    vision, prefix = config.vision_config, language_prefix(safe)
    linears = {name: module for name, module in safe.named_modules() if isinstance(module, torch.nn.Linear)}
    entries = [module for name, module in linears.items() if ".lora_A." in name]
    adapters = count(safe, ".lora_")
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Sizes(
        total=total,
        trained=trained,
        language=sum(one.weight.numel() for name, one in linears.items() if name.startswith(prefix)) - adapters,
        output=safe.get_output_embeddings().weight.numel(),
        adapters=adapters,
        adapted_inputs=sum(entry.in_features for entry in entries),
        adapter_ranks=sum(entry.out_features for entry in entries),
        tower=count_parameters(safe.model.get_encoder("image"))[1],
        projector=count(safe, "multi_modal_projector"),
        safety=count(safe, SAFETY_PREFIX),
        seeing=sum(count(safe, part) for part in SEEING),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        attended=text.num_attention_heads * head_size,
        inner=text.intermediate_size,
        vocabulary=text.vocab_size,
        tower_layers=getattr(vision, "num_hidden_layers", None) or vision.depth,
        tower_hidden=vision.hidden_size,
        blocks=2 * safety.projector_depth,
        width=config.safety_projector_hidden_size,
        extra_positions=safety.num_safety_tokens + safety.num_condition_tokens,
    )


def count(model: torch.nn.Module, part: str) -> int:
    """Parameters that have this in their names."""
    return sum(weight.numel() for name, weight in model.named_parameters() if part in name)


def positions(sizes: Sizes, load: Load) -> int:
    """Positions of a record in the language model."""
    return load.image_positions + sizes.extra_positions + load.text_tokens


def operations(sizes: Sizes, load: Load, stage: int) -> dict[str, float]:
    """Floating point operations per record, in the mean over the steps.

    A layer takes 2 per parameter and position forward, 2 for the gradient of its input, and 2 for that of its weights.
    Nothing flows back through tower and projector; the language model is passed backward in both stages, because s(2)
    and the conditions stand in its input.
    """
    length, share = positions(sizes, load), 1 / load.lm_loss_every
    scores = 4 * sizes.layers * sizes.attended * length**2
    forward = 2 * (sizes.language + sizes.output) * length + scores
    trained_language = sizes.trained - sizes.safety if sizes.adapters == 0 and stage == 2 else 0
    terms = {
        "tower, forward": 2 * sizes.tower * load.patches
        + 4 * sizes.tower_layers * sizes.tower_hidden * load.patches**2,
        "projector, forward": 2 * sizes.projector * load.image_positions,
        "safety modules": (6 if stage == 1 else 2) * sizes.seeing * load.image_positions,
        "language model, forward": forward * share,
        "language model, gradients of inputs": (2 * (sizes.language + sizes.output) * length + 2.5 * scores) * share,
        "language model, gradients of weights": 2 * trained_language * length * share,
        "adapters": 6 * sizes.adapters * length * share,
        "language model, forward once more": forward * share if load.gradient_checkpointing else 0,
    }
    return {name: float(value) for name, value in terms.items()}


def activation_bytes(sizes: Sizes, load: Load, stage: int) -> dict[str, float]:
    """Bytes that a step keeps for its backward pass, under bfloat16 autocast.

    Per position, a layer of the language model keeps the inputs of two norms in 4 bytes, queries, keys, values and
    attended values in 2, and three of its inner states in 2. A layer whose weights are trained keeps its input in 2,
    and one with an adapter beside it the mask of the dropout in 1, and two states of its rank. A frozen weight in
    float32 is cast for the product, and the cast is kept.
    """
    tokens = load.batch * positions(sizes, load)
    plain = 8 * sizes.hidden + 8 * sizes.attended + 6 * sizes.inner
    adapted = ((3 if load.dropout else 2) * sizes.adapted_inputs + 4 * sizes.adapter_ranks) / sizes.layers
    full = 2 * (5 * sizes.hidden + sizes.inner + sizes.attended) if stage == 2 and sizes.adapters == 0 else 0
    states = tokens * (plain + adapted + full) * sizes.layers
    casts = 2 * sizes.adapters + (2 * sizes.language if load.base_bytes == 4 else 0)
    if load.gradient_checkpointing:  # one layer at a time, and the inputs of all
        states = states / sizes.layers + 4 * tokens * sizes.hidden * sizes.layers
        casts = casts / sizes.layers
    projector = 24 * sizes.blocks * load.batch * load.image_positions * sizes.width + 2 * sizes.seeing
    return {
        "states of the language model": states,
        "bfloat16 casts of float32 weights": casts + (2 * sizes.output if load.base_bytes == 4 else 0),
        "logits and their gradient": 8 * tokens * sizes.vocabulary,
        "safety modules": projector if stage == 1 else 0,
    }


def memory(sizes: Sizes, load: Load, stage: int, gpus: int) -> dict[str, float]:
    """Bytes per GPU, with AdamW and every process holding the whole model."""
    return {
        "frozen weights": load.base_bytes * (sizes.total - sizes.trained),
        "trained weights, their gradients and AdamW's two states": 16 * sizes.trained,
        "gradients on their way to the other GPUs": 4 * sizes.trained if gpus > 1 else 0,
        **activation_bytes(sizes, load, stage),
    }


def disk(sizes: Sizes, load: Load) -> dict[str, float]:
    """Bytes of what is downloaded and written."""
    kept = sizes.adapters or sizes.total
    result = (sizes.total - sizes.adapters) * load.base_bytes
    return {
        "base checkpoint, in 2 bytes": 2 * (sizes.total - sizes.adapters - sizes.safety),
        "the result": result,
        "a checkpoint on the way, with AdamW's states": 8 * sizes.trained + (4 * kept if sizes.adapters else result),
    }


def show(title: str, terms: dict[str, float], unit: float, name: str, total: bool = True):
    print(f"\n{title}")
    for term, value in terms.items():
        if value:
            print(f"  {value / unit:10.2f} {name}  {term}")
    if total:
        print(f"  {sum(terms.values()) / unit:10.2f} {name}  in all")


def main():
    args = parse_args()
    given, (gpu_memory, tflops) = BACKBONES[args.backbone], GPUS[args.gpu]
    lora = LoraArguments(use_lora=not args.full, lora_r=args.lora_r)
    sizes = measure(build(args.backbone, args.stage, lora))
    image_positions = args.image_positions or given["image_positions"]
    load = Load(
        patches=round(given["patches"] * image_positions / given["image_positions"]),
        image_positions=image_positions,
        text_tokens=args.text_tokens,
        batch=args.batch,
        lm_loss_every=args.lm_loss_every,
        gradient_checkpointing=args.gradient_checkpointing,
        base_bytes=4 if args.dtype == "float32" else 2,
    )
    records = args.records or RECORDS[args.stage]
    print(f"{args.backbone}, stage {args.stage}: {sizes.trained / 1e6:.0f} M of {sizes.total / 1e6:.0f} M trained")
    print(f"{positions(sizes, load)} positions per record, {load.batch} records per GPU and step")
    needed = memory(sizes, load, args.stage, args.gpus)
    show("GPU memory, without what the allocator and the libraries take (leave a tenth free)", needed, 1e9, "GB    ")
    print(f"  {gpu_memory:10.2f} GB      {args.gpu} has")
    work = operations(sizes, load, args.stage)
    show("Operations per record", work, 1e12, "TFLOP ")
    seconds = sum(work.values()) * records * args.epochs / (args.gpus * tflops * 1e12 * args.utilisation)
    print(f"\nHours: {sum(work.values()) / 1e12:.2f} TFLOP x {records} records x {args.epochs:g} epochs")
    print(f"  / ({args.gpus} GPUs x {tflops} TFLOPS x {args.utilisation:g} of the peak, assumed) / 3600")
    print(f"  = {seconds / 3600:.1f} hours")
    show("Disk", disk(sizes, load), 1e9, "GB    ", total=False)


if __name__ == "__main__":
    main()
