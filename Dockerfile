# The server for NVIDIA cards. The host needs the driver and the container toolkit; CUDA's libraries come with torch.
#
#   docker build -t easyanim .                        the server: no compiler, no pip
#   docker build -t easyanim:cpu --build-arg BASE=ubuntu:24.04 .    the server for a machine without a card
#   docker build -t easyanim:warm --target warm .     the same with a C compiler, to fill the compile cache
#
# Triton builds a small launcher for every new kernel with a C compiler. What `warm` builds is kept in the cache volume,
# where the server finds it; without it, the server says in GetServerInfo why it runs eagerly.
ARG BASE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${BASE} AS python
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home easyanim \
    && install -d -o easyanim -g easyanim /var/cache/easyanim
ENV PATH=/opt/easyanim/bin:$PATH
# Weights and compiled code outlive the container where this is a volume.
ENV HF_HOME=/var/cache/easyanim/huggingface EASYANIM_CACHE_DIR=/var/cache/easyanim/compiled
ENV EASYANIM_LISTEN=0.0.0.0:50051 EASYANIM_METRICS_LISTEN=0.0.0.0:9464 EASYANIM_LOG_FORMAT=json

FROM python AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv
RUN python3 -m venv /opt/easyanim
WORKDIR /src
COPY constraints constraints
COPY proto proto
COPY client client
COPY server server
RUN python -m pip install --no-cache-dir --constraint constraints/constraints.txt ./client './server[telemetry]' \
    && python -m pip uninstall --yes pip

FROM python AS warm
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc g++ libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/easyanim /opt/easyanim
USER easyanim
WORKDIR /home/easyanim
VOLUME /var/cache/easyanim
ENTRYPOINT ["easyanim-server"]
CMD ["warm"]

FROM python AS server
COPY --from=build /opt/easyanim /opt/easyanim
USER easyanim
WORKDIR /home/easyanim
VOLUME /var/cache/easyanim
EXPOSE 50051 9464
HEALTHCHECK --start-period=30m --interval=10s CMD ["python", "-m", "easyanim_server.rpc.probe"]
ENTRYPOINT ["easyanim-server"]
CMD ["serve"]
