"""The app, and the process that serves it."""

import copy
import inspect
import ipaddress
import logging
import socket
import sys

import uvicorn
from fastapi import FastAPI, Request
from prometheus_client import start_http_server
from transformers.cli.serving.server import build_server

from ..checkpoints.families import SafeModel, SafeProcessor
from ..modeling.model_card import describe_scope
from ..modeling.operator_policy import enforced_policy
from ..modeling.safety_audit import SafetyAudit
from ..modeling.safety_policy import SafetyNames, SafetyPolicy
from ..modeling.safety_refusals import all_refusal_ids
from ..version import __version__
from .chat import SafeChatHandler
from .errors import HANDLERS
from .keys import KEY_VARIABLE, ApiKeys
from .metrics import Metrics
from .middleware import AskForKey, LetClientRead, LimitBody, Watch
from .moderation import moderate, refuse_moderation
from .protocol import PromptProtocol
from .routes import CHAT, HEALTH, MODELS, MODERATIONS, VERSION
from .served_model import ServedModel
from .settings import Limits, Settings


KEPT = (CHAT, MODELS, HEALTH)  # of transformers' routes; its others load and unload models
GRACE = 30  # seconds that open requests have when the server is asked to stop

logger = logging.getLogger("uvicorn.error")


def create_app(
    model: SafeModel,
    processor: SafeProcessor,
    name: str,
    policy: SafetyPolicy | dict | None = None,
    limits: Limits | None = None,
    **settings,
) -> FastAPI:
    """
    Build the server's app.

    Args:
        model: a trained checkpoint; its policy becomes the one that is served.
        name: of the model, in requests and answers.
        policy: overrides the checkpoint's own. No request can change it.
        limits: the default ones if unset.
        settings: those of [`Settings`].

    Returns:
        The app; `app.state.metrics` has its metrics, and `app.state.settings` the settings.

    Raises:
        `ValueError`: for an untrained head, a policy that does not fit, a checkpoint's policy that could silence what
            `policy` refuses, a refusal with special tokens, settings that contradict each other, or a system prompt
            that the template does not take.
    """
    if not model.config.safety_config.is_trained:
        raise ValueError(f"{name} has an untrained safety head, its verdicts mean nothing: `safevlm train` first.")
    config: SafetyNames = model.config.safety_config
    limits, kept_settings = limits or Limits(), Settings(**settings)
    in_force = enforced_policy(model.kept_policy(), policy, config)
    if in_force.refuses(config):
        # A refusal that cannot be encoded fails now, and not at the first picture that it is for.
        all_refusal_ids(processor.tokenizer, in_force, config.categories)
    # A generation config takes any name.
    model.generation_config.safety_policy = in_force.to_dict()  # type: ignore[attr-defined]
    served = ServedModel(model.eval(), processor, name, limits, kept_settings)
    metrics = Metrics(name, in_force.digest(), kept_settings.shadow)
    metrics.count_from_zero(config.categories, kept_settings.moderations)

    app = _build_app(served, metrics)
    app.state.metrics, app.state.settings = metrics, kept_settings
    # Starlette calls the one that was added last first.
    app.add_middleware(LimitBody, limit=limits.body, limit_together=limits.bodies)
    app.add_middleware(AskForKey, keys=ApiKeys(kept_settings.api_keys))
    app.add_middleware(Watch, metrics=metrics, access_log=kept_settings.access_log)
    app.add_middleware(LetClientRead)
    for error, handler in HANDLERS.items():
        app.add_exception_handler(error, handler)
    return app


