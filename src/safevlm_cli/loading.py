"""The checkpoint that a command takes by default, and the messages that it asks."""

from .showing import make_console


DEFAULT_MODEL = "runs/demo/stage2"
SHIPPED = "the checkpoint of drawn cards that comes with this package"


def shipped_model() -> str:
    """Return the folder of the checkpoint that comes with the package, and say that it is taken."""
    from safevlm_hf.data import NANO_SAFE

    if not NANO_SAFE.is_dir():
        raise ValueError(
            "this installation comes without a checkpoint, as the server's image does: name one, `--model`."
        )
    make_console(stderr=True).print(f"Model: {SHIPPED}. `--model` names another.", soft_wrap=True)
    return str(NANO_SAFE)


def user_message(text: str, *pictures) -> dict:
    return {"role": "user", "content": [{"type": "image", "image": one} for one in pictures] + text_content(text)}


def text_content(text: str) -> list[dict]:
    return [{"type": "text", "text": text}]
