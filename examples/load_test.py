"""Load test of `safevlm serve`: many clients send good and broken requests, and every answer is checked.

    python examples/load_test.py --model runs/demo/stage2 --minutes 10

What is right is known beforehand: the library answers every good request itself, one by one, and the server must say
the same. Only pictures are used whose answer under the policy differs from the unconditioned one, so that an answer
without its condition is recognised. At the end the server is killed under load and started again. Exit code 1:
something was wrong, lost or growing. It starts its own server, on the loopback address, and needs the extra `serve`.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil
from PIL import Image

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor, read_audit
from safevlm_hf.asking import encode, generate
from safevlm_hf.data.records import load_image
from safevlm_hf.data.riskcards import write_riskcards


try:
    import httpx2 as httpx  # what newer versions of openai bring
except ImportError:
    import httpx


POLICY = {"actions": {"*": {"high": "refuse"}}}
CHAT, MODERATION = "/v1/chat/completions", "/v1/moderations"
TEXTS = ["Hello", "What is a red card?", "Please read <image> </s> to me."]
GROWTH = 1.1  # the last quarter's memory may be this many times the second quarter's
GOOD_SHARE = 0.65
SECONDS_TO_KILL = 10


@dataclass
class Case:
    """A request, and what must come back."""

    kind: str
    path: str
    body: dict | bytes
    status: int = 200
    said: str | None = None
    verdict: dict | None = None


# --------------------------------------------------------------------------------------------------
# The requests, and what is right
# --------------------------------------------------------------------------------------------------


def good_cases(model_name: str, folder: Path, num_cards: int) -> list[Case]:
    model = SafeLlavaForConditionalGeneration.from_pretrained(model_name, dtype="auto").eval()
    processor = SafeLlavaProcessor.from_pretrained(model_name)
    cases = []
    for line in write_riskcards(folder, "test", num_cards).read_text().splitlines():
        cases += card_cases(model, processor, folder, json.loads(line))
    for text in TEXTS:
        said = answer(model, processor, [{"type": "text", "text": text}])
        cases.append(Case("text", CHAT, chat({"type": "text", "text": text}), said=said))
    return cases


def card_cases(model, processor, folder: Path, record: dict) -> list[Case]:
    path = folder / record["image"]
    text = {"type": "text", "text": record["conversations"][0]["value"].replace("<image>", "").strip()}
    content = [{"type": "image", "image": load_image(str(path))}, text]
    said = answer(model, processor, content)
    (verdict,) = processor.post_process_safety(model.assess(**prepare(model, processor, content)))
    if verdict.action != "answer" and said == answer(model, processor, content, {"enabled": False}):
        return []  # its condition cannot be seen
    kind = {"answer": "safe", "condition": "conditioned", "refuse": "refused"}[verdict.action]
    part = image_part(path.read_bytes(), "jpeg")
    judged = {"flagged": bool(verdict.flagged_categories), "level": verdict.level, "action": verdict.action}
    return [
        Case(f"{kind}, whole", CHAT, chat(part, text), said=said),
        Case(f"{kind}, streamed", CHAT, chat(part, text, stream=True), said=said),
        Case(f"{kind}, left early", CHAT, chat(part, text, stream=True), said=said),
        Case("moderation", MODERATION, {"input": [part, text]}, verdict=judged),
    ]


def prepare(model, processor, content):
    model.generation_config.safety_policy = POLICY
    return encode(processor, [[{"role": "user", "content": content}]]).to(model.device, model.dtype)


def answer(model, processor, content, policy=None) -> str:
    options = {"safety_policy": policy, "tokenizer": processor.tokenizer, "do_sample": False}
    ((text,), _) = generate(model, processor, prepare(model, processor, content), **options)
    return text


def chat(*parts, **fields) -> dict:
    return {"messages": [{"role": "user", "content": list(parts)}], **fields}


def image_part(data: bytes, form: str = "png") -> dict:
    return url_part(f"data:image/{form};base64,{base64.b64encode(data).decode()}")


def url_part(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def broken_cases() -> list[Case]:
    noise = png(Image.effect_noise((200, 200), 50).convert("RGB"))
    pictures = {
        "address": url_part("http://127.0.0.1:9/a.png"),
        "file": url_part(__file__),
        "no base64": url_part("data:image/png;base64,!!!"),
        "no picture": image_part(b"hello"),
        "cut off": image_part(noise[: len(noise) // 2]),
        "too many pixels": image_part(png(Image.new("1", (9000, 9000)))),
    }
    cases = [
        Case(f"broken: {name}", path, body, status=400)
        for name, part in pictures.items()
        for path, body in ((CHAT, chat(part)), (CHAT, chat(part, stream=True)), (MODERATION, {"input": [part]}))
    ]
    whole = image_part(noise)
    fields = {
        "safety_policy": {"enabled": False},
        "generation_config": json.dumps({"safety_policy": {"enabled": False}}),
        "chat_template_kwargs": {"chat_template": "x"},
    }
    cases += [Case(f"broken: {name}", CHAT, chat(whole, **{name: value}), 400) for name, value in fields.items()]
    cases += [
        Case("broken: model", CHAT, chat(whole, model="gpt-4o"), 404),
        Case("broken: model", MODERATION, {"input": [whole], "model": "gpt-4o"}, 404),
        Case("broken: no image", MODERATION, {"input": "Hello"}, 400),
        Case("broken: no JSON", CHAT, b"{", 400),
        Case("broken: too long", CHAT, chat({"type": "text", "text": "word " * 20_000}), 400),
        Case("broken: too large", CHAT, b" " * (17 * 2**20), 413),
    ]
    return cases


# --------------------------------------------------------------------------------------------------
# Clients
# --------------------------------------------------------------------------------------------------


class Clients:
    def __init__(self, good: list[Case], broken: list[Case], seed: int):
        self.good, self.broken, self.random = by_kind(good), by_kind(broken), random.Random(seed)
        self.times = defaultdict(list)
        self.counts = Counter()
        self.problems = []

    def draw(self) -> Case:
        kinds = self.good if self.random.random() < GOOD_SHARE else self.broken
        return self.random.choice(self.random.choice(list(kinds.values())))

    async def run(self, url: str, clients: int, end: float):
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
            await asyncio.gather(*(self.run_one(client, end) for _ in range(clients)))

    async def run_one(self, client, end: float):
        while time.monotonic() < end:
            await self.check(client, self.draw())

    async def check(self, client, case: Case):
        start = time.monotonic()
        self.counts[case.kind] += 1
        try:
            problem = await send(client, case)
        except Exception as error:
            problem = f"lost: {error!r}"
        self.times[case.kind].append(time.monotonic() - start)
        if problem:
            self.problems.append(f"{case.kind}: {problem}")


def by_kind(cases: list[Case]) -> dict[str, list[Case]]:
    kinds = defaultdict(list)
    for case in cases:
        kinds[case.kind].append(case)
    return kinds


async def send(client, case: Case) -> str | None:
    """What was wrong with the answer."""
    content = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    options = {"content": content, "headers": {"content-type": "application/json"}}
    if case.status == 200 and isinstance(case.body, dict) and case.body.get("stream"):
        async with client.stream("POST", case.path, **options) as response:
            return await check_stream(response, case)
    response = await client.post(case.path, **options)
    if response.status_code != case.status:
        return f"status {response.status_code}, not {case.status}: {response.text[:200]}"
    if case.status != 200:
        is_error = response.json().get("error", {}).get("code") == case.status and "flagged" not in response.text
        return None if is_error else f"no error: {response.text[:200]}"
    if case.verdict is not None:
        (result,) = response.json()["results"]
        found = {name: result[name] for name in case.verdict}
        return None if found == case.verdict else f"judged {found}, not {case.verdict}"
    return compare(response.json()["choices"][0]["message"]["content"], case.said)


async def check_stream(response, case: Case) -> str | None:
    if response.status_code != 200:
        return f"status {response.status_code}: {(await response.aread())[:200]}"
    said = ""
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            return compare(said, case.said)
        if line:
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                return f"error in the stream: {chunk}"
            said += chunk["choices"][0]["delta"].get("content") or ""
        if "left early" in case.kind and said:
            return None if case.said.startswith(said) else compare(said, case.said)
    return "the stream has no end"


def compare(said: str, right: str) -> str | None:
    return None if said == right else f"said {said!r}, not {right!r}"


# --------------------------------------------------------------------------------------------------
# The server
# --------------------------------------------------------------------------------------------------


class Server:
    def __init__(self, model: str, policy: Path, audit: Path, log: Path):
        arguments = ["--model", model, "--port", "0", "--policy", str(policy), "--audit", str(audit), "--moderations"]
        start = time.monotonic()
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "safevlm_hf", "serve", *arguments], stdout=subprocess.PIPE, stderr=file
            )
        self.url = self.process.stdout.readline().decode().split()[-1]
        self.start_seconds = time.monotonic() - start
        self.samples = []

    async def watch(self):
        process = psutil.Process(self.process.pid)
        while True:
            self.samples.append((process.memory_info().rss / 2**20, process.num_threads(), process.num_fds()))
            await asyncio.sleep(1)

    def stop(self, number: int):
        self.process.send_signal(number)
        self.process.wait()
        self.process.stdout.close()


async def load(server: Server, clients: Clients, number: int, seconds: float):
    watching = asyncio.create_task(server.watch())
    await clients.run(server.url, number, time.monotonic() + seconds)
    watching.cancel()


async def kill_under_load(server: Server, clients: Clients, number: int):
    """What is under way is cut off; what had been said until then must be right."""
    running = asyncio.create_task(clients.run(server.url, number, time.monotonic() + SECONDS_TO_KILL))
    await asyncio.sleep(SECONDS_TO_KILL)
    server.stop(signal.SIGKILL)
    await running


async def once_each(server: Server, clients: Clients):
    async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:
        for cases in (*clients.good.values(), *clients.broken.values()):
            for case in cases:
                await clients.check(client, case)


# --------------------------------------------------------------------------------------------------
# The report
# --------------------------------------------------------------------------------------------------


def print_table(clients: Clients, seconds: float):
    print("| request | sent | median (s) | 95 % (s) | longest (s) |\n|---|---|---|---|---|")
    for kind, times in sorted(clients.times.items()):
        times = sorted(times)
        late = times[int(0.95 * (len(times) - 1))]
        print(f"| {kind} | {len(times)} | {statistics.median(times):.2f} | {late:.2f} | {times[-1]:.2f} |")
    total = sum(clients.counts.values())
    print(f"| all | {total} ({total / seconds:.1f} a second) | | | |\n")


def quarters(samples: list[tuple]) -> list[list[float]]:
    """Medians of memory, threads and open files in each quarter of the run."""
    size = max(1, len(samples) // 4)
    parts = [samples[start * size : (start + 1) * size] or samples[-1:] for start in range(4)]
    return [[statistics.median(column) for column in zip(*part)] for part in parts]


def memory_problem(samples: list[tuple]) -> str | None:
    by_quarter = quarters(samples)
    print("| server, median of each quarter | 1 | 2 | 3 | 4 |\n|---|---|---|---|---|")
    for name, values in zip(("memory (MiB)", "threads", "open files"), zip(*by_quarter)):
        print(f"| {name} | " + " | ".join(f"{value:.0f}" for value in values) + " |")
    print(f"\nmemory: {samples[0][0]:.0f} MiB at first, {max(sample[0] for sample in samples):.0f} MiB at most")
    grown = by_quarter[3][0] / by_quarter[1][0]
    return f"memory grew {grown:.2f} times" if grown > GROWTH else None


def audit_problem(lines: list[dict], clients: Clients) -> str | None:
    """Every answer has its line; one that was left early may have none."""
    answered = sum(
        number for kind, number in clients.counts.items() if kind.endswith((", whole", ", streamed", "text"))
    )
    left = sum(number for kind, number in clients.counts.items() if "left early" in kind)
    print(f"audit: {len(lines)} lines for {answered} answers, and {left} that were left early")
    return None if answered <= len(lines) <= answered + left else "the audit trail does not fit the answers"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/stage2", help="A trained checkpoint that knows RiskCards.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--cards", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        sys.exit(run(arguments, Path(folder)))


def run(arguments, folder: Path) -> int:
    good, broken = good_cases(arguments.model, folder / "cards", arguments.cards), broken_cases()
    print(f"{len(good)} good and {len(broken)} broken requests: {dict(Counter(case.kind for case in good))}")
    if not {"refused, whole", "conditioned, whole", "safe, whole"} <= {case.kind for case in good}:
        raise SystemExit("The checkpoint refuses, conditions or answers none of the cards: draw more (`--cards`).")
    policy, audit, log = folder / "policy.json", folder / "audit.jsonl", folder / "server.log"
    policy.write_text(json.dumps(POLICY))

    server = Server(arguments.model, policy, audit, log)
    print(f"started in {server.start_seconds:.1f} s", flush=True)
    clients, start = Clients(good, broken, arguments.seed), time.monotonic()
    asyncio.run(load(server, clients, arguments.clients, 60 * arguments.minutes))
    print_table(clients, time.monotonic() - start)
    problems = clients.problems + [memory_problem(server.samples), audit_problem(read_audit(audit)[0], clients)]

    killed = Clients(good, broken, arguments.seed + 1)
    asyncio.run(kill_under_load(server, killed, arguments.clients))
    cut_off = [problem for problem in killed.problems if "lost: " in problem or "no end" in problem]
    problems += [problem for problem in killed.problems if problem not in cut_off]
    again, server = Clients(good, broken, 0), Server(arguments.model, policy, audit, log)
    asyncio.run(once_each(server, again))
    server.stop(signal.SIGTERM)
    print(
        f"killed under load, {len(cut_off)} requests cut off; started again in {server.start_seconds:.1f} s; then ",
        end="",
    )
    print(
        f"{sum(again.counts.values()) - len(again.problems)} of {sum(again.counts.values())} requests answered right"
    )
    print(f"audit: {read_audit(audit)[1]} lines cut off")

    problems = [problem for problem in problems + again.problems if problem]
    print(f"problems: {len(problems)}", *problems[:20], sep="\n")
    if problems:
        print(os.linesep.join(log.read_text(errors="replace").splitlines()[-30:]))
    return 1 if problems else 0


if __name__ == "__main__":
    main()
