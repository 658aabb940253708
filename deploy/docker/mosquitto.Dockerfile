# Mosquitto, from Debian: `docker build -f deploy/docker/mosquitto.Dockerfile -t fedlearn-mosquitto deploy/docker`.
# Its configuration comes from outside, at /etc/mosquitto/mosquitto.conf; what must survive lies in /var/lib/mosquitto.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends mosquitto mosquitto-clients \
 && rm -rf /var/lib/apt/lists/* /etc/mosquitto/conf.d/* \
 && chown mosquitto:mosquitto /var/lib/mosquitto
USER mosquitto
VOLUME /var/lib/mosquitto
EXPOSE 1883 8883
ENTRYPOINT ["mosquitto", "-c", "/etc/mosquitto/mosquitto.conf"]
