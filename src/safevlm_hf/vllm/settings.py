"""Settings that the engine must have for a safe model, and the policy that it serves."""

import os
from dataclasses import dataclass

from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.transformers_utils.processor import cached_processor_from_config

from ..checkpoints.families import BY_MODEL_TYPE
from ..modeling.generation_safety import AUDIT_VARIABLE
from ..modeling.operator_policy import enforced_policy
from ..modeling.safety_checkpoint import stored_policy, warn_of_changes
from ..modeling.safety_policy import SafetyPolicy
from ..operator_prompt import read_system_prompt, system_message
from . import RENDERER


POLICY_VARIABLE = "SAFEVLM_POLICY"  # environment variable: the operator's policy, a JSON file
PROMPT_VARIABLE = "SAFEVLM_SYSTEM_PROMPT"  # the operator's words, or a file that holds them
TRUST_VARIABLE = "SAFEVLM_TRUST_CLIENT_ROLES"  # 1 believes clients about who said what
RUNNER_VARIABLE = "VLLM_USE_V2_MODEL_RUNNER"


def read_policy(model_config) -> SafetyPolicy:
    """Return the checkpoint's policy (`generation_config.json`), overridden by the operator's. Never a request's.

    Raises `ValueError` where either cannot be read or does not fit the model, or the checkpoint's could silence what
    the operator's refuses."""
    safety_config = model_config.hf_config.safety_config
    kept = stored_policy(model_config.model, revision=model_config.revision)
    # The config keeps a copy, in case that file is lost.
    kept = getattr(model_config.hf_config, "safety_policy", None) if kept is None else kept
    try:
        policy = SafetyPolicy.create(kept, safety_config)
    except ValueError as error:
        raise ValueError(f"{model_config.model} holds a safety policy that cannot be used: {error}") from None
    path = os.environ.get(POLICY_VARIABLE)
    return enforced_policy(policy, SafetyPolicy.from_file(path, safety_config), safety_config) if path else policy


@dataclass(frozen=True)
class Operator:
    """Words of the operator in front of every conversation, and whether the roles that clients write are trusted."""

    messages: list[dict]
    trusts_client_roles: bool


def read_operator(model_config) -> Operator:
    """Return the operator's part in every prompt. Raises `ValueError` where a variable cannot be used."""
    given, trust = os.environ.get(PROMPT_VARIABLE), os.environ.get(TRUST_VARIABLE, "0")
    if trust not in ("", "0", "1"):
        raise ValueError(f"The variable {TRUST_VARIABLE} must be 0 or 1, got {trust!r}.")
    processor = cached_processor_from_config(model_config)
    messages = [system_message(processor, read_system_prompt(given))] if given is not None else []
    return Operator(messages, trust == "1")


class SafeSettings(VerifyAndUpdateConfig):
    """Checks that the engine calls before it starts: whatever cannot be honoured raises here."""

    @staticmethod
    def verify_and_update_model_config(model_config):
        if model_config.tokenizer_mode not in ("auto", "hf", RENDERER):
            mode = model_config.tokenizer_mode
            raise ValueError(f"A safe model needs its own prompts, got --tokenizer-mode {mode}.")
        model_config.tokenizer_mode = RENDERER
        multimodal = model_config.multimodal_config
        _refuse(
            {
                "--runner": model_config.runner_type != "generate",
                "--enable-prompt-embeds": model_config.enable_prompt_embeds,
                "--enable-mm-embeds": multimodal.enable_mm_embeds,
                "--mm-processor-kwargs": multimodal.mm_processor_kwargs,
                f"the variable {AUDIT_VARIABLE}": os.environ.get(AUDIT_VARIABLE),
            },
            "images would be answered without a verdict, with one on other pixels, or without an audit trail",
        )
        stored = stored_policy(model_config.model, revision=model_config.revision)
        warn_of_changes(model_config.model, model_config.hf_config, stored)
        if not read_policy(model_config).refuses(model_config.hf_config.safety_config):
            return
        # Whoever can read what the model would have said can put the answer together by itself.
        model_config.logprobs_mode = "processed_logprobs"
        model_config.logits_processors = [
            *(model_config.logits_processors or []),
            f"{__package__}.refusals:EngineRefusal",
        ]
        if os.environ.setdefault(RUNNER_VARIABLE, "0") != "0":
            raise ValueError(f"A policy that refuses needs the engine's first model runner: set {RUNNER_VARIABLE}=0.")

    @staticmethod
    def verify_and_update_config(vllm_config):
        if not read_policy(vllm_config.model_config).refuses(vllm_config.model_config.hf_config.safety_config):
            return
        _refuse(
            {
                "--speculative-config": vllm_config.speculative_config,
                "--pipeline-parallel-size": vllm_config.parallel_config.pipeline_parallel_size > 1,
                "--kv-transfer-config": vllm_config.kv_transfer_config,
                "--ec-transfer-config": vllm_config.ec_transfer_config,
            },
            "the process that samples would not know the verdict, and the policy refuses",
        )


class UnservedSettings(VerifyAndUpdateConfig):
    """Checks for a family that the plugin does not serve: the engine would judge its images without their question."""

    @staticmethod
    def verify_and_update_model_config(model_config):
        family = BY_MODEL_TYPE[model_config.hf_config.model_type]
        raise ValueError(
            f"{family.model.__name__} cannot be served with vLLM yet: {family.base_model.vllm_gap}. "
            "`safevlm serve` serves it."
        )


def _refuse(options: dict, reason: str):
    used = [name for name, value in options.items() if value]
    if used:
        raise ValueError(f"A safe model cannot be served with {', '.join(used)}: {reason}.")
