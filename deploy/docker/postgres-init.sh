#!/bin/bash
# Run once by the postgres image, on an empty data folder: the service's own user and database, without any rights
# beyond them. The superuser can only be reached from inside this container.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set password="$(cat /run/secrets/postgres_password)" <<'SQL'
CREATE ROLE millrace LOGIN PASSWORD :'password';
CREATE DATABASE millrace OWNER millrace;
REVOKE ALL ON DATABASE millrace FROM PUBLIC;
SQL
