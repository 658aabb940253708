# A registry for the fleet, from Debian: `docker build -f deploy/docker/registry.Dockerfile -t fedlearn-registry
# deploy/docker`. For a network you trust: it speaks plain HTTP, on port 5000. Images lie in /var/lib/docker-registry.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends docker-registry ca-certificates \
 && rm -rf /var/lib/apt/lists/*
RUN printf '%s\n' 'version: 0.1' 'http: {addr: ":5000"}' \
      'storage: {filesystem: {rootdirectory: /var/lib/docker-registry}, delete: {enabled: true}}' \
      >/etc/docker/registry/config.yml
VOLUME /var/lib/docker-registry
EXPOSE 5000
ENTRYPOINT ["docker-registry"]
CMD ["serve", "/etc/docker/registry/config.yml"]
