# What encodes, trains and generates: the whole project with torch, for a worker of a GPU pool.
#
#   docker build --file infra/worker.Dockerfile --tag cogvx-worker:0.1.0 .
#
# The pool `cpu` needs no CUDA; its image is the same with another base and torch's CPU build:
#
#   docker build --file infra/worker.Dockerfile --tag cogvx-worker-cpu:0.1.0 \
#       --build-arg BASE=ubuntu:24.04 --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .

# Only CUDA's driver interface comes from the base: torch's wheels bring the libraries they were
# built with, so that a `runtime` base would hold a second, unused copy of 2 GB.
ARG BASE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ubuntu:24.04 AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/cogvx
ENV PATH=/opt/cogvx/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# What changes seldom comes first: a change of code alone builds in seconds.
COPY requirements.lock pyproject.toml ./
COPY infra/runtime.py infra/
ARG TORCH_INDEX=
RUN --mount=type=cache,target=/root/.cache/pip \
    python infra/runtime.py pyproject.toml > runtime.txt \
    && pip install --no-compile --only-binary :all: ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        --constraint requirements.lock --requirement runtime.txt setuptools
COPY README.md ./
COPY cogvx cogvx
COPY tasks tasks
COPY flows flows
COPY deployments deployments
# Compiled here, as the user who runs it may not write there: without, each start takes twice as long.
# Packages may have a file for another Python; that one alone is left.
RUN pip install --no-cache-dir --no-compile --no-deps --no-build-isolation . \
    && (python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/cogvx/lib || true)

FROM ${BASE}
# A C compiler is no mistake here: triton compiles a launcher for each kernel when a trainer compiles
# (`compute.preset = "fast"`), and without one that run fails on a GPU.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12 python3.12-dev gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 cogvx \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/cogvx --create-home cogvx
COPY --from=build /opt/cogvx /opt/cogvx
COPY infra/entrypoint.sh /usr/local/bin/entrypoint
ENV PATH=/opt/cogvx/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    COGVX_HOME=/var/lib/cogvx \
    HF_HOME=/var/lib/cogvx/models \
    PREFECT_HOME=/var/lib/cogvx/prefect \
    PREFECT_WORKER_WEBSERVER_HOST=127.0.0.1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /var/lib/cogvx
VOLUME /var/lib/cogvx
# Of a worker started with --with-healthcheck: 503 when it has not asked the server for a while.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
ENTRYPOINT ["/usr/local/bin/entrypoint"]
CMD ["prefect", "worker", "start", "--help"]
