# Stands in for envoyproxy/envoy where no registry is reached: the same program under the same path and user id.
FROM debian:trixie-slim
RUN useradd --uid 101 --no-create-home --shell /usr/sbin/nologin envoy
COPY --from=binaries /envoy /usr/local/bin/envoy
