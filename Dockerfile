# syntax=docker/dockerfile:1
# Targets: `cpu` (default: worker and test mode, 0.2 GB) and `cuda` (the worker with nets on CUDA's and cuDNN's run-time
# libraries, about 2 GB; the driver's own library comes from the container runtime). docker build --target cuda -t marquee .

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY src ./src
COPY handler_tests ./handler_tests
COPY examples ./examples
RUN cargo build --release --locked --bin marquee \
    && cp target/release/marquee /usr/local/bin/marquee

FROM debian:bookworm-slim AS runtime-files
# Fonts beyond the built-in one: Hangul in two weights, then kana and hanzi.
# hadolint ignore=DL3008 # Debian stable moves only for security fixes, which an image should get.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates fonts-nanum fonts-noto-cjk \
    && rm -rf /var/lib/apt/lists/*

FROM debian:bookworm-slim AS cpu
# Freed picture buffers stay with the process, some tens of megabytes: without these glibc gives each back to the kernel, and the
# page faults are a seventh of test mode's composition (examples/test_mode_profile.rs). Bytes.
ENV MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=536870912
COPY --from=runtime-files /etc/ssl/certs /etc/ssl/certs
COPY --from=runtime-files /usr/share/ca-certificates /usr/share/ca-certificates
COPY --from=runtime-files /usr/share/fonts /usr/share/fonts
COPY --from=build /usr/local/bin/marquee /usr/local/bin/marquee
COPY examples /usr/share/marquee/examples
RUN useradd --create-home --uid 10001 marquee
USER 10001
WORKDIR /home/marquee
STOPSIGNAL SIGTERM
ENTRYPOINT ["marquee"]

# No GPU and no system CUDA: the toolkit comes from PyPI wheels.
FROM rust:1.95-bookworm AS build-cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
ENV MARQUEE_CUDA_DIR=/opt/cuda
COPY scripts/setup_cuda.sh scripts/setup_cudnn.sh ./scripts/
RUN scripts/setup_cuda.sh >/dev/null && scripts/setup_cudnn.sh >/dev/null
# What the program opens at run time and nothing else of the toolkit.
RUN /opt/cuda/venv/bin/python -m pip install --no-cache-dir --no-deps --only-binary=:all: --target /opt/cudnn nvidia-cudnn-cu13==9.14.0.64 \
    && mkdir -p /opt/marquee/lib \
    && cp -L /opt/cuda/toolkit/lib64/libcublas.so.13 /opt/cuda/toolkit/lib64/libcublasLt.so.13 \
        /opt/cuda/toolkit/lib64/libcudart.so.13 /opt/cuda/toolkit/lib64/libcurand.so.10 /opt/marquee/lib/ \
    && cp /opt/cudnn/nvidia/cudnn/lib/libcudnn*.so.9 /opt/marquee/lib/
COPY Cargo.toml Cargo.lock build.rs ./
COPY src ./src
COPY handler_tests ./handler_tests
COPY examples ./examples
# 80: PTX that every newer card can compile for itself; the worker's own kernels are machine code for 80, 86, 89 and 90.
RUN eval "$(scripts/setup_cuda.sh 80)" && eval "$(scripts/setup_cudnn.sh)" \
    && cargo build --release --locked --features cuda --bin marquee \
    && cp target/release/marquee /usr/local/bin/marquee

FROM debian:bookworm-slim AS cuda
# The driver's libraries are mounted here by the NVIDIA container runtime.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility DEVICE=cuda
# As in `cpu`.
ENV MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=536870912
COPY --from=runtime-files /usr/share/fonts /usr/share/fonts
COPY --from=runtime-files /etc/ssl/certs /etc/ssl/certs
COPY --from=runtime-files /usr/share/ca-certificates /usr/share/ca-certificates
COPY --from=build-cuda /opt/marquee/lib /usr/local/lib/marquee
COPY --from=build-cuda /usr/local/bin/marquee /usr/local/bin/marquee
COPY examples /usr/share/marquee/examples
RUN echo /usr/local/lib/marquee >/etc/ld.so.conf.d/marquee.conf && ldconfig \
    && useradd --create-home --uid 10001 marquee
USER 10001
WORKDIR /home/marquee
STOPSIGNAL SIGTERM
ENTRYPOINT ["marquee"]

FROM cpu
