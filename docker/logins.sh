#!/bin/sh
# Creates the login roles of the API and the workers. The image of PostgreSQL runs it once, when it creates the database.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$POSTGRES_PASSWORD" --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'SQL'
create role treadle_app nologin;
create role treadle_worker nologin;
create role treadle_tenant nologin;
create role api_login login password :'password' in role treadle_app;
create role worker_login login password :'password' in role treadle_worker;
SQL
