# What schedules and serves: Prefect's server, MLflow's server, `cogvx deploy`, and workers that start
# Kubernetes Jobs. No torch and no compiler: 1.1 GB of packages, most of them MLflow's, where the image
# of the pool `cpu` has 2.0 GB.
#
#   docker build --file infra/control.Dockerfile --tag cogvx-control:0.1.0 .

FROM ubuntu:24.04 AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/cogvx
ENV PATH=/opt/cogvx/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements.lock infra/images.lock infra/control.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-compile --only-binary :all: --constraint requirements.lock \
        --constraint images.lock --requirement control.txt setuptools
COPY pyproject.toml README.md ./
COPY cogvx cogvx
COPY tasks tasks
COPY flows flows
COPY deployments deployments
# --no-deps: what it would miss is what trains, which nobody does here.
RUN pip install --no-cache-dir --no-compile --no-deps --no-build-isolation . \
    && (python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/cogvx/lib || true)

FROM ubuntu:24.04
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 cogvx \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/cogvx --create-home cogvx
COPY --from=build /opt/cogvx /opt/cogvx
COPY infra/entrypoint.sh /usr/local/bin/entrypoint
COPY infra/make_bucket.py /opt/cogvx/share/make_bucket.py
ENV PATH=/opt/cogvx/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    COGVX_HOME=/var/lib/cogvx \
    PREFECT_HOME=/var/lib/cogvx/prefect
USER 10001:10001
WORKDIR /var/lib/cogvx
VOLUME /var/lib/cogvx
# No HEALTHCHECK: servers, one-shot commands and workers answer in different places, so compose.yaml
# and the manifests say where.
ENTRYPOINT ["/usr/local/bin/entrypoint"]
CMD ["cogvx", "--help"]