def _build_app(served: ServedModel, metrics: Metrics) -> FastAPI:
    """Build transformers' app around the model, with `KEPT` of its routes and ours."""
    given: dict[str, object] = {
        "model_manager": served,  # in place of transformers' own
        "chat_handler": SafeChatHandler(served, metrics),
        "generation_state": served.generation_state,
        "enable_cors": False,
    }
    # Releases of transformers differ in the handlers that they take. Those of routes that go here may be `None`.
    others = dict.fromkeys(inspect.signature(build_server).parameters)
    app = build_server(**{**others, **given})  # type: ignore[arg-type]
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in KEPT]

    @app.get(VERSION)
    async def version():
        return {"version": __version__}

    @app.get(MODELS + "/{name:path}")  # a name may be a path, with slashes
    async def retrieve_model(name: str):
        served.check_name(name)
        (model,) = served.list_models()
        return model

    if not served.settings.moderations:
        app.post(MODERATIONS)(refuse_moderation)
    else:

        @app.post(MODERATIONS)
        async def moderations(request: Request, body: dict):
            return await moderate(served, metrics, body, request.state.request_id)

    return app


def serve(
    model: SafeModel,
    processor: SafeProcessor,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    policy: SafetyPolicy | dict | None = None,
    limits: Limits | None = None,
    metrics_host: str = "127.0.0.1",
    metrics_port: int | None = None,
    **settings,
):
    """
    Serve until interrupted.

    Args:
        model, processor, name, policy, limits, settings: as for [`create_app`].
        port: 0 takes a free one.
        metrics_host, metrics_port: a second address, for Prometheus alone; none by default. Clients must not reach it:
            whoever reads the counts before and after a request knows the verdict on it.

    Raises:
        `OSError`: where a port is taken, or the audit cannot be written.
    """
    limits = limits or Limits()
    app = create_app(model, processor, name, policy, limits, **settings)
    if app.state.settings.audit_path is not None:
        SafetyAudit(app.state.settings.audit_path).append([])  # fails now, and ends a line that a killed server left
    # By itself `create_server` takes a host for IPv4.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    log_config = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    log_config["formatters"]["default"]["fmt"] = "%(asctime)s %(levelprefix)s %(message)s"
    with socket.create_server((host, port), family=family) as listener:
        print(describe_scope(model.config.training_record), file=sys.stderr, flush=True)
        print(f"{name} on {_url(host, listener.getsockname()[1])}", flush=True)
        if metrics_port is not None:
            server, _ = start_http_server(metrics_port, metrics_host, app.state.metrics.registry)
            print(f"metrics on {_url(metrics_host, server.server_port)}/metrics", flush=True)
        config = uvicorn.Config(
            app,
            limit_concurrency=limits.connections + 1,  # uvicorn turns away the one that reaches it
            http=PromptProtocol,
            ws="none",  # there is none here, and uvicorn would not count its connections
            timeout_graceful_shutdown=GRACE,
            access_log=False,  # `Watch` has one that holds nothing of a client's own
            log_config=log_config,
        )
        for warning in startup_warnings(app.state.settings, host, model.policy_in_force(None)):
            logger.warning(warning)
        uvicorn.Server(config).run(sockets=[listener])


def startup_warnings(settings: Settings, host: str, policy: SafetyPolicy) -> list[str]:
    """Return what an operator must not overlook when the server starts."""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"  # any other name may lead to the network
    lax = [] if policy.enabled is False else policy.lax_settings()
    cases = {
        "SHADOW MODE: verdicts go to the audit, and EVERY PICTURE IS ANSWERED, whatever the policy decides.": (
            settings.shadow
        ),
        "THE POLICY IS DISABLED (`enabled`: false): every picture is answered.": policy.enabled is False,
        f"With this policy the verdict does less than with the default one: {', '.join(lax)}.": bool(lax),
        "Verdicts are exposed to clients (--expose-verdict): whoever reads them can search for a way around them.": (
            settings.expose_verdict
        ),
        "Every client can read verdicts at /v1/moderations (--moderations), and search for a way around them.": (
            settings.moderations
        ),
        "The audit has no line about moderations, which tell verdicts: --audit-moderations writes one for each.": (
            settings.moderations and settings.audit_path is not None and not settings.audit_moderations
        ),
        f"Open to everybody who reaches {host}: there is no API key (--api-key-file, or {KEY_VARIABLE}).": (
            not settings.api_keys and not is_loopback
        ),
    }
    return [warning for warning, is_so in cases.items() if is_so]


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
