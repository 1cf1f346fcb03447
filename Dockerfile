# session-proxy in a container: one process, one volume (/data), no root, any user id.
#
#   docker build -t session-proxy .
#   docker run -p 8080:8080 -v session-data:/data --stop-timeout 40 session-proxy
#
# A config.yaml may be mounted at /app/config.yaml; the PROXY_* variables below win over it.

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /venv
COPY requirements.lock ./
RUN /venv/bin/pip install --no-cache-dir --only-binary=:all: --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
COPY bench ./bench
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist . \
    && /venv/bin/pip install --no-cache-dir --no-deps /dist/*.whl \
    && /venv/bin/pip uninstall --yes pip

FROM python:3.13-slim
# Group 0 owns /data and may write there: OpenShift runs images under a random user id of group 0.
RUN useradd --uid 10001 --gid 0 --no-create-home --home-dir /data --shell /usr/sbin/nologin proxy \
    && install --directory --owner=10001 --group=0 --mode=0775 /data
COPY --from=build /venv /venv
# Keys: each client brings its own upstream key (passthrough), so that nothing is open to the network.
ENV PATH=/venv/bin:$PATH \
    HOME=/data \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PROXY_SERVER__HOST=0.0.0.0 \
    PROXY_AUTH__MODE=passthrough \
    PROXY_STORAGE__URL=sqlite:////data/sessions.db
WORKDIR /app
USER 10001:0
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('PROXY_SERVER__PORT', '8080') + '/healthz', timeout=2)"]
ENTRYPOINT ["session-proxy"]
CMD ["serve"]
