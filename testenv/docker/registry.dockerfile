# Not the official image: the same release of Apicurio Registry, with its state in memory.
ARG BASE
FROM $BASE
COPY part /opt/registry
ENV QUARKUS_HTTP_HOST=0.0.0.0 QUARKUS_HTTP_PORT=8080
EXPOSE 8080
CMD exec java -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -jar /opt/registry/*-runner.jar
