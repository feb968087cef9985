# Not the official image: the same jars, with the interface that testcontainers' Kafka module expects of it.
ARG BASE
FROM $BASE
COPY part/*.jar /opt/kafka/libs/
COPY kafka-run /etc/kafka/docker/run
