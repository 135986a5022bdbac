# syntax=docker/dockerfile:1
# Targets: `cpu` (default, complete: worker and test mode) and `cuda` (the same worker on CUDA's runtime libraries, for the
# engine with models). docker build --target cpu -t marquee .

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
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

FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS cuda
COPY --from=runtime-files /usr/share/fonts /usr/share/fonts
COPY --from=runtime-files /etc/ssl/certs /etc/ssl/certs
COPY --from=runtime-files /usr/share/ca-certificates /usr/share/ca-certificates
COPY --from=build /usr/local/bin/marquee /usr/local/bin/marquee
COPY examples /usr/share/marquee/examples
RUN useradd --create-home --uid 10001 marquee
USER 10001
WORKDIR /home/marquee
STOPSIGNAL SIGTERM
ENTRYPOINT ["marquee"]

FROM cpu
