"""`safevlm init`: make an untrained safe checkpoint from a stock one."""

from pathlib import Path
from typing import Annotated

import typer

from .app import app


NEVER_REPLACED = "name a new or empty folder"


Base = Annotated[
    str,
    typer.Argument(
        help="A stock checkpoint of a supported backbone: folder or Hub id. With --language-model a new folder, "
        "for the LLaVA that is put together."
    ),
]
Output = Annotated[Path, typer.Argument(help="Folder of the new checkpoint.")]
Taxonomy = Annotated[Path | None, typer.Option(help="YAML or JSON with `categories` and `levels` of your own.")]
NumSafetyTokens = Annotated[
    int | None, typer.Option(help="Vectors in each of the two sets; 64 if unset, 16 where images are short.")
]
NumConditionTokens = Annotated[
    int | None, typer.Option(help="Positions of the safety condition; 16 if unset, 8 where images are short.")
]
LanguageModel = Annotated[str | None, typer.Option(help="A language model with a chat template: folder or Hub id.")]
GgufFile = Annotated[str | None, typer.Option(help="Its GGUF file, where its weights are in one.")]
VisionTower = Annotated[
    str | None, typer.Option(help="A CLIP or SigLIP model, or a LLaVA, for its tower: folder or Hub id.")
]


@app.command()
def init(
    base: Base,
    output: Output,
    taxonomy: Taxonomy = None,
    num_safety_tokens: NumSafetyTokens = None,
    num_condition_tokens: NumConditionTokens = None,
    language_model: LanguageModel = None,
    gguf_file: GgufFile = None,
    vision_tower: VisionTower = None,
):
    """
    Make an untrained safe checkpoint from a base one, or from a language model and a vision tower.

    Example: `safevlm init llava-hf/llava-1.5-7b-hf runs/untrained --taxonomy taxonomy.yaml`

    Example: `safevlm init runs/base runs/untrained --language-model HuggingFaceTB/SmolLM2-135M-Instruct
    --vision-tower openai/clip-vit-base-patch16`
    """
    from safevlm_hf.checkpoints.base_weights import check_weights_are_kept, find_weight_files
    from safevlm_hf.checkpoints.families import find_family
    from safevlm_hf.checkpoints.word_reader import new_reading, start_word_reader
    from safevlm_hf.data.taxonomy import read_taxonomy
    from safevlm_hf.files import check_apart, check_writable, refuse_to_overwrite
    from safevlm_hf.quiet import quiet

    check_apart({"OUTPUT": output}, {"BASE": Path(base)})
    refuse_to_overwrite(output, NEVER_REPLACED)
    check_writable(output, is_folder=True)
    # All of this is checked before the weights are read, which takes minutes.
    names = read_taxonomy(taxonomy)
    quiet()
    if language_model or vision_tower or gguf_file:
        _assemble(Path(base), language_model, gguf_file, vision_tower)
    from safevlm_hf.checkpoints.loading import read_config

    base_config = read_config(base)
    if base_config.safety_config.is_trained:
        raise ValueError(f"{base} has trained safety modules already: `safevlm train` goes on from there.")
    family = find_family(base)
    sizes = {"num_safety_tokens": num_safety_tokens, "num_condition_tokens": num_condition_tokens}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    config = family.config.from_base_config(base_config, **new_reading(sizes), **names)
    files = find_weight_files(base)
    model = family.model.from_pretrained(base, config=config, use_safetensors=True)
    check_weights_are_kept(base, files, model)
    processor = family.processor.from_pretrained(base, safety_config=config.safety_config)
    model.initialize_from_embeddings(processor.tokenizer)
    start_word_reader(model)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    print(f"{output}: an untrained safe checkpoint. Its verdicts mean nothing before `safevlm train`.")


def _assemble(base: Path, language_model: str | None, gguf_file: str | None, vision_tower: str | None):
    """Put a stock LLaVA together, in a folder of its own."""
    from safevlm_hf.checkpoints.assembly import assemble_llava
    from safevlm_hf.files import refuse_to_overwrite

    if not language_model or not vision_tower:
        raise ValueError("A LLaVA is put together from two: give `--language-model` and `--vision-tower`.")
    refuse_to_overwrite(base, NEVER_REPLACED)
    for part in assemble_llava(language_model, vision_tower, gguf_file):
        part.save_pretrained(base)
