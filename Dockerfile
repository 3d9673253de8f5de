# `safevlm serve` in a container: no root, no weights, no key. docs/operations.md says how it is run.
#
#     docker build -t safevlm-serve .
#     docker build -t safevlm-serve --build-arg TORCH_INDEX=https://pypi.org/simple .  # torch with CUDA

FROM python:3.12-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
RUN python -m venv /opt/safevlm
ENV PATH=/opt/safevlm/bin:$PATH
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir '.[serve]'

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home safevlm && install --directory --owner safevlm /audit
COPY --from=build /opt/safevlm /opt/safevlm
ENV PATH=/opt/safevlm/bin:$PATH PYTHONUNBUFFERED=1
# By number, so that Kubernetes can tell that it is not root.
USER 10001
WORKDIR /home/safevlm
EXPOSE 8000 9464
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["safevlm", "serve", "--host", "0.0.0.0", "--metrics-host", "0.0.0.0", "--metrics-port", "9464"]
CMD ["--model", "/model"]
