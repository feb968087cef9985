# Not the official image, and not ClickHouse's server: its engine as a library behind testenv's own HTTP server,
# without users, roles and replication.
ARG BASE
FROM $BASE
COPY part/package/libchdb.so /opt/engine/libchdb.so
COPY testenv-helper /opt/engine/testenv-helper
EXPOSE 8123
CMD ["/opt/engine/testenv-helper", "testenv", "engine", "--path", "/var/lib/clickhouse", "--port", "8123", \
     "--library", "/opt/engine/libchdb.so", "--listen", "0.0.0.0"]
