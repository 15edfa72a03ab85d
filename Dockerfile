# The server with the ordinary torch from the index, which brings its own CUDA libraries: the host needs the NVIDIA
# driver and container toolkit alone.
FROM python:3.12-slim

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY proto proto
COPY client client
COPY server server
RUN pip install --no-cache-dir --constraint constraints/constraints.txt '.[server]' \
    && useradd --create-home easyanim

USER easyanim
# Weights are kept across containers where this is a volume.
ENV HF_HOME=/home/easyanim/.cache/huggingface
ENV EASYANIM_LISTEN=0.0.0.0:50051 EASYANIM_LOG_FORMAT=json
EXPOSE 50051
HEALTHCHECK --start-period=30m --interval=10s CMD ["easyanim-client", "health", "--address", "127.0.0.1:50051"]
ENTRYPOINT ["easyanim-server"]
CMD ["serve"]
